"""Labelled pictures: which are where, and that no picture is in two splits."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from made_pictures import picture_folder
from PIL import Image

from metasearch.core.errors import ConfigError, DataError
from metasearch.tasks.labelled import source
from metasearch.tasks.omniglot_data import load


def cifar10(folder: Path, each: int = 6) -> Path:
    """An archive in CIFAR-10's layout: picture n of class k has the channels (k, n, set)."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for number, name in enumerate(("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin")):
            content = b"".join(
                bytes([k]) + bytes([k]) * 1024 + bytes([n]) * 1024 + bytes([number]) * 1024
                for n in range(each)
                for k in range(10)
            )
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return folder


def test_drawings_of_the_splits_are_by_different_people() -> None:
    found = source({"type": "omniglot", "classes": 4, "train": 3, "validation": 2, "test": 5, "image_size": 14}).load()
    assert {split: (x.shape, len(y)) for split, (x, y) in found.splits.items()} == {
        "train": ((12, 1, 14, 14), 12),
        "validation": ((8, 1, 14, 14), 8),
        "test": ((20, 1, 14, 14), 20),
    }
    names, pictures = load("bundled", 14)
    people = {}
    for split, (x, y) in found.splits.items():
        own = pictures[names.index(found.names[0])]
        people[split] = {int((own == one[0]).all((1, 2)).argmax()) for one in x[y == 0]}
    assert sorted(len(one) for one in people.values()) == [2, 3, 5]
    assert len(set.union(*people.values())) == 10
    with pytest.raises(ConfigError, match="20 drawings"):
        source({"type": "omniglot", "train": 15})


def test_cifar10_is_read_from_its_archive_in_equal_numbers_of_each_class(tmp_path: Path) -> None:
    folder = cifar10(tmp_path / "cifar10")
    found = source({"type": "cifar10", "folder": str(folder), "train": 40, "validation": 30, "test": 20}).load()
    seen = []
    for split, each in (("train", 4), ("validation", 3), ("test", 2)):
        x, y = found.splits[split]
        assert x.shape == (10 * each, 3, 32, 32)
        assert np.bincount(y).tolist() == [each] * 10
        assert (x[:, 0, 0, 0] == y).all()
        seen += [tuple(one[:, 0, 0]) for one in x]
        assert set(x[:, 2, 0, 0]) <= ({2} if split == "test" else {0, 1})
    assert len(set(seen)) == 90
    with pytest.raises(DataError, match="ask for fewer"):
        source({"type": "cifar10", "folder": str(folder), "train": 130, "validation": 10}).load()
    with pytest.raises(DataError, match="cifar10"):
        source({"type": "cifar10", "folder": str(tmp_path)}).load()


def test_a_folder_without_splits_is_divided_class_by_class(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "all", {"a": 10, "b": 5})
    found = source({"type": "image_folder", "folder": str(folder), "image_size": 4, "held_out": [0.2, 0.4]}).load()
    assert found.names == ("a", "b")
    counts = {split: np.bincount(y).tolist() for split, (_, y) in found.splits.items()}
    assert counts == {"train": [5, 2], "validation": [2, 1], "test": [3, 2]}
    greens = [x[y == 0][:, 1, 0, 0] for x, y in found.splits.values()]
    assert sorted(np.concatenate(greens)) == list(range(5, 15))


def test_a_folder_with_splits_is_taken_as_it_is(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        picture_folder(tmp_path / split, {"a": count, "b": count})
    found = source({"type": "image_folder", "folder": str(tmp_path), "image_size": 4, "color": False}).load()
    assert {split: x.shape for split, (x, _) in found.splits.items()} == {
        "train": (12, 1, 4, 4),
        "validation": (4, 1, 4, 4),
        "test": (6, 1, 4, 4),
    }
    Image.new("RGB", (3, 3)).save(tmp_path / "train" / "a" / "x.png")
    (tmp_path / "test" / "b" / "02.png").unlink()
    (tmp_path / "test" / "b" / "01.png").unlink()
    (tmp_path / "test" / "b" / "00.png").unlink()
    with pytest.raises(DataError, match="no pictures for test"):
        source({"type": "image_folder", "folder": str(tmp_path), "image_size": 4}).load()
    with pytest.raises(DataError, match="at least two folders"):
        source({"type": "image_folder", "folder": str(tmp_path / "test" / "a")}).load()
