"""The contract of task distributions, for everything that is registered."""

import sys
from pathlib import Path
from typing import Any

import pytest

import metasearch.tasks  # noqa: F401  (lists the built-in tasks)
from metasearch.core.registry import build, import_path, registry
from metasearch.testing.tasks import TaskContract

sys.path.insert(0, str(Path(__file__).parent))
from mnist_files import write_mnist

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "omniglot": [
        {"ways": 5, "shots": 1},
        {"ways": 3, "shots": 2, "queries": 4, "split": "random", "rotations": "all"},
        {"ways": 3, "shots": 1, "split": "lake", "within_alphabet": True, "rotations": "none"},
    ],
    "sinusoid": [{}, {"frequency": [0.8, 1.2]}],
    "navigation": [{}, {"start": "random", "trajectories": 3, "queries": {"train": 2, "test": 4}}],
    "quadratic": [
        {"noise": 0.1},
        {"dimensions": 10, "shots": 10, "inputs": "uniform", "targets": "independent", "shared": True},
    ],
    "mnist": [{"pool": 12, "queries": 5}],
}


def test_every_built_in_distribution_is_covered() -> None:
    listed = registry("task")
    own = {name for name in listed if import_path(listed.get(name)).startswith("metasearch.")}
    assert own == set(SETTINGS)


@pytest.mark.parametrize(
    "settings",
    [{"type": name, **one} for name in SETTINGS for one in SETTINGS[name]],
    ids=lambda one: "-".join(map(str, one.values())),
)
class TestRegistered(TaskContract):
    @pytest.fixture
    def tasks(self, settings: dict[str, Any], tmp_path: Path) -> Any:
        if settings["type"] == "mnist":
            settings = {**settings, "folder": str(write_mnist(tmp_path))}
        return build("task", settings, "tasks", device="cpu")
