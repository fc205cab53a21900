"""The inner loop on trajectories: estimators in float64 against closed forms and by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metasearch.program  # noqa: F401  (lists the built-in parts)
from metasearch.core.errors import UnsupportedError
from metasearch.core.registry import build
from metasearch.core.values import Phi
from metasearch.estimators.episodes import Problem
from metasearch.learners.policy import PolicyLoop, Rollout, advantages, linear_baseline, log_density
from metasearch.testing.learners import SEEDS

FREE = {"limit": None, "action_scale": 1.0, "radius": 0.0}
SMALL = {"type": "navigation", "horizon": 4, "trajectories": 5, "queries": 6}


def case(tasks: dict[str, Any] | None = None, **learner: Any) -> tuple[Any, PolicyLoop]:
    distribution = build("task", {**SMALL, **(tasks or {})}, "tasks", device="cpu", dtype=torch.float64)
    block = {"type": "policy", "model": {"type": "mlp", "hidden": [3], "activation": "tanh"}, **learner}
    loop = build("learner", block, "learner", spec=distribution.spec("train"))
    assert isinstance(loop, PolicyLoop)
    return distribution, loop


def phi_of(loop: PolicyLoop, seed: int = 0) -> Phi:
    return loop.init(seed).to("cpu", torch.float64)


def test_the_inner_gradient_estimates_the_gradient_of_the_mean_return() -> None:
    """One free step with squared distance: E[return] = -(|mean - goal|^2 + 2 std^2), so its gradient is known."""
    tasks, loop = case(
        {"horizon": 1, "trajectories": 40000, "queries": 1, **FREE},
        model={"type": "mlp", "hidden": []},
        normalize=False,
        log_std=math.log(0.3),
        slots={"learning_rates": {"type": "fixed", "value": 1.0}},
    )
    phi, task = phi_of(loop), tasks.sample("train", np.arange(4))
    phi.tensors["initialization.head.bias"].copy_(torch.tensor([0.2, -0.1]))
    start = loop.begin(phi, task, 0)
    after = loop.step(phi, task, start, 0, create_graph=False)["theta"]
    found = {name: start["theta"][name] - after[name] for name in ("head.bias", "log_std")}  # gradients of the loss
    mean, goal = torch.tensor([0.2, -0.1], dtype=torch.float64), task.info["goal"]
    # The sampling error: each number is a mean over 40,000 trajectories of terms with deviations below 3.
    torch.testing.assert_close(found["head.bias"], 2 * (mean - goal), rtol=0, atol=5 * 3 / 200)
    exact = torch.full((4, 2), 2 * 0.3**2, dtype=torch.float64)
    torch.testing.assert_close(found["log_std"], exact, rtol=0, atol=5 * 1.5 / 200)


def test_the_surrogate_is_what_its_formula_says() -> None:
    tasks, loop = case(discount=0.9)
    phi, task = phi_of(loop), tasks.sample("train", SEEDS)
    theta = loop.begin(phi, task, 0)["theta"]
    rollout, _ = loop.rollout(theta, {}, task.support, SEEDS)
    found, _ = loop.surrogate(theta, {}, rollout)
    weight = advantages(rollout, 0.9, normalize=True)
    own = phi.part("initialization")
    for index in range(len(SEEDS)):
        seen = rollout.observations[index]
        mean = torch.tanh(seen @ own["layers.0.weight"].T + own["layers.0.bias"]) @ own["head.weight"].T
        policy = torch.distributions.Normal(mean + own["head.bias"], own["log_std"].exp())
        density = policy.log_prob(rollout.actions[index]).sum(-1) + math.log(2 * math.pi)
        expected = -(density * weight[index]).sum(-1) / 4
        torch.testing.assert_close(found[index], expected)


def test_the_density_is_the_normal_one_up_to_its_constant() -> None:
    actions, mean, log_std = torch.randn(3, 7, 2, dtype=torch.float64).unbind(0)
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(actions).sum(-1) + math.log(2 * math.pi)
    torch.testing.assert_close(log_density(actions, mean, log_std), expected)


def test_the_meta_gradient_on_given_trajectories_agrees_with_finite_differences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks, loop = case(steps=2, slots={"learning_rates": {"type": "per_tensor", "init": [0.1, 0.3], "per_step": True}})
    phi = phi_of(loop)
    kept: dict[str, Any] = {}
    draw = PolicyLoop.rollout

    def recorded(self: PolicyLoop, theta: Any, buffers: Any, batch: Any, seeds: Any) -> Any:
        key = seeds.tobytes().hex()
        if key not in kept:
            kept[key] = draw(self, theta, buffers, batch, seeds)
        return kept[key]

    monkeypatch.setattr(PolicyLoop, "rollout", recorded)
    problem = Problem(tasks, lambda choices, split: loop, dtype=torch.float64)
    estimator = build("estimator", {"type": "backprop", "tasks": 2, "shard": 2}, "", problem=problem)

    def estimate(point: Phi) -> Any:
        return estimator.combine([estimator.measure(call) for call in estimator.calls(0, point, None, 5)])[0]

    gradient, size = estimate(phi).gradient, 1e-6
    assert len(kept) == 3
    for name, value in phi.tensors.items():
        direction = torch.from_numpy(np.random.default_rng(len(name)).normal(size=tuple(value.shape)))
        above, below = (
            estimate(phi.replace(tensors={**phi.tensors, name: value + sign * size * direction})).objective
            for sign in (1, -1)
        )
        slope = float((gradient[name] * direction).sum())
        assert slope == pytest.approx((above - below) / (2 * size), rel=1e-5, abs=1e-8), name
    assert len(kept) == 3


def by_hand(rewards: list[float], discount: float) -> list[float]:
    return [sum(discount**k * one for k, one in enumerate(rewards[t:])) for t in range(len(rewards))]


def rollout_of(seed: int = 0, lengths: tuple[int, ...] = (5, 3, 5, 2)) -> Rollout:
    draw = torch.Generator().manual_seed(seed)
    alive = torch.stack([(torch.arange(5) < length).double() for length in lengths])[None].expand(2, -1, -1)
    seen, actions = torch.randn(2, 2, 4, 5, 2, generator=draw, dtype=torch.float64).unbind(0)
    return Rollout(seen, actions, torch.randn(2, 4, 5, generator=draw, dtype=torch.float64) * alive, alive)


def test_advantages_are_rewards_to_come_less_a_least_squares_fit() -> None:
    rollout = rollout_of()
    found = advantages(rollout, 0.8, normalize=False)
    for task in range(2):
        features, targets = [], []
        for one, length in enumerate((5, 3, 5, 2)):
            to_come = by_hand(rollout.rewards[task, one].tolist(), 0.8)
            for t in range(length):
                s = rollout.observations[task, one, t].tolist()
                u = t / 100
                features.append([*s, *[a * a for a in s], u, u**2, u**3, 1.0])
                targets.append(to_come[t])
        x, y = np.array(features), np.array(targets)
        weights = np.linalg.solve(x.T @ x + 1e-5 * np.eye(8), x.T @ y)
        mine = np.concatenate([found[task, one, :n].numpy() for one, n in enumerate((5, 3, 5, 2))])
        np.testing.assert_allclose(mine, y - x @ weights, rtol=1e-8, atol=1e-10)
    assert float(found[rollout.alive == 0].abs().max()) == 0.0


def test_normalized_advantages_have_mean_0_and_deviation_1() -> None:
    rollout = rollout_of(1)
    found = advantages(rollout, 0.9, normalize=True)
    for task in range(2):
        values = found[task][rollout.alive[task] > 0]
        assert float(values.mean()) == pytest.approx(0.0, abs=1e-9)
        assert float(values.std(correction=0)) == pytest.approx(1.0, rel=1e-6)


def test_a_value_that_features_can_express_leaves_no_advantage() -> None:
    rollout = rollout_of(2, (5, 5, 5, 5))
    target = 3.0 + rollout.observations[..., 0] - 2 * rollout.observations[..., 1].square()
    torch.testing.assert_close(linear_baseline(rollout, target), target, rtol=1e-4, atol=1e-4)


def test_trajectories_end_at_the_goal() -> None:
    tasks, loop = case({"radius": 0.5, "horizon": 8})
    phi, task = phi_of(loop), tasks.sample("train", np.arange(6))
    rollout, _ = loop.rollout(loop.begin(phi, task, 0)["theta"], {}, task.support, np.arange(6))
    distance = (rollout.observations - task.info["goal"][:, None, None]).norm(dim=-1)
    for step in range(1, 8):
        arrived = distance[..., step] < 0.5
        assert not (rollout.alive[..., step] * arrived).any()
        assert (rollout.alive[..., step] <= rollout.alive[..., step - 1]).all()
    assert float(rollout.rewards[rollout.alive == 0].abs().sum()) == 0.0
    assert 0 < float(rollout.alive.mean()) < 1


def test_some_steps_on_a_task_raise_its_return() -> None:
    tasks, loop = case(
        {"horizon": 10, "trajectories": 40, "queries": 40, "action_scale": 0.1},
        steps={"train": 1, "test": 15},
        log_std=-0.5,
        slots={"learning_rates": {"type": "fixed", "value": 0.3}},
    )
    phi, task = phi_of(loop), tasks.sample("test", np.arange(10))
    state = loop.begin(phi, task, 0)
    before = loop.query_loss(phi, task, state, None)
    for _ in range(15):
        state = loop.step(phi, task, state, 0, create_graph=False)
    after = loop.query_loss(phi, task, state, None)
    assert float((after.metrics["return"] - before.metrics["return"]).mean()) > 0.5
    torch.testing.assert_close(after.query, -after.metrics["return"])


def test_a_learned_policy_is_loaded_with_its_world(tmp_path: Path) -> None:
    import metasearch as ms

    outcome = ms.search(
        name="nav",
        tasks={**SMALL, "reward": "distance"},
        learner={"type": "policy", "model": {"type": "mlp", "hidden": [4]}},
        searcher={"type": "gradient", "lr": 1e-3},
        evaluation={"type": "episodes", "estimator": "backprop", "tasks": 2, "shard": 2},
        validation={"every": 2, "episodes": 4, "select": "return"},
        test={"episodes": 4, "baselines": ["random"]},
        budget={"steps": 2},
        execution={"type": "inline"},
        tracking={"mlflow": False, "report": False},
        runs=tmp_path,
    )
    assert outcome.results is not None
    assert outcome.results["test"]["return"] == pytest.approx(-outcome.results["test"]["L"])
    phi = ms.load(outcome.phi_path)
    assert phi.spec.environment.config.reward == "distance"
    assert ms.evaluate(phi, episodes=4)["return"] == outcome.results["test"]["return"]
    goal = torch.tensor([[0.3, -0.2]]).expand(5, -1)
    adapted = phi.adapt(torch.zeros(5, 2), goal)
    assert adapted(torch.zeros(1, 2)).shape == (1, 2)
    module = adapted.module()
    torch.testing.assert_close(module(torch.ones(3, 2)), adapted(torch.ones(3, 2)))


def test_only_tasks_with_a_world_have_policies() -> None:
    tasks = build("task", {"type": "sinusoid"}, "tasks", device="cpu")
    with pytest.raises(UnsupportedError, match="policy needs tasks with a world"):
        build("learner", {"type": "policy", "model": "mlp"}, "learner", spec=tasks.spec("train"))
    tasks = build("task", SMALL, "tasks", device="cpu")
    with pytest.raises(UnsupportedError, match="tasks of kind 'control' need a loss"):
        build("learner", {"type": "inner_loop", "model": "mlp"}, "learner", spec=tasks.spec("train"))
