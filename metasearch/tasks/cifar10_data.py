"""CIFAR-10 as it is published: the archive of its binary version, read without pickle."""

from __future__ import annotations

import hashlib
import logging
import tarfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metasearch.core.errors import DataError
from metasearch.tasks import datasets

__all__ = ["Arrays", "read"]

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Pictures ``[n, 3, 32, 32]`` and labels ``[n]``, not to be written to."""

_log = logging.getLogger(__name__)
_RECORD = 1 + 3 * 32 * 32
"""Bytes of a picture in the archive: its label, then red, green and blue, row by row."""


def read(folder: str | Path | None = None) -> tuple[Arrays, Arrays]:
    """The training and the test pictures.

    An archive in a folder of the user's own may hold fewer pictures than the official one; a note says so. A download
    has to be the official one.

    Args:
        folder: holds ``cifar-10-binary.tar.gz``; None looks where data sets lie, and downloads it if need be.

    Raises:
        DataError: if the archive is missing, with what to do, or is not CIFAR-10's binary version.
    """
    place = datasets.get("cifar10") if folder is None else datasets.locate("cifar10", folder)
    found = datasets.place("cifar10", folder)
    return _opened(place / "cifar-10-binary.tar.gz", found is not None and found[0] != "cache")


@lru_cache(maxsize=1)
def _opened(archive: Path, own: bool) -> tuple[Arrays, Arrays]:
    """Both sets; an archive that is the ``own`` of a user may differ from the official one."""
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
    return _pictures(train), _pictures(test)


def _pictures(records: NDArray[np.uint8]) -> Arrays:
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


def _member(files: tarfile.TarFile, name: str) -> bytes:
    stream = files.extractfile(name)
    return b"" if stream is None else stream.read()
