"""Files that are either there in full or not there: strict JSON with nan and inf, atomic files and folders.

JSON has no nan and no infinity, so they are written as the strings ``"nan"``, ``"inf"`` and ``"-inf"`` and come back
as floats; a real string of that spelling is written with a backslash in front, so that every value survives.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from metasearch.core.faults import fault_point

__all__ = [
    "SYNC_S",
    "decode",
    "encode",
    "folder_in_place",
    "from_json",
    "sync",
    "temporary_name",
    "to_json",
    "write_file",
]

SYNC_S = 0.2
"""Seconds between two flushes to disk; an evaluation that took as long is flushed at once."""

_NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_ESCAPED = re.compile(r"\\+(nan|inf|-inf)")
_MARK = ".tmp-"


def encode(value: Any) -> Any:
    """A value as strict JSON can hold it: tuples become lists, numpy scalars and arrays plain numbers, paths strings.

    Raises:
        TypeError: for a mapping key that is not a string, and for types that JSON does not know.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _spell(value)
    if isinstance(value, str):
        return "\\" + value if value in _NUMBERS or _ESCAPED.fullmatch(value) else value
    if isinstance(value, Mapping):
        return {_key(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return encode(value.tolist())
    if isinstance(value, Path):
        return encode(str(value))
    raise TypeError(f"expected plain values (numbers, strings, lists, mappings), got {type(value).__name__}: {value!r}")


def decode(value: Any) -> Any:
    """The inverse of :func:`encode`, apart from the types it made plain."""
    if isinstance(value, str):
        if value in _NUMBERS:
            return _NUMBERS[value]
        return value[1:] if value.startswith("\\") and _ESCAPED.fullmatch(value) else value
    if isinstance(value, dict):
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode(item) for item in value]
    return value


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON of any plain value; compact unless indented.

    Raises:
        TypeError: as :func:`encode` does.
    """
    separators = (",", ":") if indent is None else None
    return json.dumps(encode(value), indent=indent, separators=separators, allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """The value that :func:`to_json` wrote.

    Raises:
        ValueError: if the text is not JSON.
    """
    return decode(json.loads(text))


def write_file(path: Path, content: str | bytes) -> None:
    """Writes a file so that a reader, also after a power cut, finds the old content or the new, never a mixture."""
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def folder_in_place(target: Path, fault: str | None = None) -> Iterator[Path]:
    """An empty folder to fill; on leaving it is flushed to disk and named ``target``, replacing what was there.

    If the body raises, the folder is removed and ``target`` stays as it was. ``fault`` names a fault point that is
    passed right before the rename and right after it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(target)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        if fault:
            fault_point(fault)
        old = _set_aside(target)
        temporary.rename(target)
        if fault:
            fault_point(fault)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(target.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Flushes a file, or a folder's list of names, to disk (without it a power cut may lose what it holds)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that nothing else uses, starting with ``.tmp-``, the mark of interrupted writes."""
    return path.with_name(f"{_MARK}{path.name}-{secrets.token_hex(4)}")


def _set_aside(target: Path) -> Path | None:
    """Moves an existing folder out of the way, since a rename cannot replace one that is not empty."""
    aside = temporary_name(target)
    with suppress(FileNotFoundError):
        target.rename(aside)
        return aside
    return None


def _spell(value: float) -> str:
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"expected strings as keys, got {type(key).__name__}: {key!r}")
    return key
