"""The idx format, in which MNIST and its relatives are published: a header, then the numbers as they are."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metasearch.core.errors import DataError

__all__ = ["read_idx"]


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An idx file of bytes, compressed (``.gz``) or not.

    Args:
        path: of the file; its header says the shape.

    Raises:
        DataError: if it cannot be read or is no such file.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}; fetch it again") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} is no idx file of bytes: it begins with {content[:4].hex() or 'nothing'}")
    end = 4 + 4 * content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4:end], ">u4"))
    if len(content) != end + math.prod(shape):
        raise DataError(f"{path} says it holds {shape} bytes and has {len(content) - end}; fetch it again")
    return np.frombuffer(content, np.uint8, offset=end).reshape(shape)
