"""What every searcher must do. Inherit, say how to make one, and the tests come with it::

class TestMine(SearcherContract):
    @pytest.fixture
    def make(self):
        return lambda: Mine(Mine.Config())
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from metasearch.core.contracts import Searcher
from metasearch.core.errors import ConfigError, DivergedError
from metasearch.core.seeds import derive
from metasearch.core.space import Choice, Float, Int, Space
from metasearch.core.values import Estimate, Evaluation, Failure, Phi, Proposal, fingerprint

__all__ = ["Driver", "SearcherContract", "example_phi", "example_space", "toy_loss"]


def example_space() -> Space:
    """Five finite dimensions; one exists only for a value of another, and a third only for values of both."""
    return Space(
        {
            "rule": Choice(("sgd", "adam", "none")),
            "rule.momentum": Float(0.0, 0.9, step=0.3, when={"rule": ("sgd",)}),
            "rule.nesterov": Choice((True, False), when={"rule": ("sgd",), "rule.momentum": (0.9, 0.6)}),
            "steps": Int(1, 5),
            "width": Int(8, 64, step=8),
        }
    )


def example_phi() -> Phi:
    """Two slots of tensors, and buffers of a float and an integer kind."""
    generator = torch.Generator().manual_seed(0)
    return Phi(
        {
            "initialization.weight": torch.randn(3, 2, generator=generator),
            "learning_rates.value": torch.full((2,), 0.4),
        },
        {"initialization.mean": torch.zeros(3), "initialization.count": torch.tensor(0)},
    )


def toy_loss(choices: Mapping[str, Any]) -> float:
    """A finite loss that tells any two points apart, the same in every process."""
    words = json.dumps(sorted(choices.items()))
    return derive(0, words) / 2.0**63 + float(choices.get("steps", 0))


class Driver:
    """A minimal outer loop: it asks, judges by :func:`toy_loss` plus the squares of the tensors, and tells.

    Args:
        searcher: not yet set up.
        space: space of its choices (empty for a gradient searcher).
        phi: its tensors and buffers.
        seed: its seed.
        special: numbers of evaluations that end ``"diverged"`` or ``"failed"``.
    """

    def __init__(
        self, searcher: Searcher, space: Space, phi: Phi, seed: int = 0, special: Mapping[int, str] | None = None
    ) -> None:
        self.searcher = searcher
        self.special = dict(special or {})
        self.asked: list[Mapping[str, Any]] = []
        self.record: list[list[Evaluation]] = []
        searcher.setup(phi, space, seed)

    def ask(self, n: int = 1) -> list[Proposal]:
        """The next proposals, numbered in the order they were asked for."""
        start = len(self.asked)
        self.asked += [dict(choices) for choices in self.searcher.ask(n)]
        return [Proposal(start + i, derive(1, start + i), choices) for i, choices in enumerate(self.asked[start:])]

    def tell(self, proposals: Sequence[Proposal]) -> None:
        """Judges proposals and tells all of it at once."""
        evaluations = [self.judge(proposal) for proposal in proposals]
        self.record.append(evaluations)
        self.searcher.tell(evaluations)

    def run(self, steps: int, n: int = 1) -> Driver:
        """Asks and tells ``steps`` times."""
        for _ in range(steps):
            self.tell(self.ask(n))
        return self

    def replay(self, other: Driver) -> Driver:
        """Asks and tells again what another driver recorded, as it comes back from a journal (without gradients)."""
        for evaluations in other.record:
            self.ask(len(evaluations))
            self.record.append(evaluations)
            self.searcher.replay([_stored(evaluation) for evaluation in evaluations])
        return self

    def judge(self, proposal: Proposal) -> Evaluation:
        """The evaluation of a proposal at the searcher's present tensors."""
        status = self.special.get(proposal.id, "ok")
        if status == "failed":
            estimate = Estimate(math.nan, math.nan)
            return Evaluation(proposal, "failed", estimate, failure=Failure("user_error", "made to fail"))
        phi = self.searcher.phi()
        bad = math.nan if status == "diverged" else 0.0
        value = toy_loss(proposal.choices) + sum(float(t.square().sum()) for t in phi.tensors.values()) + bad
        gradient: dict[str, Tensor] = {name: 2.0 * tensor + bad for name, tensor in phi.tensors.items()}
        updates = {name: tensor + 1 for name, tensor in phi.buffers.items()}
        diverged = (0,) if status == "diverged" else ()
        estimate = Estimate(value, value, gradient=gradient or None, updates=updates, diverged=diverged)
        return Evaluation(proposal, "diverged" if diverged else "ok", estimate)


class SearcherContract:
    """The suite. A subclass gives the fixture ``make``; ``space``, ``phi`` and ``steps`` may be overridden."""

    @pytest.fixture
    def make(self) -> Callable[[], Searcher]:
        """A function that makes a fresh searcher, not yet set up."""
        raise TypeError("a subclass of SearcherContract gives the fixture `make`: a function that makes a searcher")

    @pytest.fixture
    def space(self, make: Callable[[], Searcher]) -> Space:
        """The space of its choices; empty if it takes gradients instead."""
        return Space() if make().needs_gradient else example_space()

    @pytest.fixture
    def phi(self, make: Callable[[], Searcher]) -> Phi:
        """The part of phi it owns; empty if it takes choices instead."""
        return example_phi() if make().needs_gradient else Phi()

    @pytest.fixture
    def steps(self) -> int:
        """How many evaluations it takes for a searcher to leave its random start behind."""
        return 25

    def test_the_same_seed_gives_the_same_proposals_and_phi(
        self, make: Callable[[], Searcher], space: Space, phi: Phi, steps: int
    ) -> None:
        one = Driver(make(), space, phi, seed=3).run(steps)
        two = Driver(make(), space, phi, seed=3).run(steps)
        assert one.asked == two.asked
        assert _fingerprint(one.searcher.phi()) == _fingerprint(two.searcher.phi())

    def test_another_seed_gives_other_proposals(
        self, make: Callable[[], Searcher], space: Space, phi: Phi, steps: int
    ) -> None:
        drivers = [Driver(make(), space, phi, seed=seed).run(steps) for seed in (3, 4)]
        assert (drivers[0].asked != drivers[1].asked) == bool(space)

    def test_ask_gives_as_many_proposals_as_wanted_all_inside_the_space(
        self, make: Callable[[], Searcher], space: Space, phi: Phi, steps: int
    ) -> None:
        driver = Driver(make(), space, phi)
        for n in (1, 3, 2, 4):
            proposals = driver.ask(n)
            assert len(proposals) == n
            driver.tell(proposals)
        driver.run(steps)
        for choices in driver.asked:
            space.validate(choices)

    def test_proposals_are_plain_values_that_survive_json(
        self, make: Callable[[], Searcher], space: Space, phi: Phi
    ) -> None:
        for choices in Driver(make(), space, phi).run(5).asked:
            assert json.loads(json.dumps(choices)) == choices
            assert all(type(value) in {bool, int, float, str, type(None)} for value in choices.values())

    def test_evaluations_may_come_back_in_any_order(
        self, make: Callable[[], Searcher], space: Space, phi: Phi, steps: int
    ) -> None:
        driver = Driver(make(), space, phi)
        flight = driver.ask(3)
        for _ in range(steps):
            driver.tell([flight.pop(1)])
            flight += driver.ask(1)
        assert len(driver.record) == steps
        for choices in driver.asked:
            space.validate(choices)

    def test_it_goes_on_after_diverged_and_failed_evaluations(
        self, make: Callable[[], Searcher], space: Space, phi: Phi, steps: int
    ) -> None:
        special = {0: "diverged", 1: "failed", 4: "diverged", 7: "failed"}
        driver = Driver(make(), space, phi, special=special).run(steps)
        assert len(driver.asked) == steps
        assert all(bool(torch.isfinite(tensor).all()) for tensor in driver.searcher.phi().tensors.values())
        for choices in driver.asked:
            space.validate(choices)

    def test_a_search_that_only_diverges_ends_honestly(
        self, make: Callable[[], Searcher], space: Space, phi: Phi, steps: int
    ) -> None:
        driver = Driver(make(), space, phi, special=dict.fromkeys(range(steps), "diverged"))
        before = _fingerprint(driver.searcher.phi())
        if driver.searcher.needs_gradient:
            with pytest.raises(DivergedError, match="in a row"):
                driver.run(steps)
        else:
            driver.run(steps)
        assert _fingerprint(driver.searcher.phi()) == before

    def test_a_rebuilt_searcher_continues_like_the_first(
        self, make: Callable[[], Searcher], space: Space, phi: Phi, steps: int
    ) -> None:
        special = {2: "diverged", 5: "failed", steps + 1: "diverged"}
        first = Driver(make(), space, phi, seed=5, special=special).run(steps)
        state = first.searcher.state_dict()
        rebuilt = Driver(make(), space, phi, seed=5, special=special).replay(first)
        assert rebuilt.asked == first.asked
        rebuilt.searcher.load_state_dict(state)
        first.run(6)
        rebuilt.run(6)
        assert rebuilt.asked == first.asked
        assert _fingerprint(rebuilt.searcher.phi()) == _fingerprint(first.searcher.phi())

    def test_its_state_is_a_tree_of_tensors_and_plain_values_that_later_steps_leave_alone(
        self, make: Callable[[], Searcher], space: Space, phi: Phi
    ) -> None:
        driver = Driver(make(), space, phi).run(3)
        state = driver.searcher.state_dict()
        before = fingerprint(dict(_leaves(state)))
        driver.run(2)
        assert fingerprint(dict(_leaves(state))) == before

    def test_phi_is_a_detached_copy(self, make: Callable[[], Searcher], space: Space, phi: Phi) -> None:
        driver = Driver(make(), space, phi).run(2)
        given = driver.searcher.phi()
        before = _fingerprint(given)
        for tensor in (*given.tensors.values(), *given.buffers.values()):
            assert not tensor.requires_grad
            tensor.zero_()
        assert _fingerprint(driver.searcher.phi()) == before

    def test_what_it_does_with_a_diverged_evaluation_is_written_down(self, make: Callable[[], Searcher]) -> None:
        searcher = make()
        assert "diverged" in " ".join(str(text) for text in (type(searcher).__doc__, type(searcher).tell.__doc__))

    def test_it_refuses_choices_it_cannot_make_and_a_lack_of_those_it_needs(
        self, make: Callable[[], Searcher], space: Space, phi: Phi
    ) -> None:
        with pytest.raises(ConfigError, match="choices"):
            make().setup(phi, Space() if space else example_space(), 0)


def _stored(evaluation: Evaluation) -> Evaluation:
    """An evaluation as the journal gives it back."""
    old = evaluation.estimate
    estimate = Estimate(old.value, old.objective, old.metrics, diverged=old.diverged)
    return Evaluation(evaluation.proposal, evaluation.status, estimate, failure=evaluation.failure)


def _fingerprint(phi: Phi) -> tuple[str, str]:
    return fingerprint(phi.tensors), fingerprint(phi.buffers)


def _leaves(tree: Any, path: str = "") -> list[tuple[str, Tensor]]:
    """The leaves of a state by path; plain values become tensors (text: of its code points)."""
    if isinstance(tree, Mapping):
        assert all(isinstance(key, str) for key in tree), f"keys of {path or 'the state'} must be text"
        return [leaf for key, value in tree.items() for leaf in _leaves(value, f"{path}.{key}")]
    if isinstance(tree, list | tuple):
        return [leaf for index, value in enumerate(tree) for leaf in _leaves(value, f"{path}.{index}")]
    if isinstance(tree, Tensor):
        return [(path, tree)]
    assert tree is None or isinstance(tree, bool | int | float | str), f"{path} holds a {type(tree).__name__}"
    return [(path, torch.tensor([ord(letter) for letter in repr(tree)]))]
