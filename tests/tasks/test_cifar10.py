"""CIFAR-10 as a task: which pictures are where, and which archives are taken."""

from __future__ import annotations

import logging
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_pictures import cifar10

from metasearch.core.config import validate
from metasearch.core.errors import DataError
from metasearch.tasks.cifar10 import Cifar10


def tasks(folder: Path | None, **settings: Any) -> Cifar10:
    given = {} if folder is None else {"folder": str(folder)}
    return Cifar10(validate(Cifar10.Config, {**given, "queries": 4, **settings}))


def test_pictures_keep_channels_rows_and_labels_and_their_splits(tmp_path: Path) -> None:
    made = tasks(cifar10(tmp_path))
    for split, held in (("train", range(30, 36)), ("validation", range(30, 36)), ("test", range(12))):
        task = made.sample(split, np.arange(3))
        assert task.support.x.shape == (3, 30, 3, 32, 32)
        assert (task.support.x[0, :, 0, 0, 0] * 255).round().tolist() == list(range(30))
        shown = (task.query.x[..., 0, 0, 0] * 255).round().long()
        assert all(set(row) <= set(held) and len(set(row)) == 4 for row in shown.tolist())
        assert (shown % 10).tolist() == task.query.y.tolist()
        picture = task.query.x[0, 0] * 255  # red is the number, green the row, blue the column
        assert picture[1, :, 5].round().tolist() == list(range(32))
        assert picture[2, 5].round().tolist() == list(range(32))


def test_an_archive_of_one_s_own_is_taken_with_a_note_and_a_download_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING):
        tasks(cifar10(tmp_path))
    assert "is not the official archive" in caplog.text
    assert "36 training and 12 test pictures" in caplog.text
    monkeypatch.delenv("METASEARCH_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "metasearch" / "cifar10").mkdir(parents=True)
    cifar10(tmp_path / "metasearch" / "cifar10")
    with pytest.raises(DataError, match="expected md5:c32a1d4ab5d03f1284b67883e8d87530"):
        tasks(None)


def test_another_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot read"):
        tasks(tmp_path)
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        (tmp_path / "test_batch.bin").write_bytes(bytes(100))
        archive.add(tmp_path / "test_batch.bin", "test_batch.bin")
    with pytest.raises(DataError, match="0 and 100 bytes"):
        tasks(tmp_path)
