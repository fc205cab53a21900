"""Learned rates: which parameters and steps share one, and their meta-gradient in float64."""

from typing import Any

import numpy as np
import pytest
import torch

import metasearch.program  # noqa: F401  (lists the built-in parts)
from metasearch.core.errors import ConfigError
from metasearch.core.registry import build
from metasearch.core.values import Phi
from metasearch.estimators.episodes import Problem
from metasearch.learners.inner_loop import InnerLoop

STEPS = 3
KINDS = [(kind, per_step) for kind in ("shared", "per_layer", "per_tensor", "per_parameter") for per_step in (0, 1)]


def learner(kind: str, init: Any = 0.05, *, steps: Any = STEPS, adapt: Any = ("*",), per_step: Any = False) -> Any:
    tasks = build("task", {"type": "sinusoid", "shots": 4, "queries": 5}, "tasks", dtype=torch.float64)
    block = {
        "type": "inner_loop",
        "model": {"type": "mlp", "hidden": [3, 3], "activation": "tanh"},
        "steps": steps,
        "adapt": adapt,
        "slots": {"learning_rates": {"type": kind, "init": init, "per_step": bool(per_step)}},
    }
    loop = build("learner", block, "learner", spec=tasks.spec("train"))
    assert isinstance(loop, InnerLoop)
    return tasks, loop


def moved(loop: InnerLoop, seed: int = 0) -> Phi:
    """A phi whose rates all differ."""
    phi = loop.init(seed).to("cpu", torch.float64)
    draw = torch.Generator().manual_seed(seed)
    return phi.replace(
        tensors={
            name: value + 0.03 * torch.rand(value.shape, generator=draw, dtype=value.dtype)
            for name, value in phi.tensors.items()
        }
    )


def rate_of(phi: Phi, kind: str, per_step: Any, name: str, step: int) -> torch.Tensor:
    """The rule written out by hand."""
    layer, _, _ = name.rpartition(".")
    key = {"shared": "rate", "per_layer": layer, "per_tensor": name, "per_parameter": name}[kind]
    value = phi.tensors[f"learning_rates.{key}"]
    return value[min(step, STEPS - 1)] if per_step else value


def by_hand(phi: Phi, kind: str, per_step: Any, task: Any, index: int, steps: int) -> torch.Tensor:
    """Query loss of one task: an ordinary loop over single tensors, torch's own layers."""
    theta = {
        name.removeprefix("initialization."): value
        for name, value in phi.tensors.items()
        if name.startswith("initialization.")
    }

    def loss(theta: dict[str, torch.Tensor], batch: Any) -> torch.Tensor:
        x = batch.x[index]
        for layer in ("layers.0", "layers.1"):
            x = torch.tanh(torch.nn.functional.linear(x, theta[f"{layer}.weight"], theta[f"{layer}.bias"]))
        x = torch.nn.functional.linear(x, theta["head.weight"], theta["head.bias"])
        return torch.nn.functional.mse_loss(x, batch.y[index])

    for step in range(steps):
        slopes = torch.autograd.grad(loss(theta, task.support), list(theta.values()), create_graph=True)
        theta = {
            name: value - rate_of(phi, kind, per_step, name, step) * slope
            for (name, value), slope in zip(theta.items(), slopes, strict=True)
        }
    return loss(theta, task.query)


@pytest.mark.parametrize(("kind", "per_step"), KINDS)
def test_the_meta_gradient_of_the_rates_is_that_of_a_plain_loop(kind: str, per_step: int) -> None:
    tasks, loop = learner(kind, per_step=per_step)
    phi = moved(loop)
    problem = Problem(tasks, lambda choices, split: loop, dtype=torch.float64)
    estimator = build("estimator", {"type": "backprop", "tasks": 4, "shard": 2}, "", problem=problem)
    calls = estimator.calls(0, phi, None, 5)
    found = estimator.combine([estimator.measure(call) for call in calls])[0]
    task = tasks.sample("train", np.concatenate([call.seeds for call in calls]))
    leaves = {name: value.clone().requires_grad_() for name, value in phi.tensors.items()}
    losses = [by_hand(Phi(leaves), kind, per_step, task, index, STEPS) for index in range(4)]
    slopes = torch.autograd.grad(torch.stack(losses).mean(), list(leaves.values()))
    assert found.value == pytest.approx(float(torch.stack(losses).detach().mean()), rel=1e-12)
    for name, slope in zip(leaves, slopes, strict=True):
        torch.testing.assert_close(found.gradient[name], slope, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("kind", "per_step"), KINDS)
def test_the_meta_gradient_of_the_rates_agrees_with_finite_differences(kind: str, per_step: int) -> None:
    tasks, loop = learner(kind, per_step=per_step)
    phi = moved(loop)
    problem = Problem(tasks, lambda choices, split: loop, dtype=torch.float64)
    estimator = build("estimator", {"type": "backprop", "tasks": 2, "shard": 2}, "", problem=problem)

    def estimate(point: Phi) -> Any:
        return estimator.combine([estimator.measure(call) for call in estimator.calls(0, point, None, 5)])[0]

    gradient, size = estimate(phi).gradient, 1e-6
    rates = {name: value for name, value in phi.tensors.items() if name.startswith("learning_rates.")}
    assert rates
    for name, value in rates.items():
        direction = torch.from_numpy(np.random.default_rng(len(name)).normal(size=tuple(value.shape)))
        above, below = (
            estimate(phi.replace(tensors={**phi.tensors, name: value + sign * size * direction})).objective
            for sign in (1, -1)
        )
        slope = float((gradient[name] * direction).sum())
        assert slope == pytest.approx((above - below) / (2 * size), rel=1e-5, abs=1e-8), name


@pytest.mark.parametrize("kind", ["shared", "per_layer", "per_tensor", "per_parameter"])
def test_more_steps_than_in_training_repeat_the_last_step_s_rates(kind: str) -> None:
    tasks, loop = learner(kind, steps={"train": STEPS, "test": 6}, per_step=True)
    phi = moved(loop)
    task = tasks.sample("test", np.arange(2))
    found = loop.evaluate(phi, task, 0, train=False, create_graph=False).query
    leaves = Phi({name: value.clone().requires_grad_() for name, value in phi.tensors.items()})
    expected = torch.stack([by_hand(leaves, kind, True, task, index, 6) for index in range(2)]).detach()
    torch.testing.assert_close(found, expected)
    for name, rate in loop.rates(phi, 5).items():
        assert torch.equal(rate, loop.rates(phi, STEPS - 1)[name])


SHAPES = {
    "layers.0.weight": (3, 1),
    "layers.0.bias": (3,),
    "layers.1.weight": (3, 3),
    "layers.1.bias": (3,),
    "head.weight": (1, 3),
    "head.bias": (1,),
}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("shared", {"rate": ()}),
        ("per_layer", {"layers.0": (), "layers.1": (), "head": ()}),
        ("per_tensor", dict.fromkeys(SHAPES, ())),
        ("per_parameter", SHAPES),
    ],
)
def test_rates_are_kept_by_what_shares_one(kind: str, names: dict[str, tuple[int, ...]]) -> None:
    plain, stepped = (learner(kind, per_step=per_step)[1].init(0).part("learning_rates") for per_step in (False, True))
    assert {name: tuple(value.shape) for name, value in plain.items()} == names
    assert {name: tuple(value.shape) for name, value in stepped.items()} == {
        name: (STEPS, *shape) for name, shape in names.items()
    }


def test_only_adapted_parameters_have_rates() -> None:
    _, loop = learner("per_tensor", adapt=["head.*"])
    assert set(loop.init(0).part("learning_rates")) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("kind", ["shared", "per_layer", "per_tensor", "per_parameter"])
def test_a_range_draws_each_first_rate_within_it(kind: str) -> None:
    _, loop = learner(kind, [0.005, 0.1], per_step=True)
    values = torch.cat([value.flatten() for value in loop.init(3).part("learning_rates").values()])
    assert 0.005 <= float(values.min()) < float(values.max()) < 0.1
    assert len(set(values.tolist())) == len(values)
    again = torch.cat([value.flatten() for value in loop.init(3).part("learning_rates").values()])
    assert torch.equal(values, again)


def test_a_range_is_filled_evenly() -> None:
    _, loop = learner("per_tensor", [0.005, 0.1], per_step=True, steps=2000)
    values = torch.cat(list(loop.init(0).part("learning_rates").values()))
    assert len(values) == 12000
    assert float(values.mean()) == pytest.approx(0.0525, abs=5 * 0.095 / np.sqrt(12 * 12000))
    assert float(values.std()) == pytest.approx(0.095 / np.sqrt(12), rel=0.02)


@pytest.mark.parametrize("init", [0.0, -0.1, [0.1, 0.05], [0.0, 0.1], [0.1, float("inf")]])
def test_impossible_first_rates_are_refused(init: Any) -> None:
    with pytest.raises(ConfigError, match=r"slots.learning_rates.init: expected a positive rate or \[low, high\]"):
        learner("shared", init)


def test_a_fixed_rate_may_be_another_one_after_the_first_step() -> None:
    spec = build("task", {"type": "sinusoid"}, "tasks").spec("train")
    for rates, expected in (({"value": 0.1}, [0.1, 0.1]), ({"value": 0.1, "later": 0.05}, [0.1, 0.05])):
        slots = {"learning_rates": {"type": "fixed", **rates}}
        loop = build("learner", {"type": "inner_loop", "model": "mlp", "slots": slots}, "learner", spec=spec)
        assert [float(loop.rates(Phi(), step)["head.bias"]) for step in (0, 3)] == expected


def test_a_scheduled_rate_follows_its_curve_and_stays_at_its_end() -> None:
    spec = build("task", {"type": "sinusoid"}, "tasks").spec("train")
    curve = {"type": "warmup_cosine", "peak": 0.2, "warmup": 0.0}
    for settings, expected in (({}, [0.2, 0.1, 0.0, 0.0]), ({"steps": 2}, [0.2, 0.0, 0.0, 0.0])):
        slots = {"learning_rates": {"type": "scheduled", "schedule": curve, **settings}}
        block = {"type": "inner_loop", "model": "mlp", "steps": {"train": 3, "test": 5}, "slots": slots}
        loop = build("learner", block, "learner", spec=spec)
        found = [float(loop.rates(Phi(), step)["head.bias"]) for step in (0, 1, 2, 4)]
        assert found == pytest.approx(expected, abs=1e-12)
