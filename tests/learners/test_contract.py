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


OMNIGLOT = {"type": "omniglot", "ways": 3, "shots": 1, "queries": 2}
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
    "own module": ({"type": "quadratic"}, {"type": "inner_loop", "model": Dropping}),
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
