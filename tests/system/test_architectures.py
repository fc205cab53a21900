"""Searches over architectures from the file to the module, with networks of two channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from records import of_type

from metasearch import resolution, trees
from metasearch.core.errors import ArtifactError, UnsupportedError
from metasearch.loaded import load
from metasearch.models.architectures import CellNetwork
from metasearch.running import resume, run

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SMALL = {
    "tasks.image_size": 8,
    "tasks.classes": 3,
    "learner.model.channels": [2],
    "learner.model.stem_stride": 1,
    "execution": {"type": "inline"},
    "numerics.compile": "never",
    "tracking": {"mlflow": False, "report": False},
}
TRAINED = {**SMALL, "learner.steps": 2, "test.retrain.learner.steps": 3, "test.episodes": 2}
SHARED = {
    **SMALL,
    "tasks.support": 6,
    "tasks.query": 6,
    "budget.steps": 4,
    "validation.every": 2,
    "test.episodes": 2,
    "test.derive.sample": 2,
    "test.retrain.learner.steps": 2,
    "test.retrain.learner.batch": 4,
}


def experiment(file: str, variant: str, changes: dict[str, Any]) -> Any:
    tree = trees.read(EXPERIMENTS / file)
    variants = tree.pop("variants")
    del tree["seeds"]
    return resolution.load(trees.override(tree, variants[variant]), changes)


@pytest.mark.parametrize("variant", ["reinforce", "evolution"])
def test_architectures_are_trained_and_the_best_one_trained_again(variant: str, tmp_path: Path) -> None:
    given = experiment("arch_trained.yaml", variant, {**TRAINED, "budget.evaluations": 4})
    assert len(given.space) == 6
    outcome = run(given, root=tmp_path)
    evaluations = of_type(outcome.directory.path, "evaluation")
    assert len(evaluations) == 4
    best = min(evaluations, key=lambda one: one["L"])
    assert outcome.results is not None
    assert outcome.results["selected"]["evaluation"] == best["id"]
    assert outcome.results["test"]["episodes"] == 2
    learned = load(outcome.phi_path)
    module = learned.build()
    assert isinstance(module, CellNetwork)
    assert module.path == {
        name.rpartition(".")[2]: value for name, value in outcome.results["selected"]["choices"].items()
    }
    assert module(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    with pytest.raises(ArtifactError, match="no weights of a supernet"):
        learned.build(learned=True)
    again = experiment("arch_trained.yaml", variant, {**TRAINED, "budget.evaluations": 4, "test.retrain": None})
    twice = run(again, root=tmp_path / "again").results
    assert twice is not None
    assert twice["test"]["L"] != outcome.results["test"]["L"]  # two steps instead of three


@pytest.mark.parametrize("variant", ["enas", "random_shared", "darts_2"])
def test_an_architecture_is_derived_from_the_supernet_and_trained_again(variant: str, tmp_path: Path) -> None:
    outcome = run(experiment("arch_shared.yaml", variant, SHARED), root=tmp_path)
    path = outcome.directory.path
    (event,) = [one for one in of_type(path, "event") if one["event"] == "derive"]
    learned = load(outcome.phi_path)
    assert learned.choices == event["detail"]["choices"]
    if variant == "darts_2":
        logits = learned.phi.tensors["architecture.logits"]
        names = learned.architecture().operations
        places: dict[str, Any] = CellNetwork(2).places
        for row, (place, operations) in zip(logits, places.items(), strict=True):
            assert names[place] == operations[1 + int(row[1:].argmax())]
    else:
        candidates = event["detail"]["candidates"]
        assert len(candidates) == (3 if variant == "enas" else 2)
        assert min(one["L"] for one in candidates) == event["detail"]["L"]
    assert outcome.results is not None
    assert outcome.results["test"]["episodes"] == 2
    assert learned.build(5)(torch.zeros(2, 1, 8, 8)).shape == (2, 5)
    own = learned.build(learned=True).state_dict()
    for name, value in own.items():
        assert torch.equal(value, learned.phi.tensors[f"initialization.{name}"])
    before = (path / "journal.jsonl").read_text().count('"derive"')
    resume(path)
    assert (path / "journal.jsonl").read_text().count('"derive"') == before


def test_the_derived_network_computes_what_the_supernet_does_on_its_path(tmp_path: Path) -> None:
    outcome = run(experiment("arch_shared.yaml", "enas", {**SHARED, "test.retrain": None}), root=tmp_path)
    learned = load(outcome.phi_path)
    module = learned.build(learned=True).eval()
    learner: Any = learned.learner()
    weights = {name: value[None] for name, value in learned.phi.part("initialization").items()}
    x = torch.randn(1, 5, 1, 8, 8)
    torch.testing.assert_close(learner.model(weights, {}, x)[0][0], module(x[0]))


def test_the_whole_card_is_one_search(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        **{name: value for name, value in SMALL.items() if name != "tasks.classes"},
        "tasks.ways": 2,
        "tasks.queries": 2,
        "evaluation.tasks": 2,
        "evaluation.shard": 2,
        "budget.steps": 3,
        "validation": {"every": 3, "episodes": 2, "shard": 2},
        "test": {"episodes": 2, "shard": 2, "derive": {"sample": 1}},
    }
    given = resolution.load(EXPERIMENTS / "whole_card.yaml", changes)
    assert set(given.owners.values()) == {"controller"}
    assert given.slot_owners == {"initialization": "weights", "update_rule": "rule", "augmentation": "augmenter"}
    outcome = run(given, root=tmp_path)
    learned, start = load(outcome.phi_path), given.program.learner({}).init(0)
    assert {name.partition(".")[0] for name in learned.phi.tensors} == set(given.slot_owners)
    for slot in ("update_rule", "augmentation"):
        assert any(
            not torch.equal(value, start.tensors[name])
            for name, value in learned.phi.tensors.items()
            if name.startswith(f"{slot}.")
        )
    assert len(learned.choices) == 6
    assert all("reward" in one["metrics"] for one in of_type(outcome.directory.path, "evaluation"))
    assert isinstance(learned.build(learned=True), CellNetwork)
    assert learned.augmentation()(torch.rand(3, 1, 8, 8)).shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    ("file", "variant", "changes", "problem"),
    [
        ("arch_trained.yaml", "random", {"test.derive": {}}, "supernet"),
        ("arch_shared.yaml", "enas", {"test.retrain.learner": {"model": {"type": "mlp"}}}, "space of architectures"),
        ("arch_shared.yaml", "enas", {"searchers.architecture": {"type": "evolution"}}, "nest instead"),
        ("arch_shared.yaml", "enas", {"learner.slots.architecture.weights": "own"}, "depend on the architecture"),
    ],
)
def test_what_cannot_work_is_refused_before_it_starts(file: str, variant: str, changes: Any, problem: str) -> None:
    small = TRAINED if file == "arch_trained.yaml" else SHARED
    with pytest.raises(UnsupportedError, match=problem):
        experiment(file, variant, {**small, **changes})
