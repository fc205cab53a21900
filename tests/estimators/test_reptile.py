"""Reptile's direction in float64: closed forms on quadratics, torch's Adam, and what must not change it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

import metasearch.program  # noqa: F401  (lists the built-in parts)
from metasearch.core.errors import UnsupportedError
from metasearch.core.registry import build
from metasearch.core.values import Phi
from metasearch.estimators.episodes import Problem

RATE = 0.05
Array = np.ndarray[Any, Any]


def quadratic(steps: int, tasks: dict[str, Any] | None = None, **settings: Any) -> Problem:
    distribution = build("task", {"type": "quadratic", **(tasks or {})}, "", device="cpu", dtype=torch.float64)
    slots = {"learning_rates": {"type": "fixed", "value": RATE}, **settings.pop("slots", {})}
    block = {"type": "inner_loop", "model": {"type": "mlp", "hidden": []}, "steps": steps, "slots": slots, **settings}
    learner = build("learner", block, "", spec=distribution.spec("train"))
    return Problem(distribution, lambda choices, split: learner, dtype=torch.float64)


def reptile(problem: Problem, tasks: int = 6, shard: int = 2, **settings: Any) -> Any:
    return build("estimator", {"type": "reptile", "tasks": tasks, "shard": shard, **settings}, "", problem=problem)


def start(problem: Problem) -> Phi:
    return problem.phi(problem.learner({}, "train").init(3))


def direction(problem: Problem, phi: Phi, seed: int = 5, **settings: Any) -> Array:
    estimator = reptile(problem, **settings)
    return flat(estimator.combine([estimator.measure(one) for one in estimator.calls(0, phi, None, seed)])[0].gradient)


def flat(tensors: dict[str, torch.Tensor]) -> Array:
    return torch.cat([tensors[f"initialization.head.{one}"].ravel() for one in ("weight", "bias")]).numpy()


def sampled(problem: Problem, phi: Phi, tasks: int = 6, seed: int = 5) -> Any:
    calls = reptile(problem, tasks, tasks).calls(0, phi, None, seed)
    return problem.sample("train", calls[0].seeds)


def normal_equations(task: Any, index: int) -> tuple[Array, Array]:
    """Rows (x, 1) and targets of a task's support set."""
    x = task.support.x[index].numpy()
    return np.c_[x, np.ones(len(x))], task.support.y[index, :, 0].numpy()


@pytest.mark.parametrize("steps", [1, 4, 50])
def test_on_a_quadratic_it_is_the_way_to_where_the_steps_lead(steps: int) -> None:
    """phi - theta_k = (I - (I - a H)^k) (phi - theta*), averaged over tasks."""
    problem = quadratic(steps)
    phi = start(problem)
    task, point = sampled(problem, phi), flat(phi.tensors)
    expected = np.zeros_like(point)
    for index in range(6):
        x, y = normal_equations(task, index)
        hessian = 2 * x.T @ x / len(x)
        left = np.linalg.matrix_power(np.eye(len(point)) - RATE * hessian, steps)
        expected += (np.eye(len(point)) - left) @ (point - np.linalg.solve(hessian, 2 * x.T @ y / len(x))) / 6
    np.testing.assert_allclose(direction(problem, phi), expected, rtol=1e-9, atol=1e-12)


def test_with_minibatches_its_expectation_is_the_mean_over_all_orders_of_the_examples() -> None:
    problem = quadratic(3, {"dimensions": 1, "shots": 3, "pool": 1}, batch=1)
    phi = start(problem)
    point = flat(phi.tensors)
    x, y = normal_equations(sampled(problem, phi, 1), 0)
    ends = []
    for order in itertools.permutations(range(3)):
        theta = point.copy()
        for one in order:
            theta -= RATE * 2 * x[one] * (x[one] @ theta - y[one])
        ends.append(point - theta)
    tasks = 2400
    spread = np.std(ends, axis=0) / np.sqrt(tasks)
    found = direction(problem, phi, tasks=tasks, shard=600)
    assert np.all(spread > 0)
    assert np.all(np.abs(found - np.mean(ends, axis=0)) < 4 * spread)


@pytest.mark.parametrize("settings", [{}, {"batch": 3}])
def test_how_tasks_are_grouped_changes_rounding_only(settings: dict[str, Any]) -> None:
    problem = quadratic(4, slots={"update_rule": {"type": "adam", "betas": [0.0, 0.999]}}, **settings)
    phi = start(problem)
    one, other = (direction(problem, phi, shard=shard) for shard in (1, 6))
    np.testing.assert_allclose(one, other, rtol=1e-10)


@pytest.mark.parametrize("carry", [False, True])
def test_adam_starts_anew_in_each_task_or_where_the_tasks_before_ended_on_average(carry: bool) -> None:
    betas = (0.5, 0.9)
    problem = quadratic(3, slots={"update_rule": {"type": "adam", "betas": list(betas), "carry": carry}})
    phi = start(problem)
    point, estimator = flat(phi.tensors), reptile(problem, 2, 1)
    kept: dict[str, Any] = {}
    for evaluation in range(3):
        calls = estimator.calls(evaluation, phi, None, 10 + evaluation)
        estimate, _ = estimator.combine([estimator.measure(call) for call in calls])
        ends, moments = [], []
        for call in calls:
            leaves = [torch.from_numpy(one.copy()).requires_grad_() for one in (point[:-1], point[-1:])]
            optimizer = torch.optim.Adam(leaves, lr=RATE, betas=betas)
            if carry and evaluation:
                for leaf, (first, second) in zip(leaves, kept["moments"], strict=True):
                    done = torch.tensor(3.0 * evaluation)
                    optimizer.state[leaf] = {"step": done, "exp_avg": first.clone(), "exp_avg_sq": second.clone()}
            task = problem.sample("train", call.seeds)
            for _ in range(3):
                optimizer.zero_grad()
                (task.support.x[0] @ leaves[0] + leaves[1] - task.support.y[0, :, 0]).square().mean().backward()
                optimizer.step()
            ends.append(torch.cat([leaf.detach() for leaf in leaves]).numpy())
            moments.append([[optimizer.state[leaf][name] for name in ("exp_avg", "exp_avg_sq")] for leaf in leaves])
        np.testing.assert_allclose(flat(estimate.gradient), point - np.mean(ends, 0), atol=1e-12)
        kept["moments"] = [
            [(one + other) / 2 for one, other in zip(*pair, strict=True)] for pair in zip(*moments, strict=True)
        ]
        assert bool(estimate.updates) == carry
        phi = phi.replace(buffers=dict(estimate.updates))


def test_carried_moments_are_where_validation_and_what_is_taken_away_begin() -> None:
    problem = quadratic(3, slots={"update_rule": {"type": "adam", "carry": True}})
    phi, learner = start(problem), problem.learner({}, "train")
    task = sampled(problem, phi)
    fresh = learner.evaluate(phi, task, 0, train=False, create_graph=False)
    assert not fresh.updates
    ends = learner.evaluate(phi, task, 0, create_graph=False).updates
    assert ends["update_rule.second_weight"].item() == pytest.approx(1 - 0.999**3)
    after = phi.replace(buffers=ends)
    assert not torch.allclose(learner.evaluate(after, task, 0, train=False, create_graph=False).query, fresh.query)
    assert not torch.allclose(
        learner.adapt(after, task.support, 0)(task.query.x), learner.adapt(phi, task.support, 0)(task.query.x)
    )


@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize("batch", [None, 2])
def test_the_traced_form_gives_the_eager_values(carry: bool, batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = []

    def interpret(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        programs.append(graph)
        return lambda values: graph(*values)

    monkeypatch.setattr("metasearch.estimators.compile._inductor", interpret)
    agree(*(chain(carry, batch, mode) for mode in ("never", "always")), rtol=1e-13)
    assert len(programs) == 1


def test_the_compiled_form_gives_the_eager_values() -> None:
    agree(*(chain(True, 2, mode) for mode in ("never", "always")), rtol=1e-11)


def chain(carry: bool, batch: Any, mode: Any) -> list[Any]:
    """Three evaluations of two shards one after the other, with what they hand on."""
    adam = {"update_rule": {"type": "adam", "betas": [0.5, 0.9], "carry": carry}}
    problem = dataclasses.replace(quadratic(3, {"shots": 5}, slots=adam, batch=batch), compile=mode)
    estimator, phi, found = reptile(problem, 4, 2), start(problem), []
    for evaluation in range(3):
        calls = estimator.calls(evaluation, phi, None, 10 + evaluation)
        found.append(estimator.combine([estimator.measure(call) for call in calls])[0])
        phi = phi.replace(buffers=dict(found[-1].updates))
    return found


def agree(left: list[Any], right: list[Any], rtol: float) -> None:
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(other.gradient, one.gradient, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(other.per_task, one.per_task, rtol=rtol)
        torch.testing.assert_close(other.updates, one.updates, rtol=rtol, atol=rtol)


def test_a_step_of_sgd_at_rate_1_goes_to_the_mean_of_where_training_led() -> None:
    problem = quadratic(2)
    phi = start(problem)
    learner, task = problem.learner({}, "train"), sampled(problem, phi)
    state = learner.begin(phi, task, 0)
    for _ in range(2):
        state = learner.step(phi, task, state, 0, create_graph=False)
    moved = flat(phi.tensors) - direction(problem, phi)
    mean = {f"initialization.{name}": value.mean(0) for name, value in state["theta"].items()}
    np.testing.assert_allclose(moved, flat(mean), rtol=1e-12)


def test_what_else_is_learned_is_refused() -> None:
    problem = quadratic(2, slots={"learning_rates": {"type": "shared", "init": 0.1}})
    learner = problem.learner({}, "train")
    with pytest.raises(UnsupportedError, match=r"initialization only, but learning_rates.rate is learned"):
        reptile(problem).check(learner, learner.init(0))


def test_a_learner_without_an_inner_loop_is_refused() -> None:
    tasks = build("task", {"type": "omniglot", "ways": 3}, "", device="cpu")
    learner = build("learner", {"type": "nearest_neighbour"}, "", spec=tasks.spec("train"))
    problem = Problem(tasks, lambda choices, split: learner)
    with pytest.raises(UnsupportedError, match="needs an inner loop, which PixelNearestNeighbour does not open"):
        reptile(problem).check(learner, Phi())
