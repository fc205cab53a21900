"""Experiment files with small budgets, each by another method: they end better than they start."""

from pathlib import Path
from typing import Any

import descent
import numpy as np
import pytest
import yaml
from descent import EPOCHS
from records import of_type

from metasearch.core.contracts import Trial
from metasearch.core.errors import MetasearchError
from metasearch.loaded import load as load_phi
from metasearch.reporting import plots
from metasearch.resolution import load
from metasearch.running import Outcome, run

BASE = """
name: small
evaluation:
  type: objective
  function: descent:train
  config: {lr: {float: [1.0e-4, 1.0], log: true}, weight_decay: {float: [1.0e-6, 1.0e-2], log: true}}
execution: {type: inline}
tracking: {mlflow: false, report: false}
"""
INLINE = {
    "gp": "{searcher: {type: optuna, sampler: gp, n_startup_trials: 3}, budget: {evaluations: 6}, seed: 2}",
    "cmaes": "{searcher: {type: optuna, sampler: cmaes, popsize: 4}, budget: {evaluations: 14}}",
    "nsgaii": "{searcher: {type: optuna, sampler: nsgaii, population_size: 6}, budget: {evaluations: 14}}",
}
FOUR = """
evaluation:
  type: objective
  function: descent:train
  config: {lr: {float: [1.0e-4, 0.2], log: true}, weight_decay: {float: [1.0e-6, 1.0e-2], log: true}}
searcher: {type: random, in_flight: 4}
budget: {evaluations: 4}
seed: 3
"""
SIX = "{searcher: {type: random, in_flight: 6}, budget: {evaluations: 6}, seed: 2}"
ON_RAY = {"execution": {"workers": 2}}


def finished(changes: str, folder: Path, **further: Any) -> Outcome:
    file = folder / "small.yaml"
    file.write_text(
        yaml.safe_dump({"searcher": {"type": "random"}, **yaml.safe_load(BASE), **yaml.safe_load(changes), **further})
    )
    outcome = run(load(file), root=folder / "runs")
    assert outcome.status == "finished"
    return outcome


@pytest.mark.parametrize("method", INLINE)
def test_a_sampler_ends_better_than_it_starts(method: str, tmp_path: Path) -> None:
    outcome = finished(INLINE[method], tmp_path)
    losses = [one["L"] for one in of_type(outcome.directory.path, "evaluation")]
    assert np.nanmin(losses[3:]) < np.nanmean(losses[:3])
    assert outcome.results is not None
    assert outcome.results["selected"]["L"] == np.nanmin(losses)


def curves(path: Path) -> dict[int, list[float]]:
    """L of each run after each of its epochs."""
    found: dict[int, list[float]] = {}
    for one in sorted(of_type(path, "report"), key=lambda one: one["step"]):
        found.setdefault(one["id"], []).append(one["metrics"]["L"])
    return found


def alone(changes: str, folder: Path) -> dict[int, list[float]]:
    """What the same random settings come to, each trained to its end with nobody looking on."""
    (folder / "alone").mkdir()
    return curves(finished(changes, folder / "alone").directory.path)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_hyperband_goes_on_with_what_has_been_best_so_far(tmp_path: Path) -> None:
    outcome = finished(SIX, tmp_path, **ON_RAY, scheduler={"type": "hyperband", "max": 4, "reduction": 4})
    found, whole = curves(outcome.directory.path), alone(SIX, tmp_path)
    # Tune's first bracket has two runs and halves nothing; the second has four, of which one passes its first epoch.
    best = min((2, 3, 4, 5), key=lambda number: whole[number][0])
    lengths = {number: EPOCHS if number in (0, 1, best) else 1 for number in range(6)}
    assert {number: len(losses) for number, losses in found.items()} == lengths
    for number, losses in found.items():  # who waits goes on from where it stood
        np.testing.assert_allclose(losses, whole[number][: len(losses)], rtol=1e-5)
    # For 21 epochs instead of 36:
    assert outcome.results is not None
    assert outcome.results["selected"]["L"] < np.mean([losses[-1] for losses in whole.values()])


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("kind", [pytest.param("pbt", marks=pytest.mark.slow), "pb2"])
def test_a_population_ends_better_than_its_members_would_alone(kind: str, tmp_path: Path) -> None:
    scheduler = {"type": kind, "population": 4, "max": EPOCHS, "interval": 2}
    outcome = finished(FOUR, tmp_path, **ON_RAY, scheduler=scheduler)
    path = outcome.directory.path
    found, whole = curves(path), alone(FOUR, tmp_path)
    changes = [one["detail"] for one in of_type(path, "event") if one["event"] == "population"]
    assert [one["step"] for one in changes] == [2, 4]
    moved: set[int] = set()
    for change in changes:
        step = change["step"]
        order = sorted(found, key=lambda member: found[member][step - 1])
        members = {int(number): one for number, one in change["members"].items()}
        assert {number: one["source"] for number, one in members.items() if one["source"] != number} == {
            order[-1]: order[0]
        }
        moved.add(order[-1])
        again = Continued(
            path / "trials" / members[order[-1]]["checkpoint"], seed_of(path, order[-1]), tmp_path / str(step)
        )
        descent.train({"width": 16, **plain(members[order[-1]]["choices"])}, again)
        np.testing.assert_allclose(again.losses[:2], found[order[-1]][step : step + 2], rtol=1e-4)
    for member in set(found) - moved:
        np.testing.assert_allclose(found[member], whole[member], rtol=1e-5)
    ends, ends_alone = ([one[member][-1] for member in whole] for one in (found, whole))
    assert len(moved) < 4
    assert all(found[member][-1] < whole[member][-1] for member in moved)
    assert np.mean(ends) < np.mean(ends_alone)
    assert outcome.results is not None
    assert outcome.results["selected"]["L"] == min(ends)
    learned = load_phi(path).schedule
    assert learned.steps == EPOCHS
    best = outcome.results["selected"]
    assert learned.config(EPOCHS - 1)["lr"] == (best.get("schedule") or [best])[-1]["choices"]["evaluation.config.lr"]
    assert "schedule" in plots(path)


class Continued(Trial):
    """A run that goes on from a checkpoint, in this process."""

    def __init__(self, restored: Path, seed: int, folder: Path) -> None:
        self.id, self.seed, self.restored = 0, seed, restored
        self.losses: list[float] = []
        self._folder = folder

    def report(self, step: int, **metrics: float) -> None:
        self.losses.append(metrics["L"])

    def checkpoint(self) -> Path:
        self._folder.mkdir(exist_ok=True)
        return self._folder


def seed_of(path: Path, member: int) -> int:
    (seed,) = (int(one["seed"]) for ask in of_type(path, "ask") for one in ask["proposals"] if one["id"] == member)
    return seed


def plain(choices: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("evaluation.config."): value for name, value in choices.items()}


def test_a_multi_objective_search_ends_in_a_pareto_set(tmp_path: Path) -> None:
    width = {"lr": 0.05, "weight_decay": 0.0, "width": {"int": [1, 24], "log": True}}
    outcome = finished(
        "{searcher: {type: optuna, sampler: nsgaii, population_size: 6}, budget: {evaluations: 10}}",
        tmp_path,
        evaluation={"type": "objective", "function": "descent:train", "config": width},
        objectives={"L": "min", "parameters": "min"},
        constraints={"parameters": {"max": 60}},
    )
    values = [one["values"] for one in outcome.pareto]
    assert outcome.results is not None
    assert outcome.results["pareto"] == outcome.pareto
    assert values
    assert all(one["parameters"] <= 60 for one in values)
    assert [one["L"] for one in values] == sorted(one["L"] for one in values)
    assert [one["parameters"] for one in values] == sorted((one["parameters"] for one in values), reverse=True)
    every = [one for one in of_type(outcome.directory.path, "evaluation") if one["metrics"]["parameters"] <= 60]
    for one in values:
        assert not any(o["L"] < one["L"] and o["metrics"]["parameters"] < one["parameters"] for o in every)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": {"L": "min", "parameters": "min"}}, "for one searcher that takes several figures"),
        (
            {"scheduler": {"type": "pbt", "population": 4, "max": 6}, "budget": {"evaluations": 5}},
            "the population has 4 members",
        ),
        (
            {"scheduler": {"type": "pbt", "population": 4, "max": 6}, "budget": {"evaluations": 4}},
            "trains side by side; use actors",
        ),
        ({"scheduler": {"type": "pb2", "max": 6}}, "scheduler.population: is required"),
        (
            {
                "searcher": {"type": "optuna"},
                "objectives": {"L": "min", "parameters": "min"},
                "scheduler": {"type": "median"},
            },
            "'median' compares one figure",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_it_starts(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(MetasearchError, match=message):
        finished("{budget: {evaluations: 4}}", tmp_path, **changes)


def test_a_search_over_choices_validates_and_keeps_its_lowest_l_so_far(tiny: dict[str, Any], tmp_path: Path) -> None:
    rates = {"type": "fixed", "value": {"float": [1e-4, 0.5], "log": True}}
    tree = {
        **tiny,
        "learner": {**tiny["learner"], "slots": {"learning_rates": rates}},
        "searcher": {"type": "random"},
        "evaluation": {**tiny["evaluation"], "estimator": "value"},
        "validation": {"every": 2, "episodes": 6, "shard": 3},
    }
    outcome = run(load(tree), root=tmp_path)
    path = outcome.directory.path
    asked = {one["id"]: one["choices"] for ask in of_type(path, "ask") for one in ask["proposals"]}
    losses = {one["id"]: one["L"] for one in of_type(path, "evaluation")}
    records = of_type(path, "validation")
    assert [one["step"] for one in records] == [2, 4, 6, 8]
    for record in records:
        best = min(range(record["step"]), key=losses.__getitem__)
        assert record["choices"] == asked[best]
    assert len({one["L"] for one in records}) == len({str(one["choices"]) for one in records}) > 1
    selected = min(records, key=lambda one: one["L"])
    assert load_phi(path).choices == selected["choices"]
    assert outcome.results is not None
    assert outcome.results["selected"]["choices"] == selected["choices"]
