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


FEATURES = {"type": "conv4", "filters": 4, "pool": "max", "head": "none"}
RELATION = {"type": "conv4", "filters": 4, "blocks": 2, "pool": "max", "head": "flatten"}
OMNIGLOT = {"type": "omniglot", "ways": 3, "shots": 1, "queries": 2}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "conv4": (
        OMNIGLOT,
        {"type": "inner_loop", "model": {"type": "conv4", "filters": 4}, "steps": {"train": 1, "test": 2}},
    ),
    "mlp": ({"type": "sinusoid"}, {"type": "inner_loop", "model": {"type": "mlp", "hidden": [4]}, "steps": 2}),
    "random start": (
        {"type": "sinusoid"},
        {
            "type": "inner_loop",
            "model": {"type": "mlp", "hidden": [4]},
            "slots": {"initialization": {"type": "random"}},
        },
    ),
    "own module": ({"type": "quadratic"}, {"type": "inner_loop", "model": Dropping}),
    "prototypical": (OMNIGLOT, {"type": "prototypical", "model": {**FEATURES, "norm": "running"}}),
    "prototypical, batch statistics": (OMNIGLOT, {"type": "prototypical", "model": FEATURES, "distance": "cosine"}),
    "matching": (OMNIGLOT, {"type": "matching", "model": {**FEATURES, "norm": "running"}, "shared": False}),
    "matching in context": (OMNIGLOT, {"type": "matching", "model": FEATURES, "context": {"steps": 2}}),
    "relation": (OMNIGLOT, {"type": "relation", "model": {**FEATURES, "blocks": 2}, "relation": RELATION}),
    "siamese": (OMNIGLOT, {"type": "siamese", "model": {**FEATURES, "norm": "running"}, "norm_over": "set"}),
    "siamese, own module": (
        {**OMNIGLOT, "image_size": 8},
        {"type": "siamese", "model": Embedding, "features": 5, "energy": "euclidean"},
    ),
    "nearest neighbour": (OMNIGLOT, {"type": "nearest_neighbour"}),
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
