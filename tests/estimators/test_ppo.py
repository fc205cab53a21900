"""PPO on kept trajectories, in float64: beside plain policy gradient, by hand, by finite differences."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import metasearch.program  # noqa: F401  (lists the built-in parts)
from metasearch.core.errors import UnsupportedError
from metasearch.core.registry import build
from metasearch.core.values import Call, Measurement, Phi
from metasearch.estimators.episodes import Problem
from metasearch.learners.policy import PolicyLoop, Rollout, advantages

RATE = 0.2
TASKS = {"type": "navigation", "horizon": 6, "trajectories": 5, "queries": 7, "radius": 0.4, "action_scale": 0.3}
FREE = {"limit": None, "action_scale": 1.0, "radius": 0.0}


def problem(tasks: dict[str, Any] | None = None, **learner: Any) -> Problem:
    distribution = build("task", {**TASKS, **(tasks or {})}, "tasks", device="cpu", dtype=torch.float64)
    block = {
        "type": "policy",
        "model": {"type": "mlp", "hidden": [3], "activation": "tanh"},
        "slots": {"learning_rates": {"type": "fixed", "value": RATE}},
        "steps": 2,
        **learner,
    }
    loop = build("learner", block, "learner", spec=distribution.spec("train"))
    return Problem(distribution, lambda choices, split: loop, dtype=torch.float64)


def estimator(case: Problem, type: str = "ppo", **settings: Any) -> Any:
    return build("estimator", {"type": type, "tasks": 3, "shard": 3, **settings}, "", problem=case)


def phi_of(case: Problem) -> Phi:
    return case.learner({}, "train").init(0).to("cpu", torch.float64)


def moved(phi: Phi, size: float, seed: int = 1) -> Phi:
    draw = torch.Generator().manual_seed(seed)
    steps = {name: torch.randn(value.shape, generator=draw, dtype=torch.float64) for name, value in phi.tensors.items()}
    return phi.replace(tensors={name: value + size * steps[name] for name, value in phi.tensors.items()})


def at(call: Call, step: int, phi: Phi, carried: Any) -> Call:
    return dataclasses.replace(call, step=step, phi=phi, carried=carried)


@pytest.mark.parametrize("surrogate", ["log_density", "ratio"])
def test_the_first_gradient_is_the_plain_policy_gradient(surrogate: str) -> None:
    case = problem(surrogate=surrogate)
    (call,) = estimator(case).calls(0, phi_of(case), None, 3)
    plain, clipped = estimator(case, "backprop").measure(call), estimator(case).measure(call)
    assert plain.gradient is not None
    assert clipped.gradient is not None
    np.testing.assert_array_equal(plain.query, clipped.query)
    assert float(clipped.metrics["clipped"].max()) == 0.0
    for name, value in plain.gradient.items():
        assert float(value.abs().max()) > 0
        torch.testing.assert_close(clipped.gradient[name], value, rtol=1e-12, atol=1e-14)


def forward(theta: dict[str, Tensor], seen: Tensor, actions: Tensor) -> Tensor:
    """Logarithms of densities ``[n, H]`` under a policy with three hidden units."""
    hidden = torch.tanh(seen @ theta["layers.0.weight"].T + theta["layers.0.bias"])
    mean = hidden @ theta["head.weight"].T + theta["head.bias"]
    return torch.distributions.Normal(mean, theta["log_std"].exp()).log_prob(actions).sum(-1)


def by_hand(
    origin: Phi, now: dict[str, Tensor], kept: dict[str, Any], task: int, surrogate: str, clip: float
) -> tuple[Tensor, float]:
    """The clipped surrogate of one task, with both policies adapted on the same trajectories, step by step."""
    old = {name.partition(".")[2]: value.clone().requires_grad_() for name, value in origin.tensors.items()}
    new = {name.partition(".")[2]: value for name, value in now.items()}

    def trajectories(part: dict[str, Any]) -> tuple[Rollout, Tensor, Tensor]:
        rollout = Rollout(**{name: value[task : task + 1] for name, value in part["rollout"].items()})
        return rollout, advantages(rollout, 0.99, normalize=True)[0], rollout.alive[0].sum(1)

    def mean_over_steps(values: Tensor, lengths: Tensor) -> Tensor:
        total = sum(values[one, : int(length)].sum() for one, length in enumerate(lengths))
        return total / lengths.sum()

    def descended(theta: dict[str, Tensor], loss: Tensor) -> dict[str, Tensor]:
        found = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        return {name: value - RATE * slope for (name, value), slope in zip(theta.items(), found, strict=True)}

    for part in kept["support"]:
        rollout, weight, lengths = trajectories(part)
        before, after = (forward(theta, rollout.observations[0], rollout.actions[0]) for theta in (old, new))
        old = descended(old, -mean_over_steps(before * weight, lengths))
        old = {name: value.detach().requires_grad_() for name, value in old.items()}
        score = after if surrogate == "log_density" else after.exp() / before.exp().detach()
        new = descended(new, -mean_over_steps(score * weight, lengths))
    rollout, weight, lengths = trajectories(kept["query"])
    before, after = (forward(theta, rollout.observations[0], rollout.actions[0]) for theta in (old, new))
    ratio = after.exp() / before.exp().detach()
    gains = torch.where(  # an action that was good may not count for more than 1 + clip, nor a bad one below 1 - clip
        weight >= 0, ratio.clamp(max=1 + clip) * weight, ratio.clamp(min=1 - clip) * weight
    )
    outside = ((ratio > 1 + clip) | (ratio < 1 - clip)) & (rollout.alive[0] > 0)
    return -mean_over_steps(gains, lengths), float(outside.sum() / lengths.sum())


def kept_and_moved(case: Problem, size: float) -> tuple[Any, Phi, Phi, Call]:
    """An estimator with trajectories of one phi, and its call at another."""
    made, origin = estimator(case), phi_of(case)
    (call,) = made.calls(0, origin, None, 3)
    first = made.measure(call)
    return made, origin, moved(origin, size), at(call, 1, moved(origin, size), first.carried)


@pytest.mark.parametrize("surrogate", ["log_density", "ratio"])
def test_later_gradients_are_those_of_the_clipped_surrogate_written_out(surrogate: str) -> None:
    case = problem(surrogate=surrogate)
    made, origin, now, call = kept_and_moved(case, 0.15)
    found: Measurement = made.measure(call)
    leaves = {name: value.clone().requires_grad_() for name, value in now.tensors.items()}
    losses, shares = zip(*(by_hand(origin, leaves, call.carried, i, surrogate, 0.3) for i in range(3)), strict=True)
    np.testing.assert_allclose(found.objective, torch.stack(losses).detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.metrics["clipped"], shares, rtol=1e-12)
    assert 0.05 < float(found.metrics["clipped"].mean()) < 0.95
    expected = torch.autograd.grad(torch.stack(losses).sum(), list(leaves.values()))
    assert found.gradient is not None
    for name, slope in zip(leaves, expected, strict=True):
        torch.testing.assert_close(found.gradient[name], slope, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("surrogate", ["log_density", "ratio"])
def test_later_gradients_agree_with_finite_differences(surrogate: str) -> None:
    case = problem(
        surrogate=surrogate,
        slots={"learning_rates": {"type": "per_tensor", "init": [0.1, 0.3], "per_step": True}},
    )
    made, _, now, call = kept_and_moved(case, 0.1)
    gradient, size = made.measure(call).gradient, 1e-6
    for name, value in now.tensors.items():
        direction = torch.from_numpy(np.random.default_rng(len(name)).normal(size=tuple(value.shape)))
        above, below = (
            made.measure(
                dataclasses.replace(
                    call, phi=now.replace(tensors={**now.tensors, name: value + sign * size * direction})
                )
            ).objective.sum()
            for sign in (1, -1)
        )
        slope = float((gradient[name] * direction).sum())
        assert slope == pytest.approx((above - below) / (2 * size), rel=1e-5, abs=1e-8), name


def test_one_collection_serves_all_epochs_and_then_other_tasks_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    case, drawn = problem(), []
    draw = PolicyLoop.rollout

    def counted(self: PolicyLoop, *given: Any) -> Any:
        drawn.append(1)
        return draw(self, *given)

    monkeypatch.setattr(PolicyLoop, "rollout", counted)
    made, carried = estimator(case, epochs=3), None
    counts, seeds, values = [], [], []
    for step in range(7):
        phi = moved(phi_of(case), 0.02 * step)
        (call,) = made.calls(step, phi, carried, seed=step)
        call = dataclasses.replace(call, step=step)
        seeds.append(tuple(made.task_seeds(call)))
        estimate, carried = made.combine([made.measure(call)])
        counts.append(len(drawn))
        values.append(estimate.value)
    assert counts == [3, 3, 3, 6, 6, 6, 9]  # two inner steps and the adapted policy
    assert seeds[0] == seeds[1] == seeds[2] != seeds[3] == seeds[4] == seeds[5] != seeds[6]
    assert values[0] == values[1] == values[2] != values[3]


def test_trajectories_of_another_block_of_steps_are_not_gone_on_with() -> None:
    case = problem()
    made, phi = estimator(case, epochs=3), phi_of(case)
    (call,) = made.calls(0, phi, None, 3)
    carried = made.measure(call).carried
    late = at(call, 4, phi, carried)
    assert made.task_seeds(at(call, 2, phi, carried)) == carried["seeds"]
    assert made.task_seeds(late) == late.seeds
    assert made.measure(late).carried["since"] == 3
    assert made.measure(at(call, 2, phi, carried)).carried is None  # the last of its block


def test_trajectories_that_are_not_finite_are_given_up() -> None:
    case = problem()
    made, phi = estimator(case), phi_of(case)
    (call,) = made.calls(0, phi, None, 3)
    far = phi.replace(tensors={**phi.tensors, "initialization.log_std": torch.full((2,), -800.0, dtype=torch.float64)})
    found, carried = made.combine([made.measure(at(call, 1, far, made.measure(call).carried))])
    assert found.diverged
    assert carried == [None]


def test_the_ratio_has_the_curvature_of_the_mean_return_and_the_logarithm_has_none() -> None:
    """One free step with squared distance: minus the mean return is |mean - goal|^2 + 2 std^2, with Hessian 2 in the
    mean. Of advantages times log densities, quadratic in the mean, it is the mean advantage over std^2: 0.
    """
    for surrogate, expected in (("ratio", 2.0), ("log_density", 0.0)):
        case = problem(
            {"horizon": 1, "trajectories": 40000, "queries": 1, **FREE},
            model={"type": "mlp", "hidden": []},
            normalize=False,
            log_std=float(np.log(0.3)),
            surrogate=surrogate,
        )
        loop, task = case.learner({}, "train"), case.sample("train", np.arange(2))
        theta = loop.begin(phi_of(case), task, 0)["theta"]
        bias = torch.full((2, 2), 0.1, dtype=torch.float64, requires_grad=True)
        loss = loop.example_losses({**theta, "head.bias": bias}, {}, task.support, task.seeds)[0].mean(-1).sum()
        (slope,) = torch.autograd.grad(loss, bias, create_graph=True)
        for axis in range(2):
            (second,) = torch.autograd.grad(slope[:, axis].sum(), bias, retain_graph=True)
            # A mean over 40,000 of terms (e^2 - 1) / 0.3^2 times minus an advantage: deviations below 12.
            torch.testing.assert_close(second[:, axis], torch.full((2,), expected).double(), rtol=0, atol=5 * 12 / 200)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "sum"}, "judges the last policy"),
        ({"along": "support"}, "judges the last policy"),
        ({"batch": 2}, "as they are"),
    ],
)
def test_what_it_cannot_do_is_refused(settings: dict[str, Any], message: str) -> None:
    case = problem(**settings)
    with pytest.raises(UnsupportedError, match=message):
        estimator(case).check(case.learner({}, "train"), phi_of(case))


def test_it_is_for_policies() -> None:
    tasks = build("task", {"type": "sinusoid"}, "tasks", device="cpu")
    loop = build("learner", {"type": "inner_loop", "model": "mlp"}, "learner", spec=tasks.spec("train"))
    case = Problem(tasks, lambda choices, split: loop)
    with pytest.raises(UnsupportedError, match="type: policy"):
        estimator(case).check(loop, loop.init(0))
