"""Norm parameters of each inner step, and the pull towards the start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import metasearch.learners
import metasearch.tasks  # noqa: F401  (these list the built-in parts)
from metasearch.core.errors import ConfigError
from metasearch.core.registry import build

MODEL = {"type": "mlp", "hidden": [4], "activation": "tanh", "batch_norm": True}
WITHOUT_NORMS = ["*", "!norms.*"]


def case(steps: int = 3, **settings: Any) -> tuple[Any, Any, Any]:
    tasks = build("task", {"type": "quadratic"}, "", device="cpu", dtype=torch.float64)
    loop = build(
        "learner", {"type": "inner_loop", "model": MODEL, "steps": steps, **settings}, "", spec=tasks.spec("train")
    )
    return loop, loop.init(2).to("cpu", torch.float64), tasks.sample("train", np.arange(2))


def test_equal_norms_at_every_step_are_those_of_the_network() -> None:
    plain, phi, task = case(adapt=WITHOUT_NORMS)
    loop, _, _ = case(adapt=WITHOUT_NORMS, slots={"norms": {"type": "per_step", "steps": 3}})
    fresh = loop.init(2).to("cpu", torch.float64)
    assert {name: tuple(value.shape) for name, value in fresh.part("norms").items()} == {
        "norms.0.weight": (2, 4),
        "norms.0.bias": (2, 4),
    }
    assert torch.equal(loop.evaluate(fresh, task, 0).query, plain.evaluate(phi, task, 0).query)


def test_each_step_and_the_query_loss_after_it_use_the_norms_of_that_step() -> None:
    loop, _, task = case(adapt=WITHOUT_NORMS, slots={"norms": {"type": "per_step", "steps": 3}})
    phi = loop.init(2).to("cpu", torch.float64)
    draw = torch.Generator().manual_seed(0)
    moved = {
        name: value + 0.3 * torch.randn(value.shape, generator=draw, dtype=value.dtype) if "norms" in name else value
        for name, value in phi.tensors.items()
    }
    phi = phi.replace(tensors=moved)

    def forward(theta: dict[str, torch.Tensor], x: torch.Tensor, step: int) -> torch.Tensor:
        scale, shift = (
            moved[f"initialization.norms.0.{one}"] if step == 0 else moved[f"norms.norms.0.{one}"][step - 1]
            for one in ("weight", "bias")
        )
        hidden = x @ theta["layers.0.weight"].T + theta["layers.0.bias"]
        hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
        return torch.tanh(hidden * scale + shift) @ theta["head.weight"].T + theta["head.bias"]

    for index in range(2):
        theta = {
            name: value.clone().requires_grad_()
            for name, value in phi.part("initialization").items()
            if not name.startswith("norms")
        }
        for step in range(3):
            loss = (forward(theta, task.support.x[index], step) - task.support.y[index]).square().mean()
            slopes = torch.autograd.grad(loss, list(theta.values()))
            theta = {
                name: (value - 0.1 * one).detach().requires_grad_()
                for (name, value), one in zip(theta.items(), slopes, strict=True)
            }
        expected = (forward(theta, task.query.x[index], 2) - task.query.y[index]).square().mean()
        found = loop.evaluate(phi, task, 0).query[index]
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-10)
        adapted = loop.adapt(phi, task.support, 0)(task.query.x)[index]
        torch.testing.assert_close(adapted, forward(theta, task.query.x[index], 2).detach(), rtol=1e-9, atol=1e-11)


def test_norms_that_the_inner_loop_changes_cannot_differ_by_step() -> None:
    with pytest.raises(ConfigError, match=r'slots.norms.names: the inner loop changes norms.*"!\*norm\*"'):
        case(slots={"norms": {"type": "per_step", "steps": 3}})


def test_the_pull_towards_the_start_is_half_the_squared_way_times_its_strength() -> None:
    plain, phi, task = case(slots={"regularizer": {"type": "proximal", "strength": 0.0}})
    pulled, _, _ = case(slots={"regularizer": {"type": "proximal", "strength": 3.0, "test": 0.0}})
    state = pulled.begin(phi, task, 0)
    state = pulled.step(phi, task, pulled.step(phi, task, state, 0), 0)
    way = sum((state["theta"][n] - state["start"][n]).square().flatten(1).sum(1) for n in state["theta"])
    difference = pulled.support_loss(phi, task, state, 0) - plain.support_loss(phi, task, state, 0)
    torch.testing.assert_close(difference, 1.5 * way)
    assert bool((way > 1e-6).all())
    ends = [one.evaluate(phi, task, 0, train=False).query for one in (plain, pulled)]
    assert torch.equal(*ends)


def test_a_step_descends_the_pull_as_well() -> None:
    pulled, phi, task = case(slots={"regularizer": {"type": "proximal", "strength": 3.0}})
    plain, _, _ = case()
    state = pulled.step(phi, task, pulled.begin(phi, task, 0), 0)
    with_pull = pulled.step(phi, task, state, 0)["theta"]
    without = plain.step(phi, task, state, 0)["theta"]
    for name, value in with_pull.items():
        torch.testing.assert_close(without[name] - value, 0.1 * 3.0 * (state["theta"][name] - state["start"][name]))
