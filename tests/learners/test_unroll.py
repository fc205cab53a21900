"""The objective over inner steps, and steps that are computed again on the way back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import metasearch.tasks  # noqa: F401  (lists the built-in tasks)
from metasearch.core.errors import ConfigError
from metasearch.core.registry import build
from metasearch.learners.inner_loop import InnerLoop
from metasearch.learners.unroll import FINAL, Annealed


def published(epoch: int, epochs: int, steps: int) -> list[float]:
    """The weights of an epoch, as the description of the published code has them."""
    weights = np.full(steps, 1.0 / steps)
    least = 0.03 / steps
    for _ in range(epoch):
        falling = weights[:-1] - 1.0 / (steps * epochs)
        weights[:-1] = np.maximum(falling, least)
    weights[-1] = 1.0 - weights[:-1].sum()
    return list(weights)


@pytest.mark.parametrize("steps", [2, 5])
def test_annealed_weights_are_the_published_ones(steps: int) -> None:
    annealed = Annealed(until=5000, every=500)
    for epoch in range(10):
        for outer_step in (500 * epoch, 500 * epoch + 499):
            found = annealed.weights(steps, outer_step)
            assert found == pytest.approx(published(epoch, 10, steps), abs=1e-12)
            assert sum(found) == pytest.approx(1.0)
    assert annealed.weights(steps, 5000) == FINAL


def case(**settings: object) -> tuple[InnerLoop, object, object]:
    tasks = build("task", {"type": "sinusoid", "shots": 4, "queries": 4}, "", device="cpu", dtype=torch.float64)
    block = {"model": {"type": "mlp", "hidden": [6], "activation": "tanh"}, "steps": 4, **settings}
    loop = build("learner", {"type": "inner_loop", **block}, "", spec=tasks.spec("train"))
    return loop, loop.init(1).to("cpu", torch.float64), tasks.sample("train", np.arange(3))


def losses_by_step(loop, phi, task) -> list[torch.Tensor]:
    state = loop.begin(phi, task, 0)
    found = []
    for _ in range(4):
        state = loop.step(phi, task, state, 0)
        found.append(loop.query_loss(phi, task, state, 0).query)
    return found


@pytest.mark.parametrize("weights", [(0.1, 0.2, 0.3, 0.4), (0.3, 0.7), (1.0,), (0.5,)])
def test_weights_belong_to_the_last_steps(weights: tuple[float, ...]) -> None:
    loop, phi, task = case()
    expected = sum(w * one for w, one in zip(weights, losses_by_step(loop, phi, task)[-len(weights) :], strict=True))
    for given in (weights, torch.tensor(weights, dtype=torch.float64)):
        found = loop.unroll(phi, task, loop.begin(phi, task, 0), 0, 4, weights=given)[1]
        torch.testing.assert_close(found.objective, expected)


def test_what_a_learner_evaluates_by_is_what_it_says() -> None:
    for objective, weights in (
        ("final", FINAL),
        ("sum", (1.0,) * 4),
        ((0.0, 0.5, 0.5, 0.0), (0.0, 0.5, 0.5, 0.0)),
        ({2: 0.75, 4: 0.25}, (0.75, 0.0, 0.25)),
        ({"4": 1, "3": 0.5}, (0.5, 1.0)),
        ({4: 1.0}, FINAL),
    ):
        loop, phi, task = case(objective=objective)
        assert loop.objective_weights() == loop.objective_weights(3) == weights
        expected = loop.unroll(phi, task, loop.begin(phi, task, 0), 0, 4, weights=weights)[1].objective
        assert torch.equal(loop.evaluate(phi, task, 0).objective, expected)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ((1.0, 1.0), "needs one weight a training step: 4, got 2"),
        ({2: 1.0, 5: 1.0}, r"steps 1 to 4, got \[2, 5\]"),
        ({0: 1.0}, r"steps 1 to 4, got \[0\]"),
        ({}, "steps 1 to 4"),
        ({1.5: 1.0}, "expected weights by step"),
        ({2: "x"}, "expected weights by step"),
        ({"untill": 5}, "expected weights by step"),
    ],
)
def test_weights_for_steps_that_there_are_not_are_refused(objective: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        case(objective=objective)


def test_an_annealed_objective_ends_at_the_final_loss() -> None:
    loop, phi, task = case(objective={"until": 10})
    assert loop.objective_weights(0) == (0.25,) * 4
    assert loop.objective_weights(10) == loop.objective_weights() == FINAL
    final = case()[0].evaluate(phi, task, 0).objective
    assert torch.equal(loop.evaluate(phi, task, 0).objective, final)
