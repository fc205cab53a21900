"""The contract of task distributions, for everything that is registered."""

from pathlib import Path
from typing import Any

import pytest
from made_pictures import cifar10, cifar100, mini_imagenet, picture_folder
from mnist_files import write_mnist

import metasearch.tasks  # noqa: F401  (lists the built-in tasks)
from metasearch.core.registry import build, import_path, registry
from metasearch.testing.tasks import TaskContract

SMALL = {"ways": 2, "shots": 1, "queries": 2}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "omniglot": [
        {"ways": 5, "shots": 1},
        {"ways": 3, "shots": 2, "queries": 4, "split": "random", "rotations": "all"},
        {"ways": 3, "shots": 1, "split": "lake", "within_alphabet": True, "rotations": "none"},
        {
            "ways": 3,
            "distortions": {"train": {"rotate": 10, "shear": 0.3, "probability": 0.5}, "test": {"invert": True}},
        },
    ],
    "sinusoid": [{}, {"frequency": [0.8, 1.2]}],
    "navigation": [{}, {"start": "random", "trajectories": 3, "queries": {"train": 2, "test": 4}}],
    "quadratic": [
        {"noise": 0.1},
        {"dimensions": 10, "shots": 10, "inputs": "uniform", "targets": "independent", "shared": True},
    ],
    "mnist": [{"folder": "mnist", "pool": 12, "queries": 5}],
    "cifar10": [{"folder": "cifar10", "pool": 12, "queries": 5}],
    "image_folder": [{"folder": "pictures", "image_size": 6, **SMALL}],
    "mini_imagenet": [{"folder": "mini", "image_size": 6, "complete": False, **SMALL}],
    "dataset": [
        {"data": "omniglot", "classes": 4, "per_class": {"train": 8, "search": 4, "validation": 2}}
        | {"support": 5, "query": 3, "image_size": 6},
        {"data": "mnist", "folder": "mnist", "per_class": {"train": 3, "search": 2, "validation": 1}, "support": 9},
    ],
    "cifar_fs": [{"folder": "cifar100", **SMALL}],
}


def test_every_built_in_distribution_is_covered() -> None:
    listed = registry("task")
    own = {name for name in listed if import_path(listed.get(name)).startswith("metasearch.")}
    assert own == set(SETTINGS)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that settings name."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "validation", "test"):
        picture_folder(folder / "pictures" / split, dict.fromkeys("abcdefgh", 6))
    mini_imagenet(folder / "mini", ways=6, count=6)
    cifar100(folder / "cifar100")
    (folder / "cifar10").mkdir()
    cifar10(folder / "cifar10")
    (folder / "mnist").mkdir()
    write_mnist(folder / "mnist")
    return folder


@pytest.mark.parametrize(
    "settings",
    [{"type": name, **one} for name in SETTINGS for one in SETTINGS[name]],
    ids=lambda one: "-".join(map(str, one.values())),
)
class TestRegistered(TaskContract):
    @pytest.fixture
    def tasks(self, settings: dict[str, Any], pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.chdir(pictures)
        return build("task", settings, "tasks", device="cpu")
