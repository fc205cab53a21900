"""Both gradients in float64 against differences of the losses and against DARTS written out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call

import metasearch.estimators
import metasearch.learners  # noqa: F401  (these list the parts)
from metasearch.core.errors import UnsupportedError
from metasearch.core.registry import build
from metasearch.core.values import Batch, Phi, Task, TaskSpec
from metasearch.estimators.episodes import Problem
from metasearch.models.architectures import CellNetwork

SPEC = TaskSpec("classification", (1, 5, 5), 3, 6, 6)
RATE = 0.3


class Few:
    def spec(self, split: str) -> TaskSpec:
        return SPEC

    def sample(self, split: str, seeds: Any) -> Task:
        draw = torch.Generator().manual_seed(1)

        def batch() -> Batch:
            x = torch.randn(len(seeds), 6, 1, 5, 5, generator=draw, dtype=torch.float64)
            return Batch(x, torch.randint(0, 3, (len(seeds), 6), generator=draw))

        return Task(batch(), batch(), np.asarray(seeds))


def parts(steps: int, architecture: dict[str, Any], choices: Any = None, **settings: Any) -> tuple[Any, Any, Phi]:
    block = {
        "type": "inner_loop",
        "model": {"type": "cells", "channels": [2], "norm": "batch"},
        "steps": {"train": steps, "test": 0},
        "slots": {"architecture": architecture, "learning_rates": {"type": "fixed", "value": RATE}},
    }
    learner = build("learner", block, "learner", spec=SPEC, choices=choices or {})
    problem = Problem(Few(), lambda choices, split: learner, dtype=torch.float64)
    estimator = build("estimator", {"type": "bilevel", "tasks": 2, "shard": 2, **settings}, "e", problem=problem)
    phi = learner.init(0).to("cpu", torch.float64)
    estimator.check(learner, phi)
    return learner, estimator, phi


def by_hand(phi: Phi, steps: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Algorithm 1 of DARTS on the module itself: gradients summed over the two tasks."""
    task = Few().sample("train", [0, 1])
    logits = phi.tensors["architecture.logits"].clone().requires_grad_()
    weights = {name: value.clone().requires_grad_() for name, value in phi.part("initialization").items()}
    module = CellNetwork(3, None, (2,), 1, in_channels=1, running=False).double()

    def loss(at: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        outputs = functional_call(module, {**at, "mixture": torch.softmax(logits, -1)}, (x,))
        return torch.nn.functional.cross_entropy(outputs, y)

    lower = {name: torch.zeros_like(value) for name, value in weights.items()}
    total: Any = 0.0
    for one in range(2):
        training = loss(weights, task.support.x[one], task.support.y[one])
        slopes = torch.autograd.grad(training, list(weights.values()), create_graph=True, allow_unused=True)
        at = dict(weights)
        for (name, value), slope in zip(weights.items(), slopes, strict=True):
            if slope is not None:
                lower[name] += slope.detach()
                at[name] = value - RATE * slope if steps else value
        total = total + loss(at, task.query.x[one], task.query.y[one])
    return torch.autograd.grad(total, logits)[0], lower


@pytest.mark.parametrize(
    ("steps", "second", "tolerance"), [(0, "exact", 1e-12), (1, "exact", 1e-12), (1, "finite_difference", 1e-7)]
)
def test_the_gradients_are_those_of_darts(steps: int, second: str, tolerance: float) -> None:
    _, estimator, phi = parts(
        steps, {"type": "mixed", "scale": 0.5}, second=second, radius=1e-6
    )  # so small that no unit is switched on or off between
    (call,) = estimator.calls(0, phi, None, 0)
    found = estimator.measure(call).gradient
    upper, lower = by_hand(phi, steps)
    assert upper.abs().max() > 1e-3
    torch.testing.assert_close(found["architecture.logits"], upper, atol=tolerance, rtol=0)
    for name, value in lower.items():
        torch.testing.assert_close(found[f"initialization.{name}"], value, atol=1e-12, rtol=0)


def test_the_hand_written_gradient_is_the_slope_of_the_query_loss() -> None:
    learner, estimator, phi = parts(1, {"type": "mixed", "scale": 0.5})
    (call,) = estimator.calls(0, phi, None, 0)
    task, upper = Few().sample("train", call.seeds), by_hand(phi, 1)[0]
    logits = phi.tensors["architecture.logits"]
    toward = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def value(size: float) -> float:
        point = phi.replace(tensors={**phi.tensors, "architecture.logits": logits + size * toward})
        return float(learner.evaluate(point, task, call.seed).query.detach().sum())

    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    assert abs(slope - float((upper * toward).sum())) < 1e-8


def test_a_chosen_architecture_moves_the_weights_that_it_uses_and_is_judged_by_the_query_set() -> None:
    choices = {f"slots.architecture.edge_{edge}": "skip_connect" for edge in ("0_1", "0_2", "1_2", "0_3", "1_3")}
    learner, estimator, phi = parts(0, {"type": "chosen", "weights": "shared"}, choices)
    (call,) = estimator.calls(0, phi, None, 0)
    measured = estimator.measure(call)
    assert measured.gradient is not None
    moved = {name for name, value in measured.gradient.items() if value.any()}
    assert "initialization.layers.0.edges.edge_2_3.operations.nor_conv_3x3.1.weight" in moved
    assert not any("edge_0" in name or "conv_1x1" in name for name in moved)
    task = Few().sample("train", call.seeds)
    state = learner.begin(phi, task, call.seed)
    np.testing.assert_allclose(measured.query, learner.query_loss(phi, task, state, call.seed).query.numpy())
    np.testing.assert_allclose(
        measured.metrics["support"], learner.support_loss(phi, task, state, call.seed).detach().numpy()
    )


def test_what_it_cannot_work_with_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="steps"):
        parts(2, {"type": "mixed"})
    with pytest.raises(UnsupportedError, match="lower"):
        parts(0, {"type": "mixed"}, lower=["learning_rates"])
    learner, estimator, phi = parts(1, {"type": "mixed"}, second="finite_difference")
    slots = {**learner.config.slots, "update_rule": {"type": "adam"}}
    other = type(learner)(learner.config.model_copy(update={"slots": slots}), SPEC)
    with pytest.raises(UnsupportedError, match="sgd"):
        estimator.check(other, phi)
