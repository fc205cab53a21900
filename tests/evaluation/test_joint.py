"""Baselines that train on many tasks at once, against what they must find on linear problems."""

from typing import Any

import numpy as np
import pytest
import torch

import metasearch.program  # noqa: F401  (lists the built-in parts)
from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.core.registry import build
from metasearch.core.values import Phi
from metasearch.estimators.episodes import Problem
from metasearch.estimators.value import Value
from metasearch.evaluation.joint import examples_of


def problem(tasks: dict[str, Any] | None = None, **learner: Any) -> Problem:
    given = tasks or {"type": "quadratic", "dimensions": 2, "center": 3.0, "condition": 1.0}
    distribution = build("task", given, "tasks", device="cpu", dtype=torch.float64)
    block = {"type": "inner_loop", "model": {"type": "mlp", "hidden": []}, **learner}
    built = build("learner", block, "learner", spec=distribution.spec("train"))
    return Problem(distribution, lambda choices, split: built, dtype=torch.float64)


def baseline(name: str, case: Problem, **settings: Any) -> Any:
    return build("baseline", {"type": name, **settings}, f"test.baselines.{name}", problem=case, split="test")


def start_of(phi: Phi) -> np.ndarray[Any, Any]:
    return phi.tensors["initialization.head.weight"].numpy().ravel()


def test_pretraining_on_sampled_tasks_finds_the_mean_of_all_tasks() -> None:
    phi = baseline("pretrained", problem(), steps=400, lr=0.05).prepare(0)
    np.testing.assert_allclose(start_of(phi), [3.0, 3.0], atol=0.25)


def test_averaged_networks_have_the_mean_of_the_tasks_solutions() -> None:
    case = problem()
    made = baseline("averaged", case, tasks=12, steps=600, lr=0.05)
    pools: list[Any] = []
    made._problem = Problem(Recorded(case.tasks, pools), case.learner, dtype=case.dtype)
    phi = made.prepare(0)
    solutions = torch.cat([task.info["solution"] for task in pools])
    assert len(solutions) == 12
    np.testing.assert_allclose(start_of(phi), solutions.mean(0).numpy(), atol=0.02)


class Recorded:
    def __init__(self, tasks: Any, pools: list[Any]) -> None:
        self._tasks, self._pools = tasks, pools

    def spec(self, split: str) -> Any:
        return self._tasks.spec(split)

    def sample(self, split: str, seeds: Any) -> Any:
        self._pools.append(self._tasks.sample(split, seeds))
        return self._pools[-1]


def test_multitask_shares_layers_and_starts_from_the_mean_of_the_last_ones() -> None:
    case = problem(model={"type": "mlp", "hidden": [2], "activation": "tanh"})
    made = baseline("multitask", case, tasks=6, batch=3, steps=400, lr=0.01)
    pools: list[Any] = []
    made._problem = Problem(Recorded(case.tasks, pools), case.learner, dtype=case.dtype)
    phi = made.prepare(0)
    (task,) = pools
    x, y = torch.cat([task.support.x, task.query.x], 1), torch.cat([task.support.y, task.query.y], 1)
    layer = phi.to("cpu", torch.float64).part("initialization")
    features = torch.tanh(x @ layer["layers.0.weight"].T + layer["layers.0.bias"])
    outputs = features @ layer["head.weight"].T + layer["head.bias"]
    fresh = case.learner({}, "train").init(0).to("cpu", torch.float64).part("initialization")
    before = torch.tanh(x @ fresh["layers.0.weight"].T) @ fresh["head.weight"].T
    assert float((outputs - y).square().mean()) < 0.7 * float((before - y).square().mean())
    assert layer["head.weight"].shape == fresh["head.weight"].shape


@pytest.mark.parametrize("name", ["pretrained", "multitask", "averaged", "random"])
def test_a_baseline_is_the_same_under_the_same_seed(name: str) -> None:
    settings = {} if name == "random" else {"steps": 3}
    made = baseline(name, problem(), **settings)
    first, again, other = (start_of(made.prepare(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", ["random", "pretrained"])
def test_the_best_of_several_rates_is_taken_by_validation_tasks(name: str) -> None:
    case = problem(steps={"train": 1, "test": 3})
    rates = (1e-4, 0.2, 30.0)
    made = baseline(name, case, rates=rates, episodes=20, **({} if name == "random" else {"steps": 1}))
    phi = made.prepare(0)
    assert float(phi.tensors["learning_rates.rate"]) == pytest.approx(0.2)
    here = Problem(case.tasks, lambda choices, split: made.learner, dtype=case.dtype)
    value = Value(Value.Config(tasks=20, shard=10), here)

    def loss(rate: float) -> float:
        point = phi.replace(tensors={**phi.tensors, "learning_rates.rate": torch.tensor(rate)})
        return value.combine([value.measure(call) for call in value.calls(0, point, None, 1, "test")])[0].value

    assert loss(0.2) < min(loss(1e-4), loss(30.0))


def test_all_examples_of_a_task_are_taken() -> None:
    case = problem()
    seeds = np.arange(3)
    task, both = case.sample("train", [0, 1, 2]), examples_of(case, seeds)
    assert both.x.shape == (3, 16, 2)
    assert torch.equal(both.y[:, 8:], task.query.y)


IMAGES = {"type": "omniglot", "ways": 3, "queries": 2}


def test_classes_of_tasks_are_told_apart_by_heads_of_their_own() -> None:
    case = problem(IMAGES, model={"type": "conv4", "filters": 3, "blocks": 2, "norm": "running"})
    made = baseline("multitask", case, tasks=4, batch=4, steps=2)
    phi, fresh = made.prepare(0), made.learner.init(0)
    assert {name: value.shape for name, value in phi.tensors.items()} == {
        name: value.shape for name, value in fresh.tensors.items()
    }
    moved = phi.buffers["initialization.blocks.0.norm.running_mean"]
    assert not torch.equal(moved, fresh.buffers["initialization.blocks.0.norm.running_mean"])


def test_what_cannot_be_trained_jointly_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="'averaged' needs an inner loop with a learned initialization"):
        baseline("averaged", problem(slots={"initialization": {"type": "random"}}))

    class Unlabelled:
        def __init__(self) -> None:
            self._tasks = build("task", IMAGES, "tasks", device="cpu")
            self.spec, self.sample = self._tasks.spec, self._tasks.sample

    case = problem(IMAGES, model={"type": "conv4", "filters": 3, "blocks": 2})
    with pytest.raises(UnsupportedError, match="'pretrained' needs tasks with examples"):
        baseline("pretrained", Problem(Unlabelled(), case.learner))
    with pytest.raises(ConfigError, match=r"test\.baselines\.random\.rates"):
        baseline("random", problem(), rates=[0.0])
