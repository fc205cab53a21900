from __future__ import annotations

from metasearch.core.registry import build
from metasearch.core.space import Choice, Float, Space
from metasearch.core.values import Phi


def ask(space, sizes, seed=0):
    searcher = build("searcher", "random")
    searcher.setup(Phi(), space, seed)
    return [choices for n in sizes for choices in searcher.ask(n)]


def test_proposals_do_not_depend_on_how_many_are_asked_for_at_once():
    space = Space({"a": Float(0, 1), "b": Choice(("x", "y"))})
    assert ask(space, [10]) == ask(space, [1] * 10) == ask(space, [3, 7])


def test_a_further_dimension_leaves_the_others_as_they_were():
    small = ask(Space({"a": Float(0, 1)}), [20])
    large = ask(Space({"new": Choice((1, 2)), "a": Float(0, 1)}), [20])
    assert [choices["a"] for choices in large] == [choices["a"] for choices in small]
    assert len({choices["a"] for choices in small}) == 20
