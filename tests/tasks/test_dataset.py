from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mnist_files import write_mnist

from metasearch.core.errors import ConfigError, DataError
from metasearch.core.registry import build

SEEDS = np.array([3, 5], dtype=np.int64)
PER_CLASS = {"train": 3, "search": 2, "validation": 1}


def dataset(**settings: Any) -> Any:
    return build("task", {"type": "dataset", **settings}, "tasks")


def test_parts_are_equal_for_all_classes_and_share_no_example(tmp_path: Path) -> None:
    write_mnist(tmp_path)  # image i holds i in all its pixels, and has the label i mod 10
    tasks = dataset(data="mnist", folder=str(tmp_path), per_class=PER_CLASS)
    seen = {}
    for split, part in (("train", "query"), ("validation", "query"), ("train", "support"), ("test", "support")):
        batch = getattr(tasks.sample(split, SEEDS), part)
        numbers = (batch.x[0, :, 0, 0, 0] * 255).round().long()
        assert torch.equal(numbers % 10, batch.y[0])
        seen[split, part] = set(numbers.tolist())
        assert torch.bincount(batch.y[0]).unique().numel() == 1
    parts = [seen["train", "support"], seen["train", "query"], seen["validation", "query"]]
    assert [len(part) for part in parts] == [30, 20, 10]
    assert seen["test", "support"] == set.union(*parts)
    assert len(seen["test", "support"]) == 60
    assert tasks.spec("test").query == 20


def test_whole_parts_are_shared_and_minibatches_drawn_by_the_tasks_seed(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    whole = dataset(data="mnist", folder=str(tmp_path), per_class=PER_CLASS).sample("train", SEEDS)
    assert whole.support.x.stride(0) == 0
    drawn = dataset(data="mnist", folder=str(tmp_path), per_class=PER_CLASS, support=4, query=3)
    task = drawn.sample("train", SEEDS)
    assert task.support.x.shape == (2, 4, 1, 28, 28)
    assert task.query.y.shape == (2, 3)
    assert drawn.spec("validation").query == 10
    for batch, pool in ((task.support, whole.support), (task.query, whole.query)):
        rows = [[torch.equal(image, other) for other in pool.x[0]].index(True) for image in batch.x[1]]
        assert torch.equal(pool.y[0][rows], batch.y[1])
        assert len(set(rows)) == len(rows)


def test_some_classes_of_omniglot_in_any_number() -> None:
    tasks = dataset(data="omniglot", classes=7, image_size=8, per_class={"train": 10, "search": 4, "validation": 2})
    assert tasks.spec("train").outputs == 7
    assert tasks.spec("test").query == 7 * 4
    other = dataset(data="omniglot", classes=7, image_size=8, split_seed=1, per_class=PER_CLASS)
    pictures = [one.sample("train", SEEDS).query.x[0, 0] for one in (tasks, other)]
    assert not torch.equal(*pictures)


def write_cifar(folder: Path, per_class: int = 6) -> None:
    def batch(start: int) -> bytes:
        rows = [[i % 10] + [(start + i) % 256] * 3072 for i in range(10 * per_class)]
        return np.array(rows, dtype=np.uint8).tobytes()

    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as files:
        for name, content in (("data_batch_1.bin", batch(0)), ("test_batch.bin", batch(100))):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            files.addfile(info, io.BytesIO(content))


def test_cifar_is_read_from_its_archive(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    task = dataset(data="cifar10", folder=str(tmp_path), per_class=PER_CLASS | {"test": 4}).sample("test", SEEDS)
    assert task.support.x.shape == (2, 60, 3, 32, 32)
    assert torch.equal((task.query.x[0, :, 2, 5, 5] * 255).round().long() % 10, task.query.y[0])
    assert task.query.y.shape == (2, 40)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"per_class": {"train": 20}}, "per_class.search.*class 0 has 20"),
        ({"classes": 2000}, "classes.*1623"),
        ({"classes": 2, "per_class": PER_CLASS, "support": 7}, "support.*has 6"),
    ],
)
def test_what_is_not_there_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        dataset(data="omniglot", image_size=8, **settings)


def test_a_foreign_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="binary version"):
        dataset(data="cifar10", folder=str(tmp_path))
