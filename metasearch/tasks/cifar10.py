"""Training a network on CIFAR-10 as a task, from the official archive of its binary version."""

from __future__ import annotations

import hashlib
import logging
import tarfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import DataError
from metasearch.tasks import datasets
from metasearch.tasks.settings import PerSplit, per_split
from metasearch.tasks.training import TrainingTasks

__all__ = ["Cifar10"]

_log = logging.getLogger(__name__)
_RECORD = 1 + 3 * 32 * 32
"""Bytes of a picture in the archive: its label, then red, green and blue, row by row."""


class Cifar10(TrainingTasks):
    """A task is a fresh training run (:class:`~metasearch.tasks.training.TrainingTasks`).

    The support set is what is trained on: the training pictures but for the last sixth of them, or some of those. The
    query set are others: of that sixth in the splits train and validation, test pictures in the split test. Pictures
    are ``[T, n, 3, 32, 32]`` in [0, 1], labels ``[T, n]``.

    An archive in a folder of the user's own may hold fewer pictures than the official one; a note says so. A download
    has to be the official one.

    Settings (``Config``):
        pool: pictures of a support set, drawn for each task; None means all, of which no copy is made.
        queries: query pictures, a number or one for each split.
        folder: where ``cifar-10-binary.tar.gz`` lies; None looks where all data sets are looked for.

    Raises:
        DataError: if the archive is nowhere, with what to do, or is no archive of CIFAR-10's binary version.
        ConfigError: if there are fewer pictures than are asked for.
    """

    class Config(BaseConfig):
        """See :class:`Cifar10`."""

        pool: int | None = Field(default=None, ge=1)
        queries: PerSplit = per_split(500)
        folder: str | None = None

    def __init__(self, config: Config, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        folder = datasets.get("cifar10", config.folder)
        found = datasets.place("cifar10", config.folder)
        train, test = _opened(folder / "cifar-10-binary.tar.gz", own=found is not None and found[0] != "cache")

        def placed(records: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
            pixels = torch.from_numpy(records[:, 1:].copy()).view(-1, 3, 32, 32)
            labels = torch.from_numpy(records[:, 0].astype(np.int64))
            return pixels.to(device, dtype).mul_(1 / 255), labels.to(device)

        x, y = placed(train)
        last = len(x) - len(x) // 6
        held = x[last:], y[last:]
        query = {"train": held, "validation": held, "test": placed(test)}
        super().__init__("cifar10", (x[:last], y[:last]), query, config)


def _opened(archive: Path, *, own: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Records ``[n, 3073]`` of the training and of the test pictures; ``own`` archives may differ from the official."""
    try:
        content = archive.read_bytes()
        with tarfile.open(archive) as files:
            names = sorted(files.getnames())
            batches = [name for name in names if Path(name).name.startswith("data_batch_") and name.endswith(".bin")]
            raw = b"".join(_member(files, name) for name in batches)
            tests = _member(files, next((name for name in names if Path(name).name == "test_batch.bin"), ""))
    except (tarfile.TarError, OSError, KeyError, EOFError) as error:
        raise DataError(f"cannot read {archive}: {error}; expected CIFAR-10's binary version") from error
    records = [np.frombuffer(one, np.uint8) for one in (raw, tests)]
    if not all(len(one) and len(one) % _RECORD == 0 for one in records):
        raise DataError(
            f"{archive} is not CIFAR-10's binary version: {len(raw)} and {len(tests)} bytes of training and test "
            f"records, expected multiples of {_RECORD}"
        )
    train, test = (one.reshape(-1, _RECORD) for one in records)
    if max(int(train[:, 0].max()), int(test[:, 0].max())) > 9:
        raise DataError(f"{archive} is not CIFAR-10's binary version: labels go beyond 9")
    expected = datasets.describe("cifar10").files[0].checksum
    actual = f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}"
    if actual != expected:
        if not own:
            raise DataError(f"{archive}: expected {expected}, got {actual}; the file is damaged, delete it")
        _log.warning(
            "%s is not the official archive of CIFAR-10 (%s): taken as it is, %d training and %d test pictures",
            archive,
            actual,
            len(train),
            len(test),
        )
    return train, test


def _member(files: tarfile.TarFile, name: str) -> bytes:
    stream = files.extractfile(name)
    return b"" if stream is None else stream.read()
