"""Meta-gradients in float64: against a closed form, finite differences, and a plain loop over tasks."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import metasearch.program  # noqa: F401  (lists the built-in parts)
from metasearch.core.errors import UnsupportedError
from metasearch.core.registry import build
from metasearch.core.values import Phi
from metasearch.estimators.episodes import Problem
from metasearch.learners.inner_loop import InnerLoop

RATE = 0.03


def problem(tasks: dict[str, Any], learner: dict[str, Any], compile_: Any = "never") -> Problem:
    distribution = build("task", tasks, "tasks", device="cpu", dtype=torch.float64)
    built = build("learner", {"type": "inner_loop", **learner}, "learner", spec=distribution.spec("train"))
    return Problem(distribution, lambda choices, split: built, dtype=torch.float64, compile=compile_)


def quadratic(steps: int, **slots: Any) -> Problem:
    rates = {"learning_rates": {"type": "fixed", "value": RATE}}
    return problem(
        {"type": "quadratic"}, {"model": {"type": "mlp", "hidden": []}, "steps": steps, "slots": {**rates, **slots}}
    )


def estimate(problem: Problem, name: str, phi: Phi, seed: int = 5, tasks: int = 6, shard: int = 2) -> Any:
    estimator = build("estimator", {"type": name, "tasks": tasks, "shard": shard}, "", problem=problem)
    return estimator.combine([estimator.measure(call) for call in estimator.calls(0, phi, None, seed)])[0]


def start(problem: Problem) -> Phi:
    return problem.phi(problem.learner({}, "train").init(3))


def closed_form(
    problem: Problem, phi: Phi, steps: int, *, second_order: bool, seed: int = 5, tasks: int = 6
) -> np.ndarray[Any, Any]:
    """Mean over tasks of (I - a H)^k grad l_query(theta_k) for a linear model with bias, in numpy alone."""
    estimator = build("estimator", {"type": "value", "tasks": tasks, "shard": tasks}, "", problem=problem)
    task = problem.sample("train", estimator.calls(0, phi, None, seed)[0].seeds)
    point = np.append(
        phi.tensors["initialization.head.weight"].numpy().ravel(), phi.tensors["initialization.head.bias"].numpy()
    )
    total = np.zeros_like(point)
    for index in range(tasks):
        (xs, ys), (xq, yq) = (
            (np.c_[batch.x[index].numpy(), np.ones(batch.x.shape[1])], batch.y[index, :, 0].numpy())
            for batch in (task.support, task.query)
        )
        hessian = 2 * xs.T @ xs / len(xs)
        theta = point.copy()
        for _ in range(steps):
            theta -= RATE * (hessian @ theta - 2 * xs.T @ ys / len(xs))
        gradient = 2 * xq.T @ (xq @ theta - yq) / len(xq)
        if second_order:
            gradient = np.linalg.matrix_power(np.eye(len(point)) - RATE * hessian, steps) @ gradient
        total += gradient / tasks
    return total


def flat(gradient: dict[str, torch.Tensor]) -> np.ndarray[Any, Any]:
    return torch.cat([gradient["initialization.head.weight"].ravel(), gradient["initialization.head.bias"]]).numpy()


@pytest.mark.parametrize("steps", [0, 1, 3, 10])
def test_the_exact_gradient_of_a_quadratic_problem_has_its_closed_form(steps: int) -> None:
    case = quadratic(steps)
    phi = start(case)
    found = flat(estimate(case, "backprop", phi).gradient)
    np.testing.assert_allclose(found, closed_form(case, phi, steps, second_order=True), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("steps", [1, 3])
def test_first_order_is_off_by_exactly_the_factors_it_drops(steps: int) -> None:
    case = quadratic(steps)
    phi = start(case)
    found = flat(estimate(case, "first_order", phi).gradient)
    np.testing.assert_allclose(found, closed_form(case, phi, steps, second_order=False), rtol=1e-11, atol=1e-13)
    assert not np.allclose(found, closed_form(case, phi, steps, second_order=True), rtol=1e-3)


def test_the_first_order_keeps_the_way_through_a_head_of_class_means() -> None:
    """An independent reference: phi makes the start, the head included, and the steps are constants added to it."""
    rate, steps, count = 0.05, 2, 4
    case = problem(
        {"type": "omniglot", "ways": 3, "shots": 2, "queries": 2},
        {
            "model": {"type": "mlp", "hidden": [8]},
            "steps": steps,
            "slots": {
                "initialization": {"type": "tensors", "head": "class_means"},
                "learning_rates": {"type": "fixed", "value": rate},
            },
        },
    )
    phi = start(case)
    found = estimate(case, "first_order", phi, tasks=count).gradient
    estimator = build("estimator", {"type": "value", "tasks": count, "shard": count}, "", problem=case)
    task = case.sample("train", estimator.calls(0, phi, None, 5)[0].seeds)
    leaves = [phi.tensors[f"initialization.layers.0.{one}"].clone().requires_grad_() for one in ("weight", "bias")]

    def loss(theta: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        weight, bias, head, offset = theta
        return nn.functional.cross_entropy(torch.relu(x.flatten(1) @ weight.T + bias) @ head.T + offset, y)

    total = torch.zeros((), dtype=torch.float64)
    for index in range(count):
        (xs, ys), (xq, yq) = ((one.x[index], one.y[index]) for one in (task.support, task.query))
        features = torch.relu(xs.flatten(1) @ leaves[0].T + leaves[1])
        means = torch.stack([features[ys == label].mean(0) for label in range(3)])
        begun = [*leaves, 2 * means, -means.square().sum(-1)]
        theta = [one.detach() for one in begun]
        for _ in range(steps):
            now = [one.clone().requires_grad_() for one in theta]
            slopes = torch.autograd.grad(loss(now, xs, ys), now)
            theta = [one - rate * slope for one, slope in zip(theta, slopes, strict=True)]
        total = total + loss([one + (end - one.detach()) for one, end in zip(begun, theta, strict=True)], xq, yq)
    for one, expected in zip(("weight", "bias"), torch.autograd.grad(total / count, leaves), strict=True):
        torch.testing.assert_close(found[f"initialization.layers.0.{one}"], expected, rtol=1e-9, atol=1e-12)


CURVED = {
    "model": {"type": "mlp", "hidden": [5], "activation": "tanh", "batch_norm": True},
    "steps": {"train": 2, "test": 3},
}


@pytest.mark.parametrize(
    "slots",
    [
        {"learning_rates": {"type": "shared", "init": 0.1}},
        {"learning_rates": {"type": "per_parameter", "init": 0.1}},
    ],
)
@pytest.mark.parametrize("objective", ["final", "sum", (0.25, 0.75)])
def test_the_gradient_agrees_with_finite_differences_in_all_of_phi(slots: dict[str, Any], objective: Any) -> None:
    case = problem({"type": "sinusoid", "shots": 4, "queries": 4}, {**CURVED, "slots": slots, "objective": objective})
    phi = start(case)
    found = estimate(case, "backprop", phi, tasks=2)
    step = 1e-6
    for name, tensor in phi.tensors.items():
        direction = torch.from_numpy(np.random.default_rng(len(name)).normal(size=tuple(tensor.shape)))
        sides = [
            estimate(
                case, "backprop", phi.replace(tensors={**phi.tensors, name: tensor + sign * step * direction}), tasks=2
            ).objective
            for sign in (1, -1)
        ]
        slope = float((found.gradient[name] * direction).sum())
        assert slope == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=2e-6, abs=2e-9), name


def test_the_gradient_agrees_with_a_plain_loop_over_tasks() -> None:
    """An independent reference: torch's own layers, one task at a time, ``create_graph=True``."""
    case = problem(
        {"type": "omniglot", "ways": 3, "shots": 1, "queries": 2},
        {
            "model": {"type": "conv4", "filters": 4},
            "steps": 2,
            "slots": {"learning_rates": {"type": "fixed", "value": 0.3}},
        },
    )
    phi = start(case)
    found = estimate(case, "backprop", phi, tasks=4)
    leaves = {
        name.removeprefix("initialization."): value.clone().requires_grad_() for name, value in phi.tensors.items()
    }
    estimator = build("estimator", {"type": "value", "tasks": 4, "shard": 4}, "", problem=case)
    task = case.sample("train", estimator.calls(0, phi, None, 5)[0].seeds)

    def forward(theta: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        for block in range(4):
            x = nn.functional.conv2d(x, theta[f"blocks.{block}.conv.weight"], stride=2, padding=1)
            weight, bias = theta[f"blocks.{block}.norm.weight"], theta[f"blocks.{block}.norm.bias"]
            x = nn.functional.relu(nn.functional.batch_norm(x, None, None, weight, bias, training=True))
        return nn.functional.linear(x.mean(dim=(2, 3)), theta["head.weight"], theta["head.bias"])

    losses = []
    for index in range(4):
        theta = dict(leaves)
        for _ in range(2):
            loss = nn.functional.cross_entropy(forward(theta, task.support.x[index]), task.support.y[index])
            slopes = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
            theta = {name: value - 0.3 * slope for (name, value), slope in zip(theta.items(), slopes, strict=True)}
        losses.append(nn.functional.cross_entropy(forward(theta, task.query.x[index]), task.query.y[index]))
    mean = torch.stack(losses).mean()
    expected = dict(zip(leaves, torch.autograd.grad(mean, list(leaves.values())), strict=True))
    assert found.value == pytest.approx(float(mean.detach()), rel=1e-12)
    for name, value in expected.items():
        torch.testing.assert_close(found.gradient[f"initialization.{name}"], value, rtol=1e-8, atol=1e-11)


def test_shards_change_the_gradient_by_rounding_only() -> None:
    case = quadratic(2)
    phi = start(case)
    one, other = (flat(estimate(case, "backprop", phi, shard=shard).gradient) for shard in (1, 6))
    np.testing.assert_allclose(one, other, rtol=1e-12)


def test_tensors_that_the_inner_loop_does_not_use_get_a_zero_gradient() -> None:
    case = problem(
        {"type": "quadratic"},
        {
            "model": {"type": "mlp", "hidden": []},
            "steps": 0,
            "slots": {"learning_rates": {"type": "shared", "init": 0.1}},
        },
    )
    assert float(estimate(case, "backprop", start(case)).gradient["learning_rates.rate"]) == 0.0


def test_a_diverged_task_is_named_and_its_value_kept() -> None:
    case = problem(
        {"type": "quadratic"},
        {
            "model": {"type": "mlp", "hidden": []},
            "steps": 3,
            "slots": {"learning_rates": {"type": "fixed", "value": 1e200}},
        },
    )
    found = estimate(case, "backprop", start(case))
    assert not np.isfinite(found.value)
    assert found.diverged == tuple(range(6))


def test_adapting_part_of_the_network_leaves_the_rest_as_it_was() -> None:
    case = problem({"type": "sinusoid", "shots": 4, "queries": 4}, {**CURVED, "adapt": ["head.*"]})
    learner = case.learner({}, "train")
    assert isinstance(learner, InnerLoop)
    task = case.sample("train", [1, 2])
    phi = start(case)
    state = learner.step(phi, task, learner.begin(phi, task, 0), 0, create_graph=False)
    moved = {
        name
        for name, value in state["theta"].items()
        if not torch.equal(value, phi.tensors[f"initialization.{name}"].expand_as(value))
    }
    assert moved == {"head.weight", "head.bias"}


CONV4 = {"type": "omniglot", "ways": 3, "shots": 1, "queries": 2}


def at_step(case: Problem, phi: Phi, settings: dict[str, Any], outer_step: int = 0, shard: int = 2) -> Any:
    """An estimate of 4 tasks at an outer step of the search."""
    estimator = build("estimator", {"type": "backprop", "tasks": 4, "shard": shard, **settings}, "", problem=case)
    calls = [dataclasses.replace(call, step=outer_step) for call in estimator.calls(0, phi, None, 5)]
    return estimator.combine([estimator.measure(call) for call in calls])[0]


@pytest.mark.parametrize(
    ("objective", "along"), [("final", "query"), ("sum", "query"), ({"until": 10}, "query"), ("sum", "support")]
)
@pytest.mark.parametrize("rule", [{"type": "sgd"}, {"type": "adam", "eps": 1e-2}])
def test_steps_that_are_computed_again_give_the_same_gradient_bit_for_bit(
    rule: Any, objective: Any, along: str
) -> None:
    slots = {"learning_rates": {"type": "shared", "init": 0.1}, "update_rule": rule}
    case = problem(
        CONV4,
        {
            "model": {"type": "conv4", "filters": 4},
            "steps": 4,
            "slots": slots,
            "objective": objective,
            "along": along,
            "batch": 2,
        },
    )
    phi = start(case)
    kept, again = (at_step(case, phi, {"recompute": one}, 3) for one in (False, True))
    assert again.objective == kept.objective
    assert all(torch.equal(again.gradient[name], value) for name, value in kept.gradient.items())


def test_a_learner_that_does_not_open_its_steps_cannot_compute_them_again() -> None:
    estimator = build("estimator", {"type": "backprop", "recompute": True}, "", problem=quadratic(1))
    with pytest.raises(UnsupportedError, match="needs an inner loop, which object does not open"):
        estimator.check(object(), Phi())


@pytest.mark.parametrize(("outer_step", "weights"), [(0, (0.5, 0.5)), (7, (0.25, 0.75)), (10, (0.0, 1.0))])
@pytest.mark.parametrize("compile_", ["never", "auto"])
def test_an_annealed_objective_has_the_weights_of_the_outer_step(
    outer_step: int, weights: tuple[float, ...], compile_: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metasearch.estimators.compile._inductor", lambda graph, inputs: lambda values: graph(*values))
    tasks = {"type": "sinusoid", "shots": 4, "queries": 4}
    annealed = problem(tasks, {**CURVED, "objective": {"until": 10, "every": 5}}, compile_)
    fixed = problem(tasks, {**CURVED, "objective": weights})
    phi = start(annealed)
    found, expected = at_step(annealed, phi, {}, outer_step), at_step(fixed, phi, {})
    assert found.objective == pytest.approx(expected.objective, rel=1e-12)
    assert found.value == pytest.approx(expected.value, rel=1e-12)
    for name, value in expected.gradient.items():
        torch.testing.assert_close(found.gradient[name], value, rtol=1e-10, atol=1e-13)


def test_other_weights_do_not_mean_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []

    def interpret(graph: Any, inputs: Any) -> Any:
        built.append(1)
        return lambda values: graph(*values)

    monkeypatch.setattr("metasearch.estimators.compile._inductor", interpret)
    case = problem({"type": "sinusoid", "shots": 4, "queries": 4}, {**CURVED, "objective": {"until": 10}}, "auto")
    phi = start(case)
    estimator = build("estimator", {"type": "backprop", "tasks": 4, "shard": 4}, "", problem=case)
    for outer_step in (0, 3, 6, 9, 10, 20):
        (call,) = estimator.calls(0, phi, None, 5)
        estimator.measure(dataclasses.replace(call, step=outer_step))
    assert len(built) == 2  # with weights, and the final loss alone


def test_the_order_of_the_gradient_changes_at_the_outer_step_that_is_said() -> None:
    case = quadratic(3)
    phi = start(case)
    early, late = (flat(at_step(case, phi, {"first_order_until": 5}, step).gradient) for step in (4, 5))
    np.testing.assert_allclose(early, closed_form(case, phi, 3, second_order=False, tasks=4), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(late, closed_form(case, phi, 3, second_order=True, tasks=4), rtol=1e-11, atol=1e-13)


def test_a_sum_over_the_meta_batch_is_the_mean_times_its_size() -> None:
    case = quadratic(2)
    phi = start(case)
    mean, total = (at_step(case, phi, {"reduction": one}) for one in ("mean", "sum"))
    np.testing.assert_allclose(flat(total.gradient), 4 * flat(mean.gradient), rtol=1e-14)
    assert (total.value, total.objective) == (mean.value, mean.objective)


@pytest.mark.parametrize("slots", [{"regularizer": {"type": "proximal", "strength": 2.0}}, {}])
def test_minibatches_proximal_terms_and_norms_of_each_step_agree_with_finite_differences(slots: Any) -> None:
    slots = {**slots, "norms": {"type": "per_step", "steps": 3}, "learning_rates": {"type": "shared", "init": 0.1}}
    settings = {**CURVED, "steps": 3, "batch": 3, "adapt": ["*", "!norms.*"], "slots": slots, "objective": "sum"}
    case = problem({"type": "sinusoid", "shots": 4, "queries": 4}, settings)
    phi = start(case)
    found, step = estimate(case, "backprop", phi, tasks=2), 1e-6
    for seed in range(3):
        draw = np.random.default_rng(seed)
        way = {name: torch.from_numpy(draw.normal(size=tuple(one.shape))) for name, one in phi.tensors.items()}
        sides = [
            estimate(
                case,
                "backprop",
                phi.replace(tensors={name: one + sign * step * way[name] for name, one in phi.tensors.items()}),
                tasks=2,
            ).objective
            for sign in (1, -1)
        ]
        slope = sum(float((found.gradient[name] * one).sum()) for name, one in way.items())
        assert slope == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-6)
