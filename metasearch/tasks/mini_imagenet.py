"""miniImageNet: few-shot classification of 100 classes of ImageNet pictures."""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import DataError
from metasearch.tasks.base import FewShot
from metasearch.tasks.distortions import SplitDistortions
from metasearch.tasks.image_folder import read_picture
from metasearch.tasks.settings import PerSplit, PerSplitOrNone, TrainOn, joined, per_split

__all__ = ["MiniImagenet"]

CLASSES = {"train": 64, "validation": 16, "test": 20}
PICTURES = 600
_LISTS = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}


class MiniImagenet(FewShot):
    """N-way K-shot tasks from 64 training, 16 validation and 20 test classes of 600 pictures each.

    The pictures belong to ImageNet, which gives them to registered users only, so a folder is required: with the lists
    ``train.csv``, ``val.csv`` and ``test.csv`` of Ravi and Larochelle 2017 (columns ``filename`` and ``label``) and the
    pictures in ``images``. Publishers state no checksum of the pictures; the numbers of classes and pictures are
    checked.

    Pictures are ``[3, image_size, image_size]`` in [0, 1], cut to a square around the middle, then resized (Lanczos).

    Settings (``Config``):
        folder: see above.
        image_size: side of a picture in pixels.
        ways, shots, queries: a number or one for each split; ``shots`` and ``queries`` count pictures of one class.
        unlabelled, distractors: unlabelled examples of each class, and classes of which there are no others
            (:class:`~metasearch.tasks.base.FewShot`).
        pool: number of different training tasks; None for no limit.
        distortions: of the pictures, by split (:class:`~metasearch.tasks.distortions.Distortions`).
        train_on: splits whose classes are trained on: with ``[train, validation]`` both together, and there is no
            validation split.
        complete: refuse a folder with other numbers of classes or pictures than published.

    Raises:
        DataError: if a file is missing, cannot be read, or the numbers are not those that were published.
        ConfigError: if a split has too few classes for ``ways``, or a class too few pictures.
    """

    class Config(BaseConfig):
        """See :class:`MiniImagenet`."""

        folder: str
        image_size: int = Field(default=84, ge=1)
        ways: PerSplit = per_split(5)
        shots: PerSplit = per_split(1)
        queries: PerSplit = per_split(15)
        unlabelled: PerSplitOrNone = per_split(0, 0)
        distractors: PerSplitOrNone = per_split(0, 0)
        pool: int | None = Field(default=None, ge=1)
        distortions: SplitDistortions = Field(default_factory=dict)
        train_on: TrainOn = ("train",)
        complete: bool = True

    def __init__(self, config: Config, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.config = config
        folder = Path(config.folder).expanduser()
        listed = {split: _listed(folder / name) for split, name in _LISTS.items()}
        if config.complete:
            _check(folder, listed)
        classes = joined({split: [*files.items()] for split, files in listed.items()}, config.train_on)
        super().__init__(
            {
                split: [_read(folder / "images", tuple(files), config.image_size) for _, files in members]
                for split, members in classes.items()
            },
            ways=config.ways,
            shots=config.shots,
            queries=config.queries,
            unlabelled=config.unlabelled,
            distractors=config.distractors,
            pool=config.pool,
            distortions=config.distortions,
            names={split: [name for name, _ in members] for split, members in classes.items()},
            device=device,
            dtype=dtype,
        )


def _listed(path: Path) -> dict[str, list[str]]:
    """File names by class, classes in the order of their names."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); expected the lists of Ravi and Larochelle, "
            f"{', '.join(_LISTS.values())}, beside a folder images"
        ) from error
    if not rows or not {"filename", "label"} <= set(rows[0]):
        raise DataError(f"{path}: expected columns filename and label, and at least one row")
    classes: dict[str, list[str]] = {label: [] for label in sorted({row["label"] for row in rows})}
    for row in rows:
        classes[row["label"]].append(row["filename"])
    return classes


def _check(folder: Path, listed: dict[str, dict[str, list[str]]]) -> None:
    found = {split: (len(classes), {len(files) for files in classes.values()}) for split, classes in listed.items()}
    expected = {split: (count, {PICTURES}) for split, count in CLASSES.items()}
    if found != expected:
        raise DataError(
            f"the lists in {folder} have {_words(found)}; expected {_words(expected)}. For a part: complete: false"
        )


def _words(numbers: dict[str, tuple[int, set[int]]]) -> str:
    return ", ".join(
        f"{classes} {split} classes of {' or '.join(map(str, sorted(sizes)))} pictures"
        for split, (classes, sizes) in numbers.items()
    )


@lru_cache(maxsize=128)
def _read(folder: Path, files: tuple[str, ...], size: int) -> NDArray[np.uint8]:
    return np.stack([read_picture(folder / name, size, True) for name in files])
