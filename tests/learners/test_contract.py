"""The contract of learners, for everything that is registered, and for networks of other kinds."""

from typing import Any

import pytest
import torch
from torch import nn

import metasearch.learners
import metasearch.tasks  # lists the built-in tasks
from metasearch.core.registry import build, import_path, registry
from metasearch.testing.learners import LearnerContract


class Dropping(nn.Module):
    """Batch norm, dropout, tied weights and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 1)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.drop(torch.relu(self.norm(self.first(x) * self.scale)))))


class Embedding(nn.Sequential):
    """Batch norm and dropout, five outputs."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 5))


EUCLIDEAN = {"distance": "euclidean"}
POOLED = {"type": "conv4", "filters": 4, "pool": "max", "head": "none"}
RELATION = {"type": "conv4", "filters": 4, "blocks": 2, "pool": "max", "head": "flatten"}
OMNIGLOT = {"type": "omniglot", "ways": 3, "shots": 1, "queries": 2}
DATASET = {"type": "dataset", "data": "omniglot", "classes": 3, "image_size": 8, "support": 6, "query": 4}
DATASET |= {"per_class": {"train": 8, "search": 4, "validation": 2}}
FEATURES = {"type": "conv4", "filters": 4, "blocks": 2, "head": "none"}
RUNNING = {"type": "conv4", "filters": 4, "norm": "running", "head": "flatten"}
FOREIGN = {"embedding": Dropping, "features": 1}
SNAIL = {"attentions": [[4, 4], [4, 4]], "filters": 4, "length": 4}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "conv4": (
        OMNIGLOT,
        {"type": "inner_loop", "model": {"type": "conv4", "filters": 4}, "steps": {"train": 1, "test": 2}},
    ),
    "mlp": ({"type": "sinusoid"}, {"type": "inner_loop", "model": {"type": "mlp", "hidden": [4]}, "steps": 2}),
    "minibatches, Adam, a pull to the start": (
        OMNIGLOT,
        {
            "type": "inner_loop",
            "model": {"type": "conv4", "filters": 4},
            "steps": {"train": 2, "test": 3},
            "batch": {"train": 2, "test": None},
            "predict": "both",
            "adapt": ["*", "!*norm*"],
            "slots": {
                "norms": {"type": "per_step", "steps": 2},
                "regularizer": {"type": "proximal", "strength": 1.0},
                "learning_rates": {"type": "fixed", "value": 0.01},
                "update_rule": {"type": "adam", "betas": [0.0, 0.999]},
            },
        },
    ),
    "augmented by choice": (
        OMNIGLOT,
        {
            "type": "inner_loop",
            "model": {"type": "conv4", "filters": 4},
            "slots": {"augmentation": {"type": "rand_augment", "operations": "strokes"}},
        },
    ),
    "augmented by gradient": (
        OMNIGLOT,
        {
            "type": "inner_loop",
            "model": {"type": "conv4", "filters": 4},
            "slots": {"initialization": {"type": "random"}, "augmentation": {"type": "relaxed", "count": 2}},
        },
    ),
    "class means": (
        OMNIGLOT,
        {
            "type": "inner_loop",
            "model": {"type": "conv4", "filters": 4},
            "slots": {"initialization": {"type": "tensors", "head": "class_means"}},
        },
    ),
    "random start": (
        {"type": "sinusoid"},
        {
            "type": "inner_loop",
            "model": {"type": "mlp", "hidden": [4]},
            "slots": {"initialization": {"type": "random"}},
        },
    ),
    "learned optimizer on minibatches": (
        {"type": "sinusoid", "shots": 10},
        {
            "type": "inner_loop",
            "model": {"type": "mlp", "hidden": [4]},
            "steps": 3,
            "batch": 4,
            "objective": "sum",
            "along": "support",
            "slots": {"initialization": {"type": "random"}, "update_rule": {"type": "lstm", "hidden": 3}},
        },
    ),
    "gates of an lstm": (
        {"type": "sinusoid"},
        {
            "type": "inner_loop",
            "model": {"type": "mlp", "hidden": [4]},
            "steps": 2,
            "slots": {"update_rule": {"type": "meta_lstm", "hidden": 3}},
        },
    ),
    "own module": ({"type": "quadratic"}, {"type": "inner_loop", "model": Dropping}),
    "policy": (
        {"type": "navigation", "horizon": 5, "trajectories": 4, "queries": 3},
        {"type": "policy", "model": {"type": "mlp", "hidden": [4]}, "steps": {"train": 1, "test": 2}},
    ),
    "trained cells": (
        DATASET,
        {
            "type": "inner_loop",
            "model": {"type": "cells", "channels": [2], "stem_stride": 2},
            "steps": 2,
            "batch": 4,
            "slots": {
                "architecture": {"type": "chosen"},
                "initialization": {"type": "random"},
                "learning_rates": {"type": "scheduled", "schedule": {"type": "warmup_cosine", "peak": 0.1}},
            },
        },
    ),
    "mixed layers": (
        DATASET,
        {
            "type": "inner_loop",
            "model": {"type": "macro", "channels": [2, 4], "stem_stride": 2, "norm": "batch"},
            "slots": {"architecture": {"type": "mixed", "gumbel": True}},
        },
    ),
    "prototypical": (OMNIGLOT, {"type": "prototypical", "model": {**POOLED, "norm": "running"}}),
    "prototypical, batch statistics": (OMNIGLOT, {"type": "prototypical", "model": POOLED, "distance": "cosine"}),
    "prototypical, precisions": (
        OMNIGLOT,
        {"type": "prototypical", "model": POOLED, "precision": "radius", **EUCLIDEAN},
    ),
    "prototypical, refined": (
        {**OMNIGLOT, "unlabelled": 2, "distractors": 1},
        {"type": "prototypical", "model": POOLED, "refinement": {"distractors": True}},
    ),
    "matching": (OMNIGLOT, {"type": "matching", "model": {**POOLED, "norm": "running"}, "shared": False}),
    "matching in context": (OMNIGLOT, {"type": "matching", "model": POOLED, "context": {"steps": 2}}),
    "relation": (OMNIGLOT, {"type": "relation", "model": {**POOLED, "blocks": 2}, "relation": RELATION}),
    "siamese": (OMNIGLOT, {"type": "siamese", "model": {**POOLED, "norm": "running"}, "norm_over": "set"}),
    "siamese, own module": (
        {**OMNIGLOT, "image_size": 8},
        {"type": "siamese", "model": Embedding, "features": 5, "energy": "euclidean"},
    ),
    "rotation prediction": (OMNIGLOT, {"type": "rotation_prediction", "model": {**POOLED, "norm": "running"}}),
    "contrastive": (OMNIGLOT, {"type": "contrastive", "model": POOLED, "projection": 4}),
    "nearest neighbour": (OMNIGLOT, {"type": "nearest_neighbour"}),
    "snail": (OMNIGLOT, {"type": "snail", "embedding": FEATURES, **SNAIL}),
    "snail along the sequence": (OMNIGLOT, {"type": "snail", **SNAIL, "labels": "shifted", "loss": "sequence"}),
    "snail for values": ({"type": "sinusoid"}, {"type": "snail", **SNAIL}),
    "set transformer": (OMNIGLOT, {"type": "transformer", "embedding": RUNNING, "width": 8, "blocks": 2}),
    "causal transformer": ({"type": "sinusoid"}, {"type": "transformer", "form": "causal", "width": 8, "blocks": 1}),
    "lstm": (OMNIGLOT, {"type": "recurrent", "embedding": FEATURES, "hidden": 8, "depth": 2}),
    "gru on a foreign network": ({"type": "quadratic"}, {"type": "recurrent", "cell": "gru", "hidden": 8, **FOREIGN}),
    "mann": (OMNIGLOT, {"type": "mann", "hidden": 8, "rows": 6, "word": 4, "heads": 2}),
    "meta networks": (OMNIGLOT, {"type": "meta_networks", "embedding": FEATURES, "hidden": 6, "generator": 4}),
    "written head": (OMNIGLOT, {"type": "weight_generator", "embedding": FEATURES}),
    "written network": (
        {"type": "sinusoid"},
        {"type": "weight_generator", "network": {"type": "mlp", "hidden": [8]}, "hidden": 8},
    ),
}


def test_every_built_in_learner_is_covered() -> None:
    assert metasearch.learners is not None
    listed = registry("learner")
    own = {name for name in listed if import_path(listed.get(name)).startswith("metasearch.")}
    assert own == {learner["type"] for _, learner in CASES.values()}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", CASES)
class TestRegistered(LearnerContract):
    @pytest.fixture
    def tasks(self, case: str) -> Any:
        return build("task", CASES[case][0], "tasks", device="cpu")

    @pytest.fixture
    def learner(self, case: str, tasks: Any) -> Any:
        return build("learner", CASES[case][1], "learner", spec=tasks.spec("train"))
