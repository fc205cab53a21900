"""Update rules: against torch's optimizers, torch's LSTM cell, and formulas written out by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import metasearch.program  # noqa: F401  (lists the built-in parts)
from metasearch.components import Context
from metasearch.components.rules import Block, FlatRule
from metasearch.core.errors import ConfigError
from metasearch.core.registry import build, registry
from metasearch.core.values import Phi, Task
from metasearch.estimators import compile as compiling
from metasearch.estimators.episodes import Problem
from metasearch.learners.inner_loop import InnerLoop
from metasearch.testing.rules import RuleContract

SHAPES = {"weight": (3, 2), "bias": (3,), "gain": ()}
SMALL_MLP = {"type": "mlp", "hidden": [4, 4], "momenta": [0.9, 0.99], "second_moments": [0.999], "learn_decays": True}
RULES: dict[str, dict[str, Any]] = {
    "lstm": {"type": "lstm", "hidden": 5},
    "lstm on plain gradients": {"type": "lstm", "hidden": 3, "layers": 1, "preprocess": "none", "scale": 1.0},
    "mlp": {"type": "mlp", "hidden": [6, 5], "size": 0.05},
    "small mlp": {**SMALL_MLP, "size": 0.05},
    "momentum": {"type": "learned_momentum"},
    "nesterov for each tensor": {"type": "learned_momentum", "nesterov": True, "constants": "tensor"},
    "adam": {"type": "learned_adam"},
    "adam for each tensor": {"type": "learned_adam", "constants": "tensor"},
    "adamw": {"type": "learned_adam", "weight_decay": 0.1, "horizon": 4},
    "scheduled adam for each tensor": {"type": "learned_adam", "constants": "tensor", "knots": [1, 3]},
    "rmsprop": {"type": "learned_adam", "betas": [0.0, 0.99], "correct": False},
    "padam": {"type": "learned_padam", "power": 0.3},
    "padam for each tensor": {"type": "learned_padam", "power": 0.3, "knots": [1, 3], "constants": "tensor"},
}


def rule(shapes: dict[str, tuple[int, ...]] = SHAPES, **settings: Any) -> FlatRule:
    context = Context(None, None, shapes, tuple(shapes))  # type: ignore[arg-type]
    built = build("slot.update_rule", settings, "", context=context)
    assert isinstance(built, FlatRule)
    return built


def learned(made: FlatRule, seed: int = 0) -> dict[str, Tensor]:
    return {name: value.double() for name, value in made.init(seed)[0].items()}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_every_flat_rule_is_covered() -> None:
    listed = registry("slot.update_rule")
    assert {name for name in listed if issubclass(listed.get(name), FlatRule)} == {
        one["type"] for one in RULES.values()
    }


@pytest.mark.parametrize("case", RULES)
class TestRegistered(RuleContract):
    @pytest.fixture
    def make(self, case: str) -> Any:
        return lambda shapes: rule(shapes, **RULES[case])


@pytest.mark.parametrize(
    ("settings", "optimizer", "arguments"),
    [
        ({"type": "learned_momentum", "rate": 0.1, "momentum": 0.0}, torch.optim.SGD, {"lr": 0.1}),
        ({"type": "learned_momentum", "rate": 0.1, "momentum": 0.8}, torch.optim.SGD, {"lr": 0.1, "momentum": 0.8}),
        (
            {"type": "learned_momentum", "rate": 0.1, "momentum": 0.8, "nesterov": True},
            torch.optim.SGD,
            {"lr": 0.1, "momentum": 0.8, "nesterov": True},
        ),
        (
            {"type": "learned_padam", "rate": 0.1, "momentum": 0.8, "power": 0.0, "knots": [0, 3]},
            torch.optim.SGD,
            {"lr": 0.1, "momentum": 0.8, "nesterov": True},
        ),
        (
            {"type": "learned_adam", "rate": 0.02, "betas": [0.8, 0.99], "eps": 1e-6},
            torch.optim.Adam,
            {"lr": 0.02, "betas": (0.8, 0.99), "eps": 1e-6},
        ),
        (
            {"type": "learned_adam", "rate": 0.02, "betas": [0.0, 0.9], "eps": 1e-6, "correct": False},
            torch.optim.RMSprop,
            {"lr": 0.02, "alpha": 0.9, "eps": 1e-6},
        ),
    ],
)
@pytest.mark.parametrize("constants", ["shared", "tensor"])
def test_hand_made_rules_are_torch_s(settings: dict[str, Any], optimizer: Any, arguments: Any, constants: str) -> None:
    made = rule(**settings, constants=constants)
    values = {name: value.double() for name, value in made.init(0)[0].items()}
    theta = {name: normal(2, *shape, seed=len(name)) for name, shape in SHAPES.items()}
    theirs = [{name: value[task].clone().requires_grad_() for name, value in theta.items()} for task in range(2)]
    optimizers = [optimizer(list(one.values()), foreach=False, **arguments) for one in theirs]
    state = made.begin_update(values, theta)
    for step in range(5):
        gradients = {name: normal(2, *shape, seed=10 * step + len(name)) for name, shape in SHAPES.items()}
        theta, state = made.update(values, theta, gradients, {}, state, step)
        for task, one in enumerate(theirs):
            for name, parameter in one.items():
                parameter.grad = gradients[name][task].clone()
            optimizers[task].step()
    for task, one in enumerate(theirs):
        for name, parameter in one.items():  # constants are held in float32
            torch.testing.assert_close(theta[name][task], parameter.detach(), rtol=2e-6, atol=1e-8)


def test_with_decay_and_a_horizon_it_is_torch_s_adamw_under_its_cosine_schedule() -> None:
    made = rule({"weight": (3,)}, type="learned_adam", rate=0.02, weight_decay=0.3, horizon=6)
    values = {name: value.double() for name, value in made.init(0)[0].items()}
    theta = {"weight": normal(1, 3)}
    theirs = theta["weight"][0].clone().requires_grad_()
    optimizer = torch.optim.AdamW([theirs], lr=0.02, weight_decay=0.3, foreach=False)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    state = made.begin_update(values, theta)
    for step in range(6):
        gradient = normal(1, 3, seed=step)
        theta, state = made.update(values, theta, {"weight": gradient}, {}, state, step)
        theirs.grad = gradient[0].clone()
        optimizer.step()
        schedule.step()
        torch.testing.assert_close(theta["weight"][0], theirs.detach(), rtol=2e-6, atol=1e-8)


def test_adam_follows_its_schedule() -> None:
    made = rule({"weight": (3,)}, type="learned_adam", rate=0.02, knots=[1, 3, 8])
    values = {name: value.double() for name, value in made.init(0)[0].items()}
    values["schedule"] = torch.tensor([0.5, -0.25, 1.0], dtype=torch.float64)
    theta = {"weight": normal(1, 3)}
    theirs = theta["weight"][0].clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.02, foreach=False)
    state = made.begin_update(values, theta)
    for step in range(10):
        gradient = normal(1, 3, seed=step)
        theta, state = made.update(values, theta, {"weight": gradient}, {}, state, step)
        factor = np.interp(math.log(step + 1), np.log([2.0, 4.0, 9.0]), [0.5, -0.25, 1.0])
        optimizer.param_groups[0]["lr"] = 0.02 * math.exp(factor)
        theirs.grad = gradient[0].clone()
        optimizer.step()
        torch.testing.assert_close(theta["weight"][0], theirs.detach(), rtol=2e-6, atol=1e-8)


def test_padam_divides_by_a_power_of_the_second_moment_and_follows_its_schedule() -> None:
    made = rule(
        {"weight": (3,)}, type="learned_padam", rate=0.2, momentum=0.8, beta=0.7, power=0.4, eps=0.01, knots=[1, 3, 8]
    )
    values = {name: value.double() for name, value in made.init(0)[0].items()}
    values["schedule"] = torch.tensor([0.5, -0.25, 1.0], dtype=torch.float64)
    theta, state = {"weight": normal(1, 3)}, made.begin_update(values, {"weight": normal(1, 3)})
    here, velocity, square = theta["weight"][0].numpy(), np.zeros(3), np.zeros(3)
    for step in range(10):
        gradient = normal(1, 3, seed=step)
        theta, state = made.update(values, theta, {"weight": gradient}, {}, state, step)
        g = gradient[0].numpy()
        velocity, square = 0.8 * velocity + g, 0.7 * square + 0.3 * g**2
        factor = np.interp(math.log(step + 1), np.log([2.0, 4.0, 9.0]), [0.5, -0.25, 1.0])
        here = here - 0.2 * math.exp(factor) * (g + 0.8 * velocity) / (square / square.mean() + 0.01) ** 0.4
        np.testing.assert_allclose(theta["weight"][0].numpy(), here, rtol=1e-6)  # constants are held in float32


@pytest.mark.parametrize(
    ("preprocess", "feature"), [("none", {}), ("log_sign", {}), ("log_sign", {"gain": 5.0, "centre": 0.6})]
)
def test_the_lstm_is_torch_s_lstm_on_every_coordinate(preprocess: str, feature: dict[str, float]) -> None:
    settings = {"type": "lstm", "hidden": 4, "preprocess": preprocess, "p": 5.0, "scale": 0.3, **feature}
    made = rule(**settings)
    values = learned(made)
    cells = [nn.LSTMCell(1 if preprocess == "none" else 2, 4).double(), nn.LSTMCell(4, 4).double()]
    with torch.no_grad():
        for layer, cell in enumerate(cells):
            cell.weight_ih.copy_(values[f"{layer}.input"])
            cell.weight_hh.copy_(values[f"{layer}.hidden"])
            cell.bias_ih.copy_(values[f"{layer}.bias"])
            cell.bias_hh.zero_()
    theta = {"weight": normal(2, 3)}
    gradients = [
        normal(2, 3, seed=step) * 10.0 ** torch.arange(-6, 0, dtype=torch.float64).view(2, 3) for step in (1, 2, 3)
    ]
    gradients[1][0, 0] = 0.0
    found, state = {"weight": theta["weight"]}, None
    one = rule({"weight": (3,)}, **settings)
    state = one.begin_update(values, theta)
    for step, gradient in enumerate(gradients):
        found, state = one.update(values, found, {"weight": gradient}, {}, state, step)
    for task in range(2):
        for index in range(3):
            place = float(theta["weight"][task, index])
            states: list[Any] = [None, None]
            for gradient in gradients:
                g = float(gradient[task, index])
                x = [g]
                if preprocess == "log_sign":
                    small = abs(g) < math.exp(-5.0)
                    x = [-1.0, math.exp(5.0) * g] if small else [math.log(abs(g)) / 5.0, math.copysign(1.0, g)]
                    x[0] = feature.get("gain", 1.0) * (x[0] + feature.get("centre", 0.0))
                h = torch.tensor([x], dtype=torch.float64)
                for layer, cell in enumerate(cells):
                    states[layer] = cell(h, states[layer])
                    h = states[layer][0]
                place += 0.3 * float((h[0] @ values["out.weight"] + values["out.bias"]).detach())
            assert float(found["weight"][task, index]) == pytest.approx(place, rel=1e-12)


def test_forget_gates_start_with_the_bias_that_is_asked_for() -> None:
    bias = rule(type="lstm", hidden=4, forget=2.5).init(0)[0]["1.bias"]
    assert bias.tolist() == [0.0] * 4 + [2.5] * 4 + [0.0] * 8


def test_the_mlp_rule_is_its_formula() -> None:
    """One tensor of three coordinates, two steps, in numpy alone."""
    made = rule({"weight": (3,)}, **SMALL_MLP, sharpness=0.5, size=0.1, epsilon=1e-3)
    values = learned(made)
    v = {name: value.numpy() for name, value in values.items()}
    theta = np.array([0.3, -1.0, 2.0])
    found, state = {"weight": torch.from_numpy(theta)[None]}, made.begin_update(values, {"weight": normal(1, 3)})
    decays = [float(1 / (1 + np.exp(-one))) for one in (*v["momenta"], *v["second_moments"])]
    means, second = [np.zeros(3), np.zeros(3)], np.zeros(3)
    for step in range(2):
        g = np.array([0.5, -0.2, 1.5]) * (step + 1)
        found, state = made.update(values, found, {"weight": torch.from_numpy(g)[None]}, {}, state, step)
        means = [b * m + (1 - b) * g for b, m in zip(decays, means, strict=False)]
        second = decays[2] * second + (1 - decays[2]) * g**2
        r = 1 / np.sqrt(second + 1e-12)
        features = np.stack([theta, g, *means, r, r * g, r * means[0], r * means[1]])
        features /= np.sqrt((features**2).mean(1, keepdims=True) + 1e-3)
        times = np.tanh(step / np.array([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5]) - 1)
        x = np.maximum(v["0.weight"] @ features + (v["time.weight"] @ times + v["0.bias"])[:, None], 0)
        x = np.maximum(v["1.weight"] @ x + v["1.bias"][:, None], 0)
        d, m = v["out.weight"] @ x + v["out.bias"][:, None]
        theta = theta - 0.1 * d * np.exp(0.5 * m)
        np.testing.assert_allclose(found["weight"][0].numpy(), theta, rtol=1e-10)


def quadratic(rule_: dict[str, Any], start: str = "random", **settings: Any) -> tuple[Problem, InnerLoop]:
    block = {"type": "quadratic", "dimensions": 3, "shots": 4, "queries": 4, "noise": 0.5}
    tasks = build("task", block, "tasks", device="cpu", dtype=torch.float64)
    slots = {"initialization": {"type": start}, "update_rule": rule_}
    model = {"type": "mlp", "hidden": [3], "activation": "tanh"}
    given = {"type": "inner_loop", "model": model, "steps": 4, "slots": slots, **settings}
    made = build("learner", given, "learner", spec=tasks.spec("train"))
    return Problem(tasks, lambda choices, split: made, dtype=torch.float64), made


def gradient_of(problem: Problem, phi: Phi, **settings: Any) -> Any:
    estimator = build("estimator", {"type": "backprop", "tasks": 2, "shard": 2, **settings}, "", problem=problem)
    return estimator.combine([estimator.measure(call) for call in estimator.calls(0, phi, None, 5)])[0]


@pytest.mark.parametrize("case", RULES)
@pytest.mark.parametrize("along", ["query", "support"])
def test_the_full_unroll_agrees_with_finite_differences(case: str, along: str) -> None:
    settings = {**RULES[case], "second_order": True}
    problem, made = quadratic(settings, objective="sum", along=along)
    drawn = made.init(3).tensors  # moved off their start, where units may lie on the kink of their activation
    phi = problem.phi(Phi({name: value + 0.05 * normal(*value.shape, seed=7) for name, value in drawn.items()}))
    found = gradient_of(problem, phi)
    directions = {name: normal(*value.shape, seed=len(name)) for name, value in phi.tensors.items()}
    sides = [
        gradient_of(
            problem, Phi({name: value + step * directions[name] for name, value in phi.tensors.items()})
        ).objective
        for step in (1e-6, -1e-6)
    ]
    slope = sum(float((found.gradient[name] * one).sum()) for name, one in directions.items())
    assert slope == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("case", [*RULES, "meta lstm"])
@pytest.mark.parametrize("second_order", [False, True])
def test_a_recorded_gradient_has_the_values_of_the_eager_one(
    case: str, second_order: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeated expressions become one in a recording, which must not merge memory that is written to."""
    monkeypatch.setattr(compiling, "_inductor", lambda graph, inputs: lambda values: graph(*values))
    settings = {"type": "meta_lstm", "hidden": 4} if case == "meta lstm" else RULES[case]
    order = {} if case == "meta lstm" else {"second_order": second_order}
    problem, made = quadratic({**settings, **order}, start="tensors")
    assert made.traceable
    phi = problem.phi(made.init(3))
    eager, recorded = (gradient_of(dataclasses.replace(problem, compile=mode), phi) for mode in ("never", "always"))
    assert recorded.objective == pytest.approx(eager.objective, rel=1e-12)
    for name, value in eager.gradient.items():
        torch.testing.assert_close(recorded.gradient[name], value, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("case", RULES)
def test_constant_gradients_are_what_a_plain_loop_with_detached_gradients_gives(case: str) -> None:
    """The reference: one task after the other, the network written out, each gradient detached."""
    problem, made = quadratic(RULES[case], objective="sum", along="query", reduction="mean")
    phi = problem.phi(made.init(3))
    found = gradient_of(problem, phi)
    task = problem.sample("train", _seeds(problem, phi))
    leaves = {name: value.clone().requires_grad_() for name, value in phi.tensors.items()}
    point = phi.replace(tensors=leaves)
    theta0 = made.begin(point, task, 5)["theta"]
    total = torch.zeros((), dtype=torch.float64)
    for index in range(2):
        theta = {name: value[index].detach() for name, value in theta0.items()}

        def loss(theta: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            hidden = torch.tanh(x @ theta["layers.0.weight"].T + theta["layers.0.bias"])
            return (hidden @ theta["head.weight"].T + theta["head.bias"] - y).square().mean()

        own = made.slots["update_rule"]
        values = point.part("update_rule")
        state = own.begin_update(values, {name: value[None] for name, value in theta.items()})
        for step in range(4):
            leaf = {name: value.detach().requires_grad_() for name, value in theta.items()}
            slopes = torch.autograd.grad(loss(leaf, task.support.x[index], task.support.y[index]), list(leaf.values()))
            gradients = {name: slope[None] for name, slope in zip(leaf, slopes, strict=True)}
            moved, state = own.update(
                values, {name: value[None] for name, value in theta.items()}, gradients, {}, state, step
            )
            theta = {name: value[0] for name, value in moved.items()}
            total = total + loss(theta, task.query.x[index], task.query.y[index]) / 2
    expected = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    assert found.objective == pytest.approx(float(total.detach()), rel=1e-12)
    for name, value in zip(leaves, expected, strict=True):
        torch.testing.assert_close(found.gradient[name], value, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("case", ["lstm", "adam", "mlp"])
@pytest.mark.parametrize("second_order", [False, True])
def test_the_support_losses_along_the_way_are_those_of_an_equal_query_set(case: str, second_order: bool) -> None:
    """With one set for both, the objective that reuses the inner gradients equals the one that computes losses anew."""
    found = []
    for along in ("query", "support"):
        problem, made = quadratic(
            {**RULES[case], "second_order": second_order}, objective=(1.0, 0.0, 2.0, 0.5), along=along
        )
        drawn = problem.tasks.sample
        problem.tasks.sample = lambda split, seeds, drawn=drawn: _shared(drawn(split, seeds))  # type: ignore[method-assign]
        found.append(gradient_of(problem, problem.phi(made.init(3))))
    assert found[0].objective == pytest.approx(found[1].objective, rel=1e-13)
    for name, value in found[0].gradient.items():
        torch.testing.assert_close(found[1].gradient[name], value, rtol=1e-9, atol=1e-13)


def test_other_learned_parts_of_the_support_loss_keep_their_gradient() -> None:
    """A learned start that is not adapted moves the training losses directly; constants concern the rule only."""
    problem, made = quadratic(
        {"type": "learned_momentum"},
        objective="sum",
        along="support",
        adapt=["head.*"],
        slots={"initialization": {"type": "tensors"}, "update_rule": {"type": "learned_momentum"}},
    )
    phi = problem.phi(made.init(3))
    gradient = gradient_of(problem, phi).gradient
    assert float(gradient["initialization.layers.0.weight"].abs().max()) > 0


@pytest.mark.parametrize("kind", ["learned_adam", "learned_padam"])
@pytest.mark.parametrize("gradients", [[[0.0, 1.0]] * 3, [[0.0, 0.0]] * 3, [[0.0, 0.0], [0.0, 1.0], [1e-13, 1e-13]]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_zero_gradient_is_no_trouble_for_learned_constants(kind: str, gradients: Any, dtype: torch.dtype) -> None:
    """An input that is always 0 has gradients of 0, at which roots of second moments have no derivative; below a head
    of zeros a whole tensor has.
    """
    made = rule({"weight": (2,)}, type=kind)
    values = {name: value.to(dtype).requires_grad_() for name, value in made.init(0)[0].items()}
    theta = {"weight": torch.zeros(1, 2, dtype=dtype)}
    state = made.begin_update(values, theta)
    for step, one in enumerate(gradients):
        theta, state = made.update(values, theta, {"weight": torch.tensor([one], dtype=dtype)}, {}, state, step)
    slopes = torch.autograd.grad(theta["weight"].sum(), list(values.values()), materialize_grads=True)
    assert all(bool(torch.isfinite(one)) for one in slopes)


def test_blocks_sum_and_spread_by_tensor() -> None:
    block = Block(("a", "b"), (1, 3))
    assert block.sums(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist() == [[1.0, 9.0]]
    assert block.spread(torch.tensor([5.0, 7.0])).tolist() == [5.0, 7.0, 7.0, 7.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "learned_momentum", "momentum": 0.0, "nesterov": True}, "needs a momentum above 0"),
        ({"type": "mlp", "momenta": [1.0]}, "decays lie between 0 and 1"),
        ({"type": "learned_padam", "knots": [3, 3]}, "knots are steps in rising order"),
        ({"type": "learned_adam", "knots": [3, 2]}, "knots are steps in rising order"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rule(**settings).init(0)


def _seeds(problem: Problem, phi: Phi) -> Any:
    estimator = build("estimator", {"type": "value", "tasks": 2, "shard": 2}, "", problem=problem)
    return estimator.calls(0, phi, None, 5)[0].seeds


def _shared(task: Task) -> Task:
    return Task(task.support, task.support, task.seeds, task.info)
