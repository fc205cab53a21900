"""The LSTM meta-learner: against a loop over single coordinates, finite differences, and gradient descent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import metasearch.program  # noqa: F401  (lists the built-in parts)
from metasearch.components import Context
from metasearch.components.rules.meta_lstm import MetaLstm
from metasearch.core.registry import build
from metasearch.core.values import Phi, Task
from metasearch.learners.inner_loop import InnerLoop

SHAPES = {"weight": (3, 2), "bias": (2,)}
HIDDEN = 3


def rule(**settings: Any) -> MetaLstm:
    context = Context(None, None, SHAPES, tuple(SHAPES))  # type: ignore[arg-type]
    made: MetaLstm = build("slot.update_rule", {"type": "meta_lstm", **settings}, "", context=context)
    return made


def large(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values with which everything matters: the published start is close to zero."""
    drawn = np.random.default_rng(0)
    return {
        name: torch.as_tensor(0.5 * drawn.normal(size=tuple(value.shape))).double()
        for name, value in sorted(tensors.items())
    }


def normal(*shape: int, seed: int) -> Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


def preprocessed(x: float, p: float = 10.0) -> list[float]:
    return (
        [-1.0, math.exp(p) * x] if abs(x) < math.exp(-p) else [math.log(abs(x)) / p, float(np.sign(x))]  # appendix A
    )


def by_hand(values: dict[str, Tensor], theta: float, gradients: list[float], losses: list[float]) -> float:
    """One coordinate, in numbers."""
    lstm = nn.LSTMCell(4, HIDDEN).double()
    with torch.no_grad():
        for own, name in ((lstm.weight_ih, "input"), (lstm.weight_hh, "hidden"), (lstm.bias_ih, "bias")):
            own.copy_(values[f"lstm.{name}"])
        lstm.bias_hh.zero_()
        kept, gates = None, {"forget": 0.0, "input": 0.0}
        for gradient, loss in zip(gradients, losses, strict=True):
            kept = lstm(torch.tensor([preprocessed(loss) + preprocessed(gradient)], dtype=torch.float64), kept)
            for name, before in gates.items():
                seen = [*kept[0][0].tolist(), theta, before]
                weights = values[f"{name}.weight"].tolist()
                gates[name] = sum(w * x for w, x in zip(weights, seen, strict=True)) + float(values[f"{name}.bias"])
            f, i = (1 / (1 + math.exp(-gates[name])) for name in ("forget", "input"))
            theta = f * theta - i * gradient
    return theta


def test_every_coordinate_has_gates_of_its_own() -> None:
    made = rule(hidden=HIDDEN)
    values = large(made.init(0)[0])
    start = {name: normal(2, *shape, seed=len(name)) for name, shape in SHAPES.items()}
    gradients = [{name: normal(2, *shape, seed=9 * k + len(name)) for name, shape in SHAPES.items()} for k in range(3)]
    gradients[1]["bias"][0, 0] = 0.0
    gradients[2]["bias"][1, 1] = 1e-6
    losses = [normal(2, seed=50 + k).exp() for k in range(3)]
    theta, state = start, made.begin_update(values, start)
    for step in range(3):
        state = made.observe(values, losses[step], state, step)
        theta, state = made.update(values, theta, gradients[step], {}, state, step)
    for task in range(2):
        for name, shape in SHAPES.items():
            for place in np.ndindex(*shape):
                expected = by_hand(
                    values,
                    float(start[name][(task, *place)]),
                    [float(one[name][(task, *place)]) for one in gradients],
                    [float(one[task]) for one in losses],
                )
                assert float(theta[name][(task, *place)]) == pytest.approx(expected, rel=1e-11, abs=1e-13)


def test_it_starts_close_to_gradient_descent() -> None:
    made = rule()
    values = made.init(7)[0]
    theta = {name: normal(1, *shape, seed=1).float() for name, shape in SHAPES.items()}
    gradient = {name: normal(1, *shape, seed=2).float() for name, shape in SHAPES.items()}
    state = made.observe(values, torch.tensor([2.0]), made.begin_update(values, theta), 0)
    after = made.update(values, theta, gradient, {}, state, 0)[0]
    keep, rate = (1 / (1 + math.exp(-float(values[f"{name}.bias"]))) for name in ("forget", "input"))
    assert 0.98 < keep < 0.994
    assert 0.006 < rate < 0.018
    for name in SHAPES:
        torch.testing.assert_close(after[name], keep * theta[name] - rate * gradient[name], rtol=0.02, atol=2e-3)


def problem() -> tuple[InnerLoop, Phi, Task]:
    tasks = build("task", {"type": "quadratic", "dimensions": 3}, "tasks", dtype=torch.float64)
    settings = {
        "type": "inner_loop",
        "model": {"type": "mlp", "hidden": [2], "activation": "tanh"},
        "steps": 4,
        "objective": "sum",
        "slots": {"update_rule": {"type": "meta_lstm", "hidden": HIDDEN}},
    }
    learner = build("learner", settings, "learner", spec=tasks.spec("train"), choices={})
    phi = learner.init(0)
    return learner, phi.replace(tensors=large(phi.tensors)), tasks.sample("train", np.arange(3))


def test_the_rule_is_told_the_support_loss_before_each_step() -> None:
    learner, phi, task = problem()
    state = learner.begin(phi, task, 0)
    for _ in range(2):
        before = learner.support_loss(phi, task, state, 0).detach()
        state = learner.step(phi, task, state, 0)
        assert torch.equal(state["rule"]["update_rule"]["loss"], before)


def test_its_gradient_is_that_of_finite_differences_with_inner_gradients_as_constants() -> None:
    learner, phi, task = problem()
    made = learner.slots["update_rule"]
    constants: list[tuple[Tensor, dict[str, Tensor]]] = []
    state = learner.begin(phi, task, 0)
    for _ in range(4):
        theta = {name: value.detach().requires_grad_() for name, value in state["theta"].items()}
        loss = learner.support_loss(phi, task, {**state, "theta": theta}, 0)
        gradients = dict(zip(theta, torch.autograd.grad(loss.sum(), list(theta.values())), strict=True))
        constants.append((loss.detach(), gradients))
        state = learner.step(phi, task, state, 0)

    def objective(tensors: dict[str, Tensor]) -> Tensor:
        """The same trajectory from what the inner gradients and losses were, whatever phi is now."""
        point = phi.replace(tensors=tensors)
        moving = learner.begin(point, task, 0)
        values, theta, rule_state = point.part("update_rule"), moving["theta"], moving["rule"]["update_rule"]
        total = torch.zeros(())
        for step, (loss, gradients) in enumerate(constants):
            rule_state = made.observe(values, loss, rule_state, step)
            theta, rule_state = made.update(values, theta, gradients, {}, rule_state, step)
            total = total + learner.query_loss(point, task, {**moving, "theta": theta}, 0).objective.sum()
        return total

    leaves = {name: value.clone().requires_grad_() for name, value in phi.tensors.items()}
    found = learner.evaluate(phi.replace(tensors=leaves), task, 0).objective.sum()
    slopes = dict(zip(leaves, torch.autograd.grad(found, list(leaves.values())), strict=True))
    assert float(found.detach()) == pytest.approx(float(objective(phi.tensors)), rel=1e-12)
    assert {"update_rule.lstm.input", "update_rule.forget.weight", "initialization.head.weight"} <= set(slopes)
    with torch.no_grad():
        for seed, name in enumerate(sorted(slopes)):
            direction = normal(*phi.tensors[name].shape, seed=seed)
            sides = [
                float(objective({**phi.tensors, name: phi.tensors[name] + sign * 1e-5 * direction})) for sign in (1, -1)
            ]
            slope = (sides[0] - sides[1]) / 2e-5
            assert float((slopes[name] * direction).sum()) == pytest.approx(slope, rel=2e-6, abs=1e-7)
