"""The classifier of everything that learns to classify, on tasks of other sizes than it was learned on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

import metasearch.learners  # lists the built-in learners
from metasearch.core.errors import ArtifactError, UnsupportedError
from metasearch.core.registry import build, import_path, registry
from metasearch.core.values import Batch, TaskSpec
from metasearch.loaded import LoadedPhi, load
from metasearch.tasks.navigation import Navigation
from metasearch.testing.phi import stored_phi

WAYS = 3
IMAGES = TaskSpec("classification", (1, 8, 8), WAYS, WAYS, 2 * WAYS)
NAMES = np.array(["yak", "cat", "dog", "owl", "emu"])
MAPS = {"type": "conv4", "filters": 4, "blocks": 2, "pool": "max", "head": "none", "norm": "running"}
MLP = {"type": "mlp", "hidden": [6]}
SNAIL = {"attentions": [[4, 4], [4, 4]], "filters": 4, "length": 4, "embedding": MAPS}
FREE: dict[str, dict[str, Any]] = {
    "initialization": {"type": "inner_loop", "model": MLP, "steps": 2},
    "initialization and every rate": {
        "type": "inner_loop",
        "model": MLP,
        "slots": {"learning_rates": {"type": "per_parameter", "init": 0.1}},
    },
    "head alone": {"type": "inner_loop", "model": MLP, "adapt": ["head.*"]},
    "head of class means": {
        "type": "inner_loop",
        "model": {"type": "conv4", "filters": 4, "blocks": 2},
        "slots": {"initialization": {"type": "tensors", "head": "class_means"}},
    },
    "learned optimizer": {
        "type": "inner_loop",
        "model": MLP,
        "slots": {"initialization": {"type": "random"}, "update_rule": {"type": "lstm", "hidden": 3}},
    },
    "prototypical": {"type": "prototypical", "model": MAPS},
    "matching": {"type": "matching", "model": MAPS},
    "matching in context": {"type": "matching", "model": MAPS, "context": {"steps": 2}},
    "relation": {
        "type": "relation",
        "model": {**MAPS, "pooled": 1},
        "relation": {"type": "conv4", "filters": 4, "blocks": 2, "head": "flatten"},
    },
    "siamese": {"type": "siamese", "model": MAPS},
    "siamese by distance": {"type": "siamese", "model": MAPS, "energy": "euclidean"},
    "rotation prediction": {"type": "rotation_prediction", "model": MAPS},
    "contrastive": {"type": "contrastive", "model": MAPS},
    "nearest neighbour": {"type": "nearest_neighbour"},
    "written head": {"type": "weight_generator", "embedding": MAPS},
    "snail with room": {"type": "snail", **SNAIL, "capacity": 5},
    "transformer with room": {"type": "transformer", "embedding": MAPS, "width": 8, "blocks": 1, "capacity": 5},
}
"""Learners that take any number of classes (those with room: up to five)."""
BOUND: dict[str, tuple[dict[str, Any], str]] = {
    "body alone": (
        {"type": "inner_loop", "model": MLP, "adapt": ["*", "!head.*"]},
        r"new values for head\.weight, head\.bias, and the inner loop of this phi does not change them .* with, 3$",
    ),
    "snail": ({"type": "snail", **SNAIL}, r"Snail has no inner loop .*with, 3, or learn with capacity: N for tasks"),
    "snail with room": ({"type": "snail", **SNAIL, "capacity": 4}, "capacity: 4 classes were learned at most"),
    "transformer": ({"type": "transformer", "embedding": MAPS, "width": 8, "blocks": 1}, "or learn with capacity: N"),
    "recurrent": ({"type": "recurrent", "embedding": MAPS, "hidden": 8}, "or learn with capacity: N"),
    "mann": ({"type": "mann", "embedding": MAPS, "hidden": 8, "rows": 6, "word": 4}, "or learn with capacity: N"),
    "meta networks": (
        {"type": "meta_networks", "embedding": MAPS, "hidden": 6, "generator": 4},
        r"MetaNetworks has no inner loop that could find them; use the number it was learned with, 3$",
    ),
    "written network": (
        {"type": "weight_generator", "network": MLP, "hidden": 8},
        r"WeightGenerator has no inner loop that could find them; use the number it was learned with, 3$",
    ),
}
"""Learners whose weights belong to the number of classes, and what they say of another."""
EVERY = {**FREE, **{f"{name}, bound": learner for name, (learner, _) in BOUND.items()}}


def learned(folder: Path, learner: dict[str, Any]) -> LoadedPhi:
    return load(stored_phi(folder / "phi", learner=learner, spec=IMAGES))


def images(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((n, 1, 8, 8), dtype=np.float32)


def check(phi: LoadedPhi, codes: list[int]) -> None:
    """That it learns classes with these examples, and predicts what F_phi says of each class."""
    ways, X, queries = len(set(codes)), images(len(codes)), images(4, seed=1)
    few_shot = phi.classifier().fit(X, NAMES[codes])
    order = np.argsort(np.argsort(NAMES[:ways]))
    support = Batch(torch.from_numpy(X)[None], torch.from_numpy(order[codes])[None])
    logits = phi.learner(ways).adapt(phi.for_ways(ways), support, 0)(torch.from_numpy(queries)[None])[0]
    assert few_shot.classes_.tolist() == sorted(NAMES[:ways].tolist())
    np.testing.assert_allclose(few_shot.predict_proba(queries), F.softmax(logits.double(), -1).numpy(), atol=1e-6)
    assert few_shot.predict(queries).tolist() == few_shot.classes_[few_shot.predict_proba(queries).argmax(1)].tolist()


def test_every_learner_that_classifies_is_covered() -> None:
    assert metasearch.learners is not None
    listed = registry("learner")
    own = {name for name in listed if import_path(listed.get(name)).startswith("metasearch.")}
    assert own == {learner["type"] for learner in EVERY.values()} | {"policy"}


@pytest.mark.parametrize("name", EVERY)
def test_more_and_unequal_shots_are_learned(tmp_path: Path, name: str) -> None:
    check(learned(tmp_path, EVERY[name]), [0, 1, 2, 1, 1, 0])


@pytest.mark.parametrize("ways", [2, 5])
@pytest.mark.parametrize("name", FREE)
def test_other_ways_are_learned(tmp_path: Path, name: str, ways: int) -> None:
    check(learned(tmp_path, FREE[name]), [*range(ways), 1, 0])


@pytest.mark.parametrize("name", BOUND)
def test_a_learner_that_cannot_do_with_other_ways_says_so(tmp_path: Path, name: str) -> None:
    learner, message = BOUND[name]
    with pytest.raises(ArtifactError, match=message):
        learned(tmp_path, learner).classifier().fit(images(5), NAMES)


@pytest.mark.parametrize("name", [name for name in EVERY if EVERY[name]["type"] != "inner_loop"])
def test_tasks_without_classes_are_refused_with_what_takes_them(name: str) -> None:
    learner = EVERY[name]
    control = Navigation(Navigation.Config()).spec("train")
    use = "" if learner["type"] == "nearest_neighbour" else "; learners of type policy take these"
    with pytest.raises(UnsupportedError, match=rf"^learner: .* (got|of kind) 'control'{use}$"):
        build("learner", learner, "learner", spec=control)
    compares = ("prototypical", "matching", "relation", "siamese", "rotation_prediction", "contrastive")
    if learner["type"] in (*compares, "nearest_neighbour"):
        with pytest.raises(UnsupportedError, match=r"^learner: .* needs classification tasks, got 'regression'"):
            build("learner", learner, "learner", spec=TaskSpec("regression", (1, 8, 8), 1, 5, 5))


def test_a_policy_is_no_classifier_and_no_regressor(tmp_path: Path) -> None:
    phi = load(stored_phi(tmp_path / "phi"))
    phi.manifest = phi.manifest.model_copy(update={"spec": {**phi.manifest.spec, "kind": "control"}})
    for estimator in (phi.classifier, phi.regressor):
        with pytest.raises(ArtifactError, match=r"tasks of kind 'control', not \w+; use \.learner\(\)"):
            estimator()
