"""What every update rule on a flat axis must do.

Inherit :class:`RuleContract`, give a ``make`` fixture, get the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from metasearch.components.rules import Block, FlatRule, multiplied
from metasearch.core.values import Tensors, fingerprint

__all__ = ["RuleContract"]

SHAPES: dict[str, tuple[int, ...]] = {"first": (3, 2), "second": (4,), "third": ()}
Make = Callable[[dict[str, tuple[int, ...]]], FlatRule]


class RuleContract:
    """The promises of :class:`~metasearch.components.rules.flat.FlatRule`."""

    @pytest.fixture
    def make(self) -> Make:
        """Builds the rule for tensors of given shapes."""
        raise LookupError("give a fixture `make` that builds the rule for given shapes")

    def test_the_same_seed_gives_the_same_values(self, make: Make) -> None:
        rule = make(SHAPES)
        assert fingerprint(rule.init(3)[0]) == fingerprint(rule.init(3)[0])

    def test_tasks_do_not_see_each_other(self, make: Make) -> None:
        rule = make(SHAPES)
        values = _values(rule)
        together = _run(rule, values, _drawn(0, 3), [_drawn(step, 3) for step in (1, 2, 3)])
        for task in range(3):
            own = [{name: value[task : task + 1] for name, value in _drawn(step, 3).items()} for step in range(4)]
            alone = _run(rule, values, own[0], own[1:])
            for name, value in alone.items():
                torch.testing.assert_close(value[0], together[name][task], rtol=1e-10, atol=1e-12)

    def test_the_order_of_tensors_does_not_matter(self, make: Make) -> None:
        rule = make(SHAPES)
        values = _values(rule)
        other = make(dict(reversed(SHAPES.items())))
        start, gradients = _drawn(0, 2), [_drawn(step, 2) for step in (1, 2)]
        one = _run(rule, values, start, gradients)
        two = _run(other, values, start, [dict(reversed(gradient.items())) for gradient in gradients])
        for name, value in one.items():
            torch.testing.assert_close(value, two[name], rtol=1e-10, atol=1e-12)

    def test_coordinates_may_be_taken_in_pieces(self, make: Make) -> None:
        """What the optimizer does: sums over a tensor are taken first where features are divided by them."""
        rule = make({"first": (7,)})
        values = _values(rule)
        theta, gradient = (torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 7))) for seed in (0, 1))
        state = rule.start(values, theta)
        block = Block(("first",), (7,))
        whole, after = rule.advance(values, theta, gradient, state, 0, block)
        kept = rule.remember(values, gradient, state, 0, block)
        features = rule.features(values, theta, gradient, kept)
        if rule.normalizes:
            mean_squares = torch.stack([one.square().mean(-1, keepdim=True) for one in features])
            features = tuple(multiplied(features, rule.scale(mean_squares)))
        for start, stop in ((0, 3), (3, 7)):
            piece = Block(("first",), (stop - start,))
            moved, state = rule.decide(
                values,
                tuple(one[:, start:stop] for one in features),
                {name: value[:, start:stop] for name, value in kept.items()},
                0,
                piece,
            )
            torch.testing.assert_close(moved, whole[:, start:stop], rtol=1e-10, atol=1e-12)
            for name, value in state.items():
                torch.testing.assert_close(value, after[name][:, start:stop], rtol=1e-10, atol=1e-12)

    def test_nothing_that_is_given_is_changed(self, make: Make) -> None:
        rule = make(SHAPES)
        values, theta, gradients = _values(rule), _drawn(0, 2), _drawn(1, 2)
        state = rule.begin_update(values, theta)
        before = tree_map(torch.clone, (values, theta, gradients, state))
        rule.update(values, theta, gradients, {}, state, 0)
        for one, other in zip(_leaves(before), _leaves((values, theta, gradients, state)), strict=True):
            assert torch.equal(one, other)


def _values(rule: FlatRule) -> Tensors:
    return {name: value.double() for name, value in rule.init(0)[0].items()}


def _drawn(seed: int, tasks: int) -> Tensors:
    generator = np.random.default_rng(seed)
    return {
        name: torch.from_numpy(np.asarray(generator.normal(size=(tasks, *shape)))) for name, shape in SHAPES.items()
    }


def _run(rule: FlatRule, values: Tensors, theta: Tensors, gradients: list[Tensors]) -> Tensors:
    state = rule.begin_update(values, theta)
    for step, gradient in enumerate(gradients):
        theta, state = rule.update(values, theta, gradient, {}, state, step)
    return theta


def _leaves(tree: Any) -> list[Tensor]:
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
