"""Learned numbers that a searcher of choices sets: their space, and that the inner loop computes the same with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import metasearch as ms
from metasearch.components.chosen import ChosenNumbers
from metasearch.core.errors import ConfigError, MetasearchError, UnsupportedError
from metasearch.core.registry import build
from metasearch.core.space import Choice, Float
from metasearch.core.values import Phi
from metasearch.learners.inner_loop import InnerLoop

START = {"a.weight": torch.full((2, 2), 0.1), "b": torch.tensor(0.1)}


def learner(rates: dict[str, Any], choices: dict[str, Any] | None = None, **changes: Any) -> tuple[Any, InnerLoop]:
    tasks = build("task", {"type": "sinusoid", "shots": 4, "queries": 5}, "tasks", dtype=torch.float64)
    block = {
        "type": "inner_loop",
        "model": {"type": "mlp", "hidden": [3], "activation": "tanh"},
        "steps": 3,
        "slots": {"learning_rates": rates, **changes},
    }
    return tasks, build("learner", block, "learner", spec=tasks.spec("train"), choices=choices or {})


def test_each_number_is_a_dimension_with_the_range_of_all() -> None:
    numbers = ChosenNumbers(ChosenNumbers.Config(within=(0.01, 1.0), log=True), START, {})
    assert dict(numbers.space().dimensions) == dict.fromkeys(
        ["a.weight.0", "a.weight.1", "a.weight.2", "a.weight.3", "b"], Float(0.01, 1.0, log=True)
    )
    assert numbers.tensors == START
    few = ChosenNumbers.Config(within=(0.01, 1.0), log=True, points=3).dimension()
    assert few == Choice((0.01, 0.1, 1.0))
    assert ChosenNumbers.Config(within=(-1.0, 1.0), points=3).dimension() == Choice((-1.0, 0.0, 1.0))


def test_choices_go_where_their_names_say() -> None:
    values = {"a.weight.0": 1.0, "a.weight.1": 2.0, "a.weight.2": 3.0, "a.weight.3": 4.0, "b": 5.0}
    numbers = ChosenNumbers(ChosenNumbers.Config(within=(0.0, 9.0)), START, values)
    found = numbers.like(torch.zeros(1, dtype=torch.float64))
    assert torch.equal(found["a.weight"], torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))
    assert found["b"] == 5.0
    assert numbers.like(torch.zeros(1, dtype=torch.int64))["b"].dtype == torch.float32


@pytest.mark.parametrize(
    ("start", "choices", "message"),
    [
        ({}, {}, "has 0 learned numbers"),
        ({"w": torch.zeros(300)}, {}, "has 300 learned numbers to choose, and 1 to 256"),
        ({"w": torch.zeros(3)}, {"w.0": 0.5, "w.1": 0.5}, "'w.2' is not in both"),
        ({"w": torch.zeros(1)}, {"w.0": 0.5, "w.1": 0.5}, "'w.1' is not in both"),
    ],
)
def test_what_cannot_be_chosen_is_refused(start: Any, choices: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        ChosenNumbers(ChosenNumbers.Config(within=(0.0, 1.0)), start, choices)


@pytest.mark.parametrize("settings", [{"within": [1.0, 0.1]}, {"within": [0.0, 1.0], "log": True}])
def test_a_range_that_is_none_is_named(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"slots\.learning_rates\.chosen.*low < high"):
        learner({"type": "per_layer", "init": 0.1, "chosen": settings})


@pytest.mark.parametrize(("kind", "per_step"), [("per_tensor", False), ("per_layer", True), ("per_parameter", False)])
def test_the_inner_loop_with_chosen_rates_is_the_one_with_these_tensors(kind: str, per_step: bool) -> None:
    block = {"type": kind, "init": 0.1, "per_step": per_step}
    tasks, plain = learner(block)
    _, open_ = learner({**block, "chosen": {"within": [0.001, 1.0], "log": True}})
    point = open_.space().sample(3)
    assert {name for name in point if not name.startswith("slots.learning_rates.")} == set()
    _, filled = learner({**block, "chosen": {"within": [0.001, 1.0], "log": True}}, point)
    phi = plain.init(0).to("cpu", torch.float64)
    weights = {name: value for name, value in phi.tensors.items() if name.startswith("initialization.")}
    assert set(filled.init(0).tensors) == set(weights)
    rates = {}
    for name, value in phi.tensors.items():
        if name.startswith("learning_rates."):
            own = [f"slots.{name}.{i}" for i in range(value.numel())] if value.dim() else [f"slots.{name}"]
            rates[name] = torch.tensor([point[one] for one in own], dtype=torch.float64).reshape(value.shape)
    task = tasks.sample("train", np.arange(4))
    expected = plain.evaluate(Phi({**weights, **rates}), task, 7)
    found = filled.evaluate(Phi(weights), task, 7)
    assert torch.equal(found.query, expected.query)
    assert not torch.equal(found.query, plain.evaluate(phi, task, 7).query)
    x = task.query.x
    predicted = filled.adapt(Phi(weights), task.support, 1)(x)
    assert torch.equal(predicted, plain.adapt(Phi({**weights, **rates}), task.support, 1)(x))
    for name, rate in plain.rates(Phi({**weights, **rates}), 1).items():
        assert torch.equal(filled.rates(Phi(weights), 1)[name], rate.float())


def tree(**changes: Any) -> dict[str, Any]:
    rates = {"type": "per_layer", "init": 0.02, "chosen": {"within": [0.001, 0.1], "log": True, "points": 5}}
    return {
        "name": "chosen",
        "tasks": {"type": "sinusoid", "shots": 5, "queries": 5},
        "learner": {
            "type": "inner_loop",
            "model": {"type": "mlp", "hidden": [8]},
            "steps": 4,
            "slots": {"initialization": {"type": "random"}, "learning_rates": rates},
        },
        "searcher": {"type": "policy", "batch": 2},
        "evaluation": {"type": "episodes", "estimator": "value", "tasks": 4, "shard": 4},
        "test": {"episodes": 4},
        "budget": {"steps": 4},
        "execution": {"type": "inline"},
        "numerics": {"compile": "never"},
        "tracking": {"mlflow": False, "report": False},
        **changes,
    }


def test_chosen_rates_are_searched_stored_and_taken_away(tmp_path: Path) -> None:
    outcome = ms.search(**tree(), runs=tmp_path)
    phi = ms.load(outcome.phi_path)
    assert set(phi.choices) == {"learner.slots.learning_rates.layers.0", "learner.slots.learning_rates.head"}
    model = nn.Module()
    model.layers, model.head = nn.ModuleList([nn.Linear(1, 8)]), nn.Linear(8, 1)
    groups = {name: group["lr"] for group in phi.param_groups(model) for name in group["param_names"]}
    for name, rate in groups.items():
        assert rate == pytest.approx(phi.choices[f"learner.slots.learning_rates.{name.rpartition('.')[0]}"])


def test_a_policy_chooses_rates_while_a_gradient_moves_the_initialization(tmp_path: Path) -> None:
    given = tree()["learner"]
    slots = {
        "initialization": {"type": "tensors", "searcher": "weights"},
        "learning_rates": {**given["slots"]["learning_rates"], "searcher": "rates"},
    }
    joint = tree(
        learner={**given, "slots": slots},
        searchers={"weights": {"type": "gradient", "lr": 0.01}, "rates": {"type": "policy"}},
        compose={"type": "joint", "proposals_per_step": 2},
        evaluation={"type": "episodes", "estimator": "backprop", "tasks": 4, "shard": 4},
    )
    del joint["searcher"]
    outcome = ms.search(**joint, runs=tmp_path)
    found = ms.load(outcome.phi_path)
    assert len(found.choices) == 2
    assert {name.partition(".")[0] for name in found.phi.tensors} == {"initialization"}


def test_a_slot_that_its_searcher_could_not_move_is_refused() -> None:
    given = tree()["learner"]
    rates = {"type": "per_layer", "init": 0.02, "searcher": "searcher"}
    slots = {**given["slots"], "learning_rates": rates}
    learner_ = {**given, "slots": slots, "steps": {"train": 2, "test": {"int": [2, 4]}}}
    with pytest.raises(MetasearchError, match=r"slots\.learning_rates\.searcher: 'searcher' takes choices.*chosen"):
        ms.check(tree(learner=learner_))


def test_numbers_that_other_splits_have_more_of_are_refused_at_the_start() -> None:
    given = tree()["learner"]
    rates = {"type": "per_parameter", "init": 0.02, "chosen": {"within": [0.001, 0.1]}}
    drawings = {"type": "omniglot", "ways": {"train": 2, "test": 3}, "shots": 1, "image_size": 7}
    few = {**given, "model": {"type": "mlp", "hidden": [2]}, "adapt": ["head.bias"]}
    with pytest.raises(MetasearchError, match=r"other choices in the split 'test'.*learning_rates\.head\.bias\.2"):
        ms.check(
            tree(
                tasks=drawings,
                learner={**few, "slots": {**given["slots"], "learning_rates": rates}},
                searcher={"type": "random"},
            )
        )
