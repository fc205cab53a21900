"""Experiment files with small budgets, each by another method: they end better than they start."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from records import of_type

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
ON_RAY = {
    "hyperband": "{scheduler: {type: hyperband, max: 6, reduction: 3}, budget: {evaluations: 4}}",
    "pbt": "{scheduler: {type: pbt, population: 4, max: 6, interval: 2}, budget: {evaluations: 4}}",
    "pb2": "{scheduler: {type: pb2, population: 4, max: 6, interval: 2}, budget: {evaluations: 4}}",
}


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


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[pytest.mark.slow] if name == "pbt" else []) for name in ON_RAY]
)
def test_a_scheduler_ends_better_than_its_runs_start(method: str, tmp_path: Path) -> None:
    execution = {"execution": {"workers": 2}}
    outcome = finished(ON_RAY[method], tmp_path, **execution)
    path = outcome.directory.path
    reports = of_type(path, "report")
    assert outcome.results is not None
    best = outcome.results["selected"]
    assert best["L"] < 0.9 * min(one["metrics"]["L"] for one in reports if one["step"] == 1)
    if method == "hyperband":
        return
    members = [one["detail"] for one in of_type(path, "event") if one["event"] == "population"]
    assert [one["step"] for one in members] == [2, 4]
    found = load_phi(path).schedule
    assert found.steps == 6
    assert found.config(5)["lr"] == best["choices"]["evaluation.config.lr"] or best["schedule"]
    assert "schedule" in plots(path)


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
