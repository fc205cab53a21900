"""``test.ensemble``: the mean prediction of the best phis by validation, beside the search's own figure."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from records import of_type
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

import metasearch as ms
from metasearch import artifacts
from metasearch.controller import Controller
from metasearch.core import seeds as seeding
from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.core.values import Phi, TaskSpec
from metasearch.display.results import print_outcome
from metasearch.evaluation.ensemble import mean_prediction, stacked
from metasearch.outputs import Outputs
from metasearch.resolution import resolve
from metasearch.results import best_validations
from metasearch.running import extend, run
from metasearch.trees import override

RATE = 0.3
TREE: dict[str, Any] = {
    "name": "several",
    "tasks": {"type": "omniglot", "image_size": 8, "ways": 3, "queries": 2},
    "learner": {
        "recipe": "maml",
        "model": {"type": "mlp", "hidden": [4], "activation": "tanh"},
        "steps": {"train": 1, "test": 2},
        "slots": {"learning_rates": {"type": "fixed", "value": RATE}},
    },
    "searcher": {"type": "gradient", "lr": 0.05},
    "evaluation": {"type": "episodes", "estimator": "backprop", "tasks": 2, "shard": 2},
    "validation": {"every": 1, "episodes": 4, "select": "accuracy"},
    "test": {"episodes": 5, "shard": 2, "ensemble": 3},
    "budget": {"steps": 7},
    "checkpoints": {"every": 2},
    "execution": {"type": "inline"},
    "numerics": {"compile": "never", "dtype": "float64"},
    "tracking": {"mlflow": False, "report": False},
}
SINE = override(
    TREE, {"tasks": {"type": "sinusoid", "shots": 5, "queries": 5}, "validation.select": "L", "searcher.lr": 0.3}
)
NAME = "ensemble_of_3"


def kept(path: Path) -> list[int]:
    return sorted(int(entry.name) for entry in (path / "members").iterdir())


def best_by_hand(path: Path, metric: str, count: int) -> list[int]:
    """Steps of the best validations: again and again the best one that is left, the earliest of equal ones."""
    left = {one["step"]: -one["L"] if metric == "L" else one["metrics"][metric] for one in of_type(path, "validation")}
    found: list[int] = []
    while left and len(found) < count:
        highest = max(left.values())
        found.append(min(step for step, value in left.items() if value == highest))
        del left[found[-1]]
    return found


def adapted_outputs(phi: Phi, x: Tensor, y: Tensor, query: Tensor) -> Tensor:
    """Of one task: a tanh layer and a linear one after two steps of gradient descent, the gradients by hand."""
    w1, b1, w2, b2 = (phi.tensors[f"initialization.{name}"].clone() for name in NAMES)
    x, query = x.flatten(1), query.flatten(1)
    for _ in range(2):
        hidden = torch.tanh(x @ w1.T + b1)
        outputs = hidden @ w2.T + b2
        if y.dtype == torch.int64:
            delta = (torch.softmax(outputs, -1) - F.one_hot(y, 3)) / len(y)
        else:
            delta = 2 * (outputs - y) / len(y)
        below = (delta @ w2) * (1 - hidden**2)
        w2, b2 = w2 - RATE * delta.T @ hidden, b2 - RATE * delta.sum(0)
        w1, b1 = w1 - RATE * below.T @ x, b1 - RATE * below.sum(0)
    return torch.tanh(query @ w1.T + b1) @ w2.T + b2


NAMES = ("layers.0.weight", "layers.0.bias", "head.weight", "head.bias")


@pytest.mark.parametrize("tree", [TREE, SINE], ids=["classification", "regression"])
def test_the_figures_are_those_of_a_computation_by_hand(tree: dict[str, Any], tmp_path: Path) -> None:
    outcome = ms.run(tree, runs=tmp_path)
    assert outcome.results is not None
    best = best_by_hand(outcome.directory.path, tree["validation"]["select"], 3)
    assert kept(outcome.directory.path) == sorted(best)
    # What the search had reached at these steps, from shorter searches.
    phis = [
        artifacts.load(
            ms.run(override(tree, {"budget.steps": step, "validation": None, "test": None}), runs=tmp_path).phi_path
        ).phi
        for step in best
    ]
    tasks = resolve(tree).program.problem
    numbers = seeding.derive_many(seeding.derive(0, "test", "test"), "task", np.arange(5))
    task = tasks.sample("test", [int(one) for one in numbers])
    losses, right = [], []
    for x, y, query, target in zip(task.support.x, task.support.y, task.query.x, task.query.y, strict=True):
        outputs = [adapted_outputs(phi, x, y, query) for phi in phis]
        if target.dtype == torch.int64:
            mean = sum(torch.softmax(one, -1) for one in outputs) / 3
            losses.append(float(-mean[torch.arange(len(target)), target].log().mean()))
            right.append(float((mean.argmax(-1) == target).double().mean()))
        else:
            losses.append(float(((sum(outputs) / 3 - target) ** 2).mean()))
    row = outcome.results["baselines"][NAME]
    assert row["L"] == pytest.approx(np.mean(losses), rel=1e-10)
    assert row["L_ci95"] == pytest.approx(1.96 * np.std(losses, ddof=1) / np.sqrt(5), rel=1e-8)
    if right:
        assert row["accuracy"] == pytest.approx(np.mean(right), rel=1e-10)
    assert row["networks"] == 3
    assert row["parameters"] == 3 * outcome.results["test"]["parameters"]
    assert row["L"] != outcome.results["test"]["L"]


@pytest.mark.parametrize(
    "changes",
    [
        {"learner.batch": {"train": 2, "test": 2}},
        {"learner": {"recipe": "prototypical", "model": {"type": "conv4", "filters": 2, "blocks": 2}}},
    ],
    ids=["steps on drawn examples", "embedding"],
)
def test_an_ensemble_of_one_is_the_test_itself_whatever_the_shards(changes: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for shard in (2, 5):
        outcome = ms.run(override(TREE, {**changes, "test.ensemble": 1, "test.shard": shard}), runs=tmp_path)
        assert outcome.results is not None
        one, test = outcome.results["baselines"]["ensemble_of_1"], outcome.results["test"]
        for name in ("L", "L_ci95", "accuracy", "accuracy_ci95", "episodes", "parameters"):
            assert one[name] == pytest.approx(test[name], rel=1e-10)
        found.append(one["L"])
    assert found[0] == pytest.approx(found[1], rel=1e-10)


def test_the_search_reports_its_own_phi_and_names_the_ensemble_beside_it(tmp_path: Path) -> None:
    outcome, plain = (ms.run(tree, runs=tmp_path) for tree in (TREE, override(TREE, {"test.ensemble": None})))
    assert outcome.results is not None
    assert plain.results is not None
    for name in ("L", "accuracy", "parameters"):
        assert outcome.results["test"][name] == plain.results["test"][name]
    assert not (plain.directory.path / "members").exists()
    console = Console(record=True, width=120)
    print_outcome(outcome, console)
    shown = [line.split()[0] for line in console.export_text().splitlines() if "%" in line and "±" in line]
    assert shown[:2] == ["this", NAME]


class Killed(BaseException):
    """Ends a driver wherever it is, as a lost process would."""


def test_a_search_that_is_killed_anywhere_keeps_the_same_phis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ms.run(TREE, runs=tmp_path / "whole").directory.path

    def dying(patch: pytest.MonkeyPatch, owner: Any, name: str, calls: int) -> None:
        original, left = getattr(owner, name), [calls]

        def wrapped(*given: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return original(*given, **named)

        patch.setattr(owner, name, wrapped)

    path: Path | None = None
    places = [
        (Controller, "_ask", 3),  # three steps on, one of them past the checkpoint
        (Outputs, "member", 1),  # recorded, not stored
        (shutil, "rmtree", 0),  # stored, and what it displaces not deleted
        (Controller, "checkpoint", 1),
        (Outputs, "members", 0),  # at the test
    ]
    for owner, name, calls in places:
        with monkeypatch.context() as patch:
            dying(patch, owner, name, calls)
            with pytest.raises(Killed):
                _ = ms.run(TREE, runs=tmp_path / "parts") if path is None else ms.resume(path)
        (path,) = (tmp_path / "parts").iterdir()
    assert path is not None
    resumed = ms.resume(path)
    assert resumed.status == "finished"
    assert kept(path) == kept(whole) == sorted(best_by_hand(whole, "accuracy", 3))
    for step in kept(path):
        first, second = (artifacts.load(one / "members" / f"{step:08d}").phi.tensors for one in (path, whole))
        assert all(torch.equal(value, second[name]) for name, value in first.items())
    figures = [[{**one, "seconds": 0} for one in of_type(one, "test")] for one in (path, whole)]
    assert figures[0] == figures[1]


def test_a_search_that_goes_on_measures_the_ensemble_again(tmp_path: Path) -> None:
    short = ms.run(override(TREE, {"budget.steps": 3}), runs=tmp_path)
    longer = extend(short.directory.path, {"budget.steps": 7})
    whole = ms.run(TREE, runs=tmp_path)
    assert [one["name"] for one in of_type(longer.directory.path, "test")] == ["metasearch", NAME] * 2
    assert longer.results is not None
    assert whole.results is not None
    assert longer.results["baselines"][NAME]["L"] == whole.results["baselines"][NAME]["L"]
    assert kept(longer.directory.path) == kept(whole.directory.path)


def test_after_a_refit_the_ensemble_is_of_what_was_validated(tmp_path: Path) -> None:
    changes = {"test.refit": {"tasks.train_on": ["train", "validation"]}, "budget.steps": 3}
    tree = override(TREE, changes)
    outcome = run(resolve(tree), root=tmp_path)
    assert outcome.results is not None
    assert list(outcome.results["baselines"]) == ["before_refit", NAME]
    assert outcome.results["baselines"][NAME]["networks"] == 3


def test_the_record_decides_and_of_equal_validations_the_earlier_is_better() -> None:
    values = [(1, 0.5), (2, 0.7), (3, float("nan")), (4, 0.7), (5, 0.9), (6, 0.5)]
    records: list[dict[str, Any]] = [
        {"type": "validation", "step": step, "L": value, "metrics": {"accuracy": value}} for step, value in values
    ]
    records.insert(2, {"type": "ask", "step": 2})

    def chosen(select: str, count: int) -> list[int]:
        return [one["step"] for one in best_validations(records, select, count)]

    assert chosen("accuracy", 2) == [5, 2]
    assert chosen("accuracy", 4) == [5, 2, 4, 1]
    assert chosen("L", 3) == [1, 6, 2]
    assert chosen("L", 9) == [1, 6, 2, 4, 5]  # nan is none of the best, however many are asked for


def test_probabilities_that_vanish_in_one_network_are_averaged_still() -> None:
    sure = torch.tensor([[[0.0, 400.0]]])
    found = mean_prediction(TaskSpec("classification", (1,), 2, 1, 1), [sure, -sure])
    torch.testing.assert_close(found.exp(), torch.full((1, 1, 2), 0.5))
    both = mean_prediction(TaskSpec("classification", (1,), 2, 1, 1), [sure, sure])
    torch.testing.assert_close(both, torch.tensor([[[-400.0, 0.0]]]))


def test_phis_of_different_choices_make_no_ensemble() -> None:
    phis = [Phi({"a.w": torch.zeros(2)}, choices={"layers": layers}) for layers in (1, 2)]
    with pytest.raises(ValueError, match="same choices"):
        stacked(phis)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"validation": None}, ConfigError, r"test\.ensemble: .*no validation to choose by"),
        (
            {"learner.steps": {"train": {"int": [1, 2], "searcher": "a"}, "test": 2}},
            UnsupportedError,
            r"test\.ensemble: .*different choices \(learner\.steps\.train",
        ),
        ({"test.ensemble": 0}, ConfigError, r"test\.ensemble.*greater than 0"),
    ],
)
def test_what_makes_no_ensemble_is_refused_before_anything_starts(changes: Any, error: Any, words: str) -> None:
    tree = override(TREE, changes)
    if "learner.steps" in changes:
        tree["searchers"] = {"a": {"type": "random"}, "b": tree.pop("searcher")}
    with pytest.raises(error, match=words):
        resolve(tree)
