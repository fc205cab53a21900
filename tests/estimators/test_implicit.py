"""Implicit gradients in float64: closed forms, the bias where the inner loop stops early, and finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import metasearch.program  # noqa: F401  (lists the built-in parts)
from metasearch.core.errors import UnsupportedError
from metasearch.core.registry import build
from metasearch.core.values import Phi
from metasearch.estimators.episodes import Problem
from metasearch.estimators.implicit import conjugate_gradient, neumann

RATE, STRENGTH = 0.1, 1.5
Array = np.ndarray[Any, Any]


def problem(tasks: dict[str, Any], steps: int, model: dict[str, Any], **settings: Any) -> Problem:
    distribution = build("task", tasks, "", device="cpu", dtype=torch.float64)
    slots = {
        "learning_rates": {"type": "fixed", "value": RATE},
        "regularizer": {"type": "proximal", "strength": STRENGTH},
        **settings.pop("slots", {}),
    }
    block = {"type": "inner_loop", "model": model, "steps": steps, "slots": slots, **settings}
    learner = build("learner", block, "", spec=distribution.spec("train"))
    return Problem(distribution, lambda choices, split: learner, dtype=torch.float64)


def quadratic(steps: int) -> Problem:
    return problem({"type": "quadratic"}, steps, {"type": "mlp", "hidden": []})


def curved(steps: int = 600, **settings: Any) -> Problem:
    tasks = {"type": "quadratic", "dimensions": 2, "noise": 0.3, "shots": 6, "queries": 6}
    return problem(tasks, steps, {"type": "mlp", "hidden": [3], "activation": "tanh"}, **settings)


def estimate(problem: Problem, phi: Phi, settings: dict[str, Any], tasks: int = 4, shard: int = 2) -> Any:
    estimator = build("estimator", {**settings, "tasks": tasks, "shard": shard}, "", problem=problem)
    return estimator.combine([estimator.measure(call) for call in estimator.calls(0, phi, None, 5)])[0]


def start(problem: Problem) -> Phi:
    return problem.phi(problem.learner({}, "train").init(3))


def flat(tensors: dict[str, torch.Tensor]) -> Array:
    return torch.cat([tensors[f"initialization.head.{one}"].ravel() for one in ("weight", "bias")]).numpy()


def parts(problem: Problem, phi: Phi, steps: int) -> list[tuple[Array, Array]]:
    """Of each task the Hessian of the support loss, and the query gradient after some proximal steps; numpy alone."""
    calls = build("estimator", {"type": "value", "tasks": 4, "shard": 4}, "", problem=problem).calls(0, phi, None, 5)
    task, point, found = problem.sample("train", calls[0].seeds), flat(phi.tensors), []
    for index in range(4):
        (xs, ys), (xq, yq) = (
            (np.c_[batch.x[index].numpy(), np.ones(batch.x.shape[1])], batch.y[index, :, 0].numpy())
            for batch in (task.support, task.query)
        )
        hessian, theta = 2 * xs.T @ xs / len(xs), point.copy()
        for _ in range(steps):
            theta -= RATE * (hessian @ theta - 2 * xs.T @ ys / len(xs) + STRENGTH * (theta - point))
        found.append((hessian, 2 * xq.T @ (xq @ theta - yq) / len(xq)))
    return found


EXACT = {"type": "implicit", "iterations": 5}  # as many as the problem has dimensions


def test_at_convergence_it_is_the_closed_form_and_the_exact_gradient() -> None:
    """(I + H / lambda)^-1 grad l_query(theta*): iMAML."""
    case = quadratic(400)
    phi = start(case)
    expected = np.mean([np.linalg.solve(np.eye(5) + h / STRENGTH, g) for h, g in parts(case, phi, 400)], axis=0)
    found = estimate(case, phi, EXACT)
    np.testing.assert_allclose(flat(found.gradient), expected, rtol=1e-8, atol=1e-11)
    exact = estimate(case, phi, {"type": "backprop"})
    np.testing.assert_allclose(flat(found.gradient), flat(exact.gradient), rtol=1e-8, atol=1e-11)
    assert found.metrics["residual"] < 1e-9


@pytest.mark.parametrize("steps", [1, 5])
def test_before_convergence_it_is_off_by_the_steps_that_were_not_taken(steps: int) -> None:
    case = quadratic(steps)
    phi = start(case)
    bias = []
    for hessian, gradient in parts(case, phi, steps):
        a = hessian + STRENGTH * np.eye(5)
        left = np.linalg.matrix_power(np.eye(5) - RATE * a, steps)
        bias.append(left @ (gradient - STRENGTH * np.linalg.solve(a, gradient)))
    exact, found = (flat(estimate(case, phi, one).gradient) for one in ({"type": "backprop"}, EXACT))
    np.testing.assert_allclose(exact - found, np.mean(bias, axis=0), rtol=1e-9, atol=1e-12)
    assert np.linalg.norm(exact - found) > 1e-3 * np.linalg.norm(exact)


def test_damping_is_added_to_the_diagonal() -> None:
    case = quadratic(400)
    phi = start(case)
    expected = np.mean(
        [STRENGTH * np.linalg.solve(h + (STRENGTH + 0.7) * np.eye(5), g) for h, g in parts(case, phi, 400)],
        axis=0,
    )
    found = flat(estimate(case, phi, {**EXACT, "damping": 0.7}).gradient)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-11)


def test_a_neumann_series_is_the_exact_gradient_through_the_last_steps_of_a_loop_that_has_converged() -> None:
    """k + 1 terms with the inner rate: what phi does in the last k + 1 of many steps, and lambda with it."""
    case = quadratic(400)
    phi = start(case)
    expected = []
    for hessian, gradient in parts(case, phi, 400):
        shrink = np.eye(5) - RATE * (hessian + STRENGTH * np.eye(5))
        expected.append(STRENGTH * RATE * sum(np.linalg.matrix_power(shrink, j) for j in range(4)) @ gradient)
    found = flat(estimate(case, phi, {"type": "implicit", "solver": "neumann", "iterations": 3, "rate": RATE}).gradient)
    np.testing.assert_allclose(found, np.mean(expected, axis=0), rtol=1e-8, atol=1e-11)


CASES: dict[str, dict[str, Any]] = {
    "all": {},
    "head only": {"adapt": ["head.*"]},
    "head from zero": {"adapt": ["head.*"], "slots": {"initialization": {"type": "tensors", "zero": ["head.*"]}}},
    "summed loss": {"reduction": "sum", "slots": {"learning_rates": {"type": "fixed", "value": 0.02}}},
}


@pytest.mark.parametrize("name", CASES)
def test_on_a_small_network_it_agrees_with_finite_differences(name: str) -> None:
    case = curved(**CASES[name])
    phi = start(case)
    found = estimate(case, phi, {"type": "implicit", "iterations": 40}, tasks=2)
    step = 1e-5
    for seed in range(2):
        draw = np.random.default_rng(seed)
        way = {key: torch.from_numpy(draw.normal(size=tuple(one.shape))) for key, one in phi.tensors.items()}
        sides = [
            estimate(
                case,
                phi.replace(tensors={key: one + sign * step * way[key] for key, one in phi.tensors.items()}),
                {"type": "value"},
                tasks=2,
            ).objective
            for sign in (1, -1)
        ]
        slope = sum(float((found.gradient[key] * one).sum()) for key, one in way.items())
        assert slope == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-5)


def test_conjugate_gradient_solves_each_task_in_as_many_products_as_dimensions() -> None:
    draw = np.random.default_rng(0)
    roots = torch.from_numpy(draw.normal(size=(3, 6, 6)))
    matrix = roots @ roots.mT + 0.5 * torch.eye(6, dtype=torch.float64)
    right = torch.from_numpy(draw.normal(size=(3, 6)))
    right[1] = 0.0

    def product(v: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        whole = (matrix @ torch.cat([v["a"].flatten(1), v["b"]], 1)[..., None])[..., 0]
        return {"a": whole[:, :4].reshape(3, 2, 2), "b": whole[:, 4:]}

    given = {"a": right[:, :4].reshape(3, 2, 2), "b": right[:, 4:]}
    for found in (conjugate_gradient(product, given, 9), neumann(product, given, 20000, 0.02)):
        solved = torch.cat([found["a"].flatten(1), found["b"]], 1)
        torch.testing.assert_close(solved, torch.linalg.solve(matrix, right), rtol=1e-6, atol=1e-8)


def test_a_support_loss_that_does_not_depend_on_phi_is_refused() -> None:
    case = curved(steps=1, slots={"regularizer": {"type": "proximal", "strength": 0.0}})
    with pytest.raises(UnsupportedError, match=r"regularizer: \{type: proximal"):
        estimate(case, start(case), {"type": "implicit"})


def test_an_objective_over_several_steps_is_refused() -> None:
    for objective in ("sum", {"until": 10}):
        case = curved(steps=3, objective=objective)
        learner = case.learner({}, "train")
        estimator = build("estimator", {"type": "implicit"}, "", problem=case)
        with pytest.raises(UnsupportedError, match="use objective: final"):
            estimator.check(learner, learner.init(0))
