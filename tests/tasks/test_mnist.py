"""MNIST as a task: which images are where, and what is refused."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from mnist_files import idx, write_mnist

from metasearch.core.config import validate
from metasearch.core.errors import ConfigError, DataError
from metasearch.tasks.idx import read_idx
from metasearch.tasks.mnist import Mnist


def mnist(folder: Path, **settings: Any) -> Mnist:
    return Mnist(validate(Mnist.Config, {"folder": str(write_mnist(folder)), **settings}))


def numbers(x: torch.Tensor) -> list[list[int]]:
    """Which images of their file these are."""
    return [[round(float(image[0, 0, 0]) * 255) for image in task] for task in x]


def test_all_tasks_share_the_first_five_sixths_without_a_copy(tmp_path: Path) -> None:
    task = mnist(tmp_path, queries=10).sample("train", np.array([1, 2, 3]))
    assert task.support.x.shape == (3, 50, 1, 28, 28)
    assert task.support.x.stride(0) == 0
    assert numbers(task.support.x) == [list(range(50))] * 3
    assert torch.equal(task.support.y[0], torch.arange(50) % 10)


def test_query_images_are_never_trained_on(tmp_path: Path) -> None:
    tasks = mnist(tmp_path, queries=10, pool=20)
    for split, held in (("train", range(50, 60)), ("validation", range(50, 60)), ("test", range(20))):
        task = tasks.sample(split, np.arange(5))
        assert all(set(row) <= set(range(50)) and len(set(row)) == 20 for row in numbers(task.support.x))
        assert all(set(row) <= set(held) and len(set(row)) == 10 for row in numbers(task.query.x))
        assert [[one % 10 for one in row] for row in numbers(task.query.x)] == task.query.y.tolist()


def test_smaller_images_are_means_over_squares(tmp_path: Path) -> None:
    whole = mnist(tmp_path, queries=10).sample("test", np.arange(2)).query.x
    small = mnist(tmp_path, queries=10, size=14)
    assert small.spec("test").input_shape == (1, 14, 14)
    expected = whole.reshape(2, 10, 1, 14, 2, 14, 2).mean((4, 6))
    torch.testing.assert_close(small.sample("test", np.arange(2)).query.x, expected)


@pytest.mark.parametrize(
    ("settings", "message"), [({"pool": 51}, "at most 50 images"), ({"queries": 11}, "split 'train' has 10 images")]
)
def test_more_images_than_there_are_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        mnist(tmp_path, **{"queries": 5, **settings})


def test_a_folder_without_the_files_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metasearch.tasks.datasets.urllib.request.urlopen", _offline)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DataError, match="could not download"):
        Mnist(validate(Mnist.Config, {"folder": str(tmp_path)}))


@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_an_idx_file_is_read_plain_and_compressed(name: str, tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    content = idx(array)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert np.array_equal(read_idx(tmp_path / name), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (b"\x00\x00\x0d\x01" + bytes(8), "begins with 00000d01"),
        (idx(np.zeros((2, 2), np.uint8))[:-1], r"says it holds \(2, 2\) bytes and has 3"),
    ],
)
def test_another_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / "a")
    (tmp_path / "b.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / "b.gz")


def _offline(*_: Any, **__: Any) -> Any:
    raise OSError("no network")
