"""``test.refit``: phi is trained again on more classes for as long as validation found best, and that is tested."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import metasearch as ms
from metasearch import artifacts
from metasearch.controller import Controller
from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.display.results import print_outcome
from metasearch.resolution import resolve
from metasearch.tracking.journal import read
from metasearch.trees import override

BOTH = {"tasks.train_on": ["train", "validation"]}
TREE: dict[str, Any] = {
    "name": "refitted",
    "tasks": {"type": "omniglot", "image_size": 8, "ways": 4, "queries": 2},
    "learner": {"recipe": "prototypical", "model": {"filters": 2, "blocks": 2}},
    "searcher": {"type": "gradient", "lr": 0.05, "schedule": "cosine"},
    "evaluation": {"tasks": 2, "shard": 2},
    "validation": {"every": 2, "episodes": 4},
    "test": {"episodes": 10, "baselines": ["nearest_neighbour"]},
    "budget": {"steps": 8},
    "execution": {"type": "inline"},
    "numerics": {"compile": "never"},
    "tracking": {"mlflow": False, "report": False},
    "checkpoints": {"every": 3},
}
WITH = {**TREE, "test": {**TREE["test"], "refit": BOTH}}


def same(one: Path, other: Path) -> bool:
    first, second = (artifacts.load(path).phi for path in (one, other))
    values = {**first.tensors, **first.buffers}
    return all(torch.equal(value, {**second.tensors, **second.buffers}[name]) for name, value in values.items())


def test_the_phi_that_is_reported_is_that_of_a_run_of_its_own_on_all_classes(tmp_path: Path) -> None:
    plain, found = (ms.run(tree, runs=tmp_path) for tree in (TREE, WITH))
    assert plain.results is not None
    assert found.results is not None
    steps = plain.results["selected"]["step"]
    assert found.results["refitted"] == {"steps": steps, "folder": f"refitted-{steps}", "changes": BOTH}
    assert found.results["selected"] == plain.results["selected"]
    before = found.results["baselines"]["before_refit"]
    assert before["L"] == plain.results["test"]["L"]
    assert same(found.directory.path / "selected", plain.phi_path)

    own = {**BOTH, "budget.steps": steps, "searcher.total_steps": 8, "validation": None}
    alone = ms.run(override(TREE, own), runs=tmp_path)
    assert alone.results is not None
    assert same(found.phi_path, alone.phi_path)
    assert not same(found.phi_path, plain.phi_path)
    assert found.results["test"]["L"] == alone.results["test"]["L"] != before["L"]
    assert ms.evaluate(found.phi_path, episodes=10)["L"] == found.results["test"]["L"]

    inner = read(found.directory.path / f"refitted-{steps}" / "journal.jsonl")
    assert "validation" not in {one["type"] for one in inner}
    console = Console(record=True, width=200)
    print_outcome(found, console)
    shown = console.export_text()
    assert f"trained again from the start for {steps} steps, with tasks.train_on = ['train', 'validation']" in shown
    assert f"before_refit is that of step {steps}, the best by validation" in shown


def test_a_run_that_is_stopped_while_training_again_ends_like_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = override(WITH, {"test.baselines": []})
    whole = ms.run(tree, runs=tmp_path / "whole")
    ask, left = Controller._ask, [10]

    def killed(self: Controller) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        ask(self)

    with monkeypatch.context() as patch:
        patch.setattr(Controller, "_ask", killed)
        with pytest.raises(KeyboardInterrupt):
            ms.run(tree, runs=tmp_path / "parts")
    (path,) = (tmp_path / "parts").iterdir()
    assert not (path / "results.json").exists()
    resumed = ms.resume(path)
    again = ms.resume(path)  # of a finished run: nothing is trained or measured once more
    for outcome in (resumed, again):
        assert outcome.results is not None
        assert whole.results is not None
        for part in ("test", "baselines"):
            kept, expected = (json.dumps(one[part], default=str) for one in (outcome.results, whole.results))
            assert kept.split('"seconds"')[0] == expected.split('"seconds"')[0]
        assert same(outcome.phi_path, whole.phi_path)
    tests = [one["name"] for one in read(path / "journal.jsonl") if one["type"] == "test"]
    assert tests == ["before_refit", "metasearch"]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"validation": None}, UnsupportedError, "test.refit: repeats a search by gradients"),
        ({"test.refit": {"budget.steps": 3}}, ConfigError, r"test\.refit: changes tasks.*got 'budget\.steps'"),
        ({"test.refit": {"tasks.train_on": ["test"]}}, ConfigError, r"test\.refit\.tasks\.train_on"),
        ({"test.refit": {"tasks.trian_on": []}}, ConfigError, r"test\.refit\.tasks\.trian_on.*'train_on'"),
    ],
)
def test_what_cannot_be_refitted_is_refused_before_anything_starts(changes: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        resolve(override(WITH, changes))
