"""Reading Omniglot: the bundled drawings, or the archives its authors publish.

Lake, Salakhutdinov, Tenenbaum 2015, "Human-level concept learning through probabilistic program induction", Science
350.
"""

from __future__ import annotations

import io
import json
import lzma
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metasearch.core.errors import DataError
from metasearch.tasks import datasets
from metasearch.tasks.resize import shrink_ink

__all__ = ["CHARACTERS", "DRAWERS", "SIZE", "Drawings", "lake_runs", "load", "read_zips", "vinyals_splits"]

CHARACTERS = 1623
DRAWERS = 20
SIZE = 105
_BYTES = -(-SIZE * SIZE // 8)
_CHUNK = 128
"""Drawings resized at once: their intermediate pictures fit into a processor's second-level cache."""


@dataclass(frozen=True)
class Drawings:
    """Binary drawings of characters.

    Args:
        names: ``set/alphabet/character`` of each character, sorted.
        packed: ``[characters, 20, 1379]`` uint8: 8 pixels a byte, first pixel in the highest bit, 1 = ink, row by row.
    """

    names: tuple[str, ...]
    packed: NDArray[np.uint8]

    def pictures(self, size: int) -> NDArray[np.uint8]:
        """``[characters, 20, size, size]``, 255 = ink, resized by :func:`~metasearch.tasks.resize.shrink_ink`."""
        rows = self.packed.reshape(-1, _BYTES)
        out = np.empty((len(rows), size, size), dtype=np.uint8)
        for start in range(0, len(rows), _CHUNK):
            bits = np.unpackbits(rows[start : start + _CHUNK]).reshape(-1, 8 * _BYTES)
            out[start : start + _CHUNK] = shrink_ink(bits[:, : SIZE * SIZE].reshape(-1, SIZE, SIZE), size)
        return out.reshape(len(self.names), DRAWERS, size, size)


@lru_cache(maxsize=2)
def load(source: str, size: int) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Names of all characters, and their pictures ``[1623, 20, size, size]`` (read-only; kept for the next caller).

    Args:
        source: ``bundled``; ``original`` for the authors' archives, downloaded where they are nowhere yet; or a folder
            with these archives.
        size: side of a picture in pixels.

    Raises:
        DataError: if the data are missing, incomplete or damaged.
    """
    drawings = _bundled() if source == "bundled" else _original(None if source == "original" else source)
    pictures = drawings.pictures(size)
    pictures.flags.writeable = False
    return drawings.names, pictures


def vinyals_splits() -> dict[str, frozenset[str]]:
    """``alphabet/character`` names of the train (1028), validation (172) and test (423) characters.

    These are the lists published with Prototypical Networks (Snell, Swersky, Zemel 2017), after Vinyals et al. 2016.
    """
    lists: dict[str, list[str]] = json.loads((datasets.locate("omniglot") / "vinyals_splits.json").read_text())
    return {"train": frozenset(lists["train"]), "validation": frozenset(lists["val"]), "test": frozenset(lists["test"])}


def lake_runs(names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The authors' 20 runs of one-shot classification: 20 characters of one alphabet, all drawn once by one person (the
    support set) and once by another (the queries); 400 trials together.

    Args:
        names: ``set/alphabet/character`` of all characters.

    Returns:
        Indexes of the characters ``[20, 20]``, and of the two drawers ``[20, 2]``.
    """
    runs = json.loads((datasets.locate("omniglot") / "lake_runs.json").read_text())
    place = {name: index for index, name in enumerate(names)}
    characters = [
        [place[f"images_evaluation/{run['alphabet']}/{character}"] for character in run["characters"]] for run in runs
    ]
    return np.array(characters), np.array([[run["support"] - 1, run["query"] - 1] for run in runs])


def read_zips(paths: Sequence[Path]) -> Drawings:
    """Drawings from archives of PNG files, ``set/alphabet/character/number_drawer.png``.

    Raises:
        DataError: if an archive cannot be read, a picture is not 105 x 105, or a character has not 20 drawers.
    """
    characters: dict[str, dict[str, NDArray[np.uint8]]] = {}
    for path in paths:
        for name, ink in _pngs(path):
            parts = PurePosixPath(name)
            characters.setdefault(str(parts.parent), {})[parts.stem] = ink
    for name, drawers in characters.items():
        if len(drawers) != DRAWERS:
            raise DataError(f"{name}: expected {DRAWERS} drawings, found {len(drawers)}; the archive is incomplete")
    names = tuple(sorted(characters))
    packed = [[np.packbits(characters[name][drawer]) for drawer in sorted(characters[name])] for name in names]
    return Drawings(names, np.array(packed, dtype=np.uint8).reshape(len(names), DRAWERS, _BYTES))


def _bundled() -> Drawings:
    folder = datasets.locate("omniglot")
    names = tuple((folder / "classes.txt").read_text().split())
    try:
        raw = lzma.decompress((folder / "ink.packbits.xz").read_bytes())
    except lzma.LZMAError as error:
        raise DataError(f"{folder / 'ink.packbits.xz'} is damaged ({error}); install the package again") from error
    if (len(names), len(raw)) != (CHARACTERS, CHARACTERS * DRAWERS * _BYTES):
        raise DataError(
            f"{folder} does not hold {CHARACTERS} characters by {DRAWERS} drawers; install the package again"
        )
    return Drawings(names, np.frombuffer(raw, dtype=np.uint8).reshape(CHARACTERS, DRAWERS, _BYTES))


def _original(folder: str | None) -> Drawings:
    name = "omniglot-original"
    path = datasets.get(name) if folder is None else datasets.locate(name, folder)
    drawings = read_zips([path / file.name for file in datasets.describe(name).files])
    if len(drawings.names) != CHARACTERS:
        raise DataError(
            f"{path}: expected {CHARACTERS} characters, found {len(drawings.names)}; fetch both archives again"
        )
    return drawings


def _pngs(path: Path) -> list[tuple[str, NDArray[np.uint8]]]:
    """Name and ink ``[105, 105]`` of each picture in an archive."""
    found = []
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".png") and not name.startswith("__MACOSX"):
                    pixels = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L"))
                    if pixels.shape != (SIZE, SIZE):
                        raise DataError(f"{path}: {name} has {pixels.shape} pixels, expected {(SIZE, SIZE)}")
                    found.append((name, (pixels == 0).astype(np.uint8)))
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"cannot read {path}: {error}; expected an archive of Omniglot's PNG files") from error
    return found
