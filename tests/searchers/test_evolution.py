from __future__ import annotations

import math
import statistics

import pytest

from metasearch.core.registry import build
from metasearch.core.space import Choice, Float, Int, Space
from metasearch.core.values import Estimate, Evaluation, Failure, Phi, Proposal

SEPARABLE = Space({f"op{i}": Choice(tuple(range(6))) for i in range(8)})
MIXED = Space(
    {
        "rule": Choice(("sgd", "adam")),
        "rule.momentum": Float(0.0, 1.0, when={"rule": ("sgd",)}),
        "lr": Float(1e-5, 1.0, log=True),
        "depth": Int(1, 40),
    }
)


def separable(choices):
    return sum(abs(value - (3 * i) % 6) for i, value in enumerate(choices.values())) / 10


def mixed(choices):
    """Lowest, at 0, for SGD with momentum 0.9, lr 0.01 and 12 layers."""
    rule = 0.5 if choices["rule"] == "adam" else abs(choices["rule.momentum"] - 0.9)
    return rule + abs(math.log10(choices["lr"]) + 2) / 5 + abs(choices["depth"] - 12) / 40


def evaluated(number, choices, value):
    if value is None:
        failed = Estimate(math.nan, math.nan)
        return Evaluation(Proposal(number, 0, choices), "failed", failed, failure=Failure("user_error", "no"))
    status = "ok" if math.isfinite(value) else "diverged"
    return Evaluation(Proposal(number, 0, choices), status, Estimate(value, value))


def search(name, space, loss, evaluations, seed=0, **settings):
    searcher = build("searcher", {"type": name, **settings})
    searcher.setup(Phi(), space, seed)
    asked, values = [], []
    for number in range(evaluations):
        (choices,) = searcher.ask(1)
        values.append(loss(choices))
        asked.append(choices)
        searcher.tell([evaluated(number, choices, values[-1])])
    return searcher, asked, values


def counted(*losses):
    """A loss function that gives these values one after another."""
    rest = iter(losses)
    return lambda choices: next(rest)


@pytest.mark.parametrize(("space", "loss"), [(SEPARABLE, separable), (MIXED, mixed)])
@pytest.mark.parametrize("name", ["evolution", "genetic"])
def test_it_beats_random_clearly(name, space, loss):
    best = {
        kind: statistics.mean(min(search(kind, space, loss, 200, seed)[2]) for seed in range(4))
        for kind in (name, "random")
    }
    assert best[name] < 0.5 * best["random"]


def test_regularized_evolution_lets_the_oldest_die_however_good_it_is():
    searcher, asked, _ = search("evolution", SEPARABLE, counted(0.0, 5.0, 4.0, 3.0, 2.0), 5, population=3)
    assert [member.loss for member in searcher._members] == [4.0, 3.0, 2.0]
    assert [member.choices for member in searcher._members] == asked[2:]


def test_the_genetic_one_lets_the_worst_die():
    searcher, _, _ = search("genetic", SEPARABLE, counted(1.0, 5.0, 4.0, 3.0, 6.0), 5, population=3)
    assert [member.loss for member in searcher._members] == [1.0, 4.0, 3.0]


def test_a_child_of_regularized_evolution_differs_from_a_member_in_one_dimension():
    searcher, _, _ = search("evolution", SEPARABLE, separable, 30, population=10, tournament=40)
    alive = list(searcher._members)
    (child,) = searcher.ask(1)
    best = min(alive, key=lambda member: member.loss)  # a tournament of forty finds it
    near = [m for m in alive if sum(child[name] != m.choices[name] for name in SEPARABLE) == 1]
    assert any(member.loss == best.loss for member in near)


def test_a_diverged_member_wins_no_tournament_and_a_failed_one_is_no_member():
    losses = counted(math.nan, None, 1.0, math.inf, 2.0)
    searcher, asked, _ = search("genetic", SEPARABLE, losses, 5, population=5, tournament=60)
    assert [member.loss for member in searcher._members] == [math.inf, 1.0, math.inf, 2.0]
    parents = {id(searcher._winner(draws)) for draws in _draws(5)}
    assert parents == {id(searcher._members[1].choices)}
    assert searcher._members[1].choices == asked[2]


def _draws(n):
    from metasearch.core.seeds import Draws

    return [Draws([seed]) for seed in range(n)]


def test_the_genetic_one_proposes_no_copy_of_a_living_member():
    searcher, _, _ = search("genetic", SEPARABLE, separable, 40, crossover=0.0, mutation=0.0, population=5)
    alive = [member.choices for member in searcher._members]
    assert all(child not in alive for child in searcher.ask(20))


def test_the_first_population_is_random_even_when_it_is_asked_for_at_once():
    one = build("searcher", {"type": "evolution", "population": 6})
    one.setup(Phi(), SEPARABLE, 4)
    together = one.ask(8)
    _, apart, _ = search("evolution", SEPARABLE, separable, 6, seed=4, population=6)
    assert together[:6] == apart
    assert len({str(choices) for choices in together}) == 8
