"""Searches for a learned optimizer: the same on workers as here, resumed after a kill, beside tuned baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from records import content, of_type

from metasearch.loaded import load
from metasearch.resolution import resolve
from metasearch.running import resume, run

Tree = dict[str, Any]
ESTIMATORS: dict[str, Tree] = {
    "truncated": {"type": "truncated", "steps": 2},
    "es": {"type": "es"},
    "pes": {"type": "pes", "steps": 2},
}


def search(tiny: Tree, estimator: str, **changes: Any) -> Tree:
    learner = {
        "recipe": "lstm_optimizer",
        "model": {"type": "mlp", "hidden": [3]},
        "steps": 5,
        "batch": 4,
        "slots": {"update_rule": {"type": "lstm", "hidden": 3}},
    }
    evaluation = {"type": "episodes", "estimator": ESTIMATORS[estimator], "tasks": 6, "shard": 2}
    return {**tiny, "learner": learner, "evaluation": evaluation, "test": None, **changes}


def finish(tree: Tree, root: Path) -> Path:
    outcome = run(resolve(tree), root=root)
    assert outcome.status == "finished"
    return outcome.directory.path


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_persistent_evolution_is_the_same_on_two_workers(tiny: Tree, tmp_path: Path) -> None:
    tree = search(tiny, "pes")
    inline = content(finish(tree, tmp_path / "inline"))
    tree["execution"] = {"type": "actors", "workers": 2}
    assert content(finish(tree, tmp_path / "actors")) == inline


@pytest.mark.parametrize("estimator", ["truncated", "pes"])
def test_a_search_is_killed_and_resumed(estimator: str, tiny: Tree, tmp_path: Path, drivers: Any) -> None:
    tree = search(tiny, estimator)
    path = drivers.until_dead(tree, "journal.after:12")
    resume(path)
    assert content(path) == content(finish(tree, tmp_path / "whole"))


def test_the_record_has_both_sides_of_the_perturbations(tiny: Tree, tmp_path: Path) -> None:
    for record in of_type(finish(search(tiny, "es"), tmp_path), "evaluation"):
        sides = record["metrics"]
        assert record["objective"] == pytest.approx((sides["plus"] + sides["minus"]) / 2)
        assert sides["plus"] != sides["minus"]


def test_baselines_are_tuned_and_the_optimizer_can_be_taken_away(tiny: Tree, tmp_path: Path) -> None:
    settings = {"rates": [1e-6, 0.1, 1e6], "episodes": 4, "shard": 4}
    names = ("sgd", "nesterov", "rmsprop", "adam")
    test = {"episodes": 6, "shard": 3, "baselines": [{name: settings} for name in names]}
    learner = {**search(tiny, "es")["learner"], "model": {"type": "mlp", "hidden": []}, "batch": None}
    tasks = {"type": "quadratic", "shared": True}
    tree = search(tiny, "truncated", test=test, learner={**learner, "steps": {"train": 5, "test": 20}}, tasks=tasks)
    outcome = run(resolve(tree), root=tmp_path)
    still = {**tree, "learner": {**learner, "steps": {"train": 5, "test": 0}}, "test": {"episodes": 6, "shard": 3}}
    untrained = run(resolve({**still, "budget": {"steps": 1}}), root=tmp_path / "still").results
    assert outcome.results is not None
    assert untrained is not None
    for name in names:  # neither of the absurd rates was taken
        assert outcome.results["baselines"][name]["L"] < 0.5 * untrained["test"]["L"]
    model = torch.nn.Linear(3, 2)
    before = model.weight.detach().clone()
    optimizer = load(outcome.directory.path).optimizer(model.parameters())
    model(torch.ones(4, 3)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)
