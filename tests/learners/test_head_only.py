"""Inner loops that move the head only: features are computed once, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import metasearch.program  # noqa: F401  (lists the built-in parts)
from metasearch.core.registry import build
from metasearch.estimators.episodes import Problem
from metasearch.learners.inner_loop import InnerLoop

TASKS = {"type": "omniglot", "ways": 3, "shots": 1, "queries": 2, "image_size": 14}
CONV = {"type": "conv4", "filters": 4, "blocks": 2}
MLP = {"type": "mlp", "hidden": [6], "activation": "tanh", "batch_norm": True}


def case(model: dict[str, Any], *, generic: bool = False, **settings: Any) -> tuple[Problem, InnerLoop]:
    tasks = build("task", TASKS, "tasks", device="cpu", dtype=torch.float64)
    block = {"type": "inner_loop", "model": model, "steps": 3, "adapt": ["head.*"], **settings}
    loop = build("learner", block, "learner", spec=tasks.spec("train"))
    assert isinstance(loop, InnerLoop)
    assert loop._head_only
    loop._head_only = not generic
    return Problem(tasks, lambda choices, split: loop, dtype=torch.float64), loop


def gradient(problem: Problem, loop: InnerLoop, name: str = "backprop", **settings: Any) -> dict[str, torch.Tensor]:
    estimator = build("estimator", {"type": name, "tasks": 4, "shard": 2, **settings}, "", problem=problem)
    phi = problem.phi(loop.init(1))
    found = estimator.combine([estimator.measure(call) for call in estimator.calls(0, phi, None, 5)])[0].gradient
    assert found is not None
    return found


@pytest.mark.parametrize("model", [CONV, {**CONV, "pool": "max", "head": "flatten"}, MLP])
@pytest.mark.parametrize(
    ("estimator", "settings"),
    [
        ("backprop", {}),
        ("backprop", {"recompute": True}),
        ("first_order", {}),
        ("reptile", {}),
        ("truncated", {"steps": 2, "offsets": False}),
        ("implicit", {"iterations": 3}),
    ],
)
def test_gradients_are_those_of_the_whole_network_at_each_step(
    model: dict[str, Any], estimator: str, settings: dict[str, Any]
) -> None:
    slots = {"learning_rates": {"type": "shared", "init": 0.3}, "regularizer": {"type": "proximal", "strength": 0.5}}
    if estimator == "reptile":
        slots["learning_rates"] = {"type": "fixed", "value": 0.3}
    found, expected = (
        gradient(*case(model, generic=generic, slots=slots), estimator, **settings) for generic in (False, True)
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11)


def test_the_gradient_is_that_of_a_loop_by_hand() -> None:
    slots = {"learning_rates": {"type": "fixed", "value": 0.3}}
    problem, loop = case({"type": "mlp", "hidden": [6], "activation": "tanh"}, slots=slots)
    found = gradient(problem, loop)
    estimator = build("estimator", {"type": "backprop", "tasks": 4, "shard": 4}, "", problem=problem)
    phi = problem.phi(loop.init(1))
    task = problem.sample("train", estimator.calls(0, phi, None, 5)[0].seeds)
    leaves = {name: value.detach().requires_grad_() for name, value in phi.tensors.items()}
    below, offset, weight, bias = (
        leaves[f"initialization.{name}"] for name in ("layers.0.weight", "layers.0.bias", "head.weight", "head.bias")
    )
    total = torch.zeros((), dtype=torch.float64)
    for index in range(4):
        known, asked = (torch.tanh(one.x[index].flatten(1) @ below.T + offset) for one in (task.support, task.query))
        w, b = weight, bias
        for _ in range(3):
            loss = F.cross_entropy(known @ w.T + b, task.support.y[index])
            dw, db = torch.autograd.grad(loss, [w, b], create_graph=True)
            w, b = w - 0.3 * dw, b - 0.3 * db
        total = total + F.cross_entropy(asked @ w.T + b, task.query.y[index]) / 4
    for name, expected in zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True):
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-12)


def test_features_are_computed_once_and_networks_come_back_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, loop = case(CONV)
    phi, task = problem.phi(loop.init(1)), problem.sample("train", [3, 4])
    seen: list[int] = []
    represent = loop.model.represent  # type: ignore[attr-defined]

    def counted(theta: Any, buffers: Any, x: torch.Tensor, **more: Any) -> Any:
        seen.append(x.shape[1])
        return represent(theta, buffers, x, **more)

    monkeypatch.setattr(loop.model, "represent", counted)
    loop.evaluate(phi, task, 0)
    assert seen == [3, 6]  # the support set, and the query set
    adapted = loop.adapt(phi, task.support, 0)
    assert {value.shape[0] for value in adapted.theta.values()} == {2}


@pytest.mark.parametrize(
    "settings",
    [
        {"adapt": ["*"]},
        {"batch": 2},
        {"model": {**CONV, "norm": "running"}},
        {"slots": {"initialization": {"type": "random"}}},
        {"slots": {"augmentation": {"type": "uniform", "operations": "strokes", "places": 1}}},
    ],
)
def test_all_else_goes_through_the_whole_network(settings: dict[str, Any]) -> None:
    tasks = build("task", TASKS, "tasks", device="cpu", dtype=torch.float64)
    block = {"type": "inner_loop", "model": CONV, "steps": 2, "adapt": ["head.*"], **settings}
    loop = build("learner", block, "learner", spec=tasks.spec("train"))
    phi, task = loop.init(0).to("cpu", torch.float64), tasks.sample("train", np.arange(2))
    state = loop.step(phi, task, loop.begin(phi, task, 0), 0)
    assert "features" not in state
    assert {value.shape[0] for value in state["theta"].values()} == {2}
