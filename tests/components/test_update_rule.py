"""Update rules take the steps of torch's optimizers, and gradients pass through them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import metasearch.learners
import metasearch.tasks  # noqa: F401  (these list the built-in parts)
from metasearch.core.registry import build

RULES = {
    "momentum": ({"type": "sgd", "momentum": 0.8}, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8)),
    "adam": ({"type": "adam"}, lambda p: torch.optim.Adam(p, lr=0.05)),
    "reptile": ({"type": "adam", "betas": [0.0, 0.999]}, lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.0, 0.999))),
}


def case(rule: dict[str, Any], steps: int = 5) -> tuple[Any, Any, Any]:
    tasks = build("task", {"type": "quadratic"}, "", device="cpu", dtype=torch.float64)
    slots = {"update_rule": rule, "learning_rates": {"type": "fixed", "value": 0.05}}
    block = {"type": "inner_loop", "model": {"type": "mlp", "hidden": [3], "activation": "tanh"}, "steps": steps}
    loop = build("learner", {**block, "slots": slots}, "", spec=tasks.spec("train"))
    return loop, loop.init(2).to("cpu", torch.float64), tasks.sample("train", np.arange(2))


@pytest.mark.parametrize("name", RULES)
def test_steps_are_those_of_torch(name: str) -> None:
    rule, reference = RULES[name]
    loop, phi, task = case(rule)
    state = loop.begin(phi, task, 0)
    for _ in range(5):
        state = loop.step(phi, task, state, 0, create_graph=False)
    for index in range(2):
        theta = {key: value.clone().requires_grad_() for key, value in phi.part("initialization").items()}
        optimizer = reference(list(theta.values()))
        for _ in range(5):
            hidden = torch.tanh(task.support.x[index] @ theta["layers.0.weight"].T + theta["layers.0.bias"])
            found = hidden @ theta["head.weight"].T + theta["head.bias"]
            optimizer.zero_grad()
            (found - task.support.y[index]).square().mean().backward()
            optimizer.step()
        for key, value in theta.items():
            torch.testing.assert_close(state["theta"][key][index], value.detach(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", RULES)
def test_gradients_through_the_steps_agree_with_finite_differences(name: str) -> None:
    loop, phi, task = case({**RULES[name][0], **({} if name == "momentum" else {"eps": 1e-3})}, steps=3)

    def value(point: Any) -> torch.Tensor:
        return loop.evaluate(point, task, 0).objective.sum()

    leaves = {key: one.clone().requires_grad_() for key, one in phi.tensors.items()}
    slopes = dict(zip(leaves, torch.autograd.grad(value(phi.replace(tensors=leaves)), leaves.values()), strict=True))
    for key, one in phi.tensors.items():
        direction = torch.from_numpy(np.random.default_rng(0).normal(size=tuple(one.shape)))
        up, down = (value(phi.replace(tensors={**phi.tensors, key: one + h * direction})) for h in (1e-6, -1e-6))
        assert float((slopes[key] * direction).sum()) == pytest.approx(
            float((up - down).detach()) / 2e-6, rel=1e-5, abs=1e-8
        )


def test_a_parameter_without_a_gradient_leaves_the_second_order_finite() -> None:
    loop, phi, task = case({"type": "adam"})
    dead = {**phi.tensors, "initialization.head.weight": torch.zeros(1, 3, dtype=torch.float64)}
    leaves = {key: one.clone().requires_grad_() for key, one in dead.items()}
    objective = loop.evaluate(phi.replace(tensors=leaves), task, 0).objective.sum()
    assert all(torch.isfinite(one).all() for one in torch.autograd.grad(objective, list(leaves.values())))
