"""CIFAR-FS: few-shot classification of the 100 classes of CIFAR-100, from its official archive."""

from __future__ import annotations

import tarfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import DataError
from metasearch.tasks import datasets
from metasearch.tasks.base import FewShot
from metasearch.tasks.distortions import SplitDistortions
from metasearch.tasks.settings import PerSplit, PerSplitOrNone, TrainOn, joined, per_split

__all__ = ["CifarFS"]

VALIDATION = frozenset({
    "beaver", "otter", "flatfish", "shark", "lamp", "television", "beetle", "butterfly", "sea", "camel", "cattle",
    "crab", "crocodile", "maple_tree", "motorcycle", "tractor",
})  # fmt: skip
TEST = frozenset({
    "whale", "poppy", "rose", "sweet_pepper", "telephone", "bed", "table", "wardrobe", "leopard", "plain", "chimpanzee",
    "fox", "snail", "worm", "baby", "man", "woman", "bicycle", "pickup_truck", "rocket",
})  # fmt: skip
_RECORD = 2 + 3 * 32 * 32
"""Bytes of a picture in the archive: its coarse and fine label, then red, green and blue, row by row."""


class CifarFS(FewShot):
    """N-way K-shot tasks from CIFAR-100's 60,000 pictures: 64 training, 16 validation and 20 test classes.

    The classes of the splits are those of Bertinetto, Henriques, Torr, Vedaldi 2019 (arXiv 1805.08136); all 600
    pictures of a class are taken, those of CIFAR-100's training set first. Pictures are ``[3, 32, 32]`` in [0, 1].

    Settings (``Config``):
        folder: holds ``cifar-100-binary.tar.gz``; None looks where data sets lie, and downloads it if need be.
        ways, shots, queries: a number or one for each split; ``shots`` and ``queries`` count pictures of one class.
        unlabelled, distractors: unlabelled examples of each class, and classes of which there are no others
            (:class:`~metasearch.tasks.base.FewShot`).
        pool: number of different training tasks; None for no limit.
        distortions: of the pictures, by split (:class:`~metasearch.tasks.distortions.Distortions`).
        train_on: splits whose classes are trained on: with ``[train, validation]`` both together, and there is no
            validation split.

    Raises:
        DataError: if the archive is missing or is not CIFAR-100's.
        ConfigError: if a split has too few classes for ``ways``, or a class too few pictures.
    """

    class Config(BaseConfig):
        """See :class:`CifarFS`."""

        folder: str | None = None
        ways: PerSplit = per_split(5)
        shots: PerSplit = per_split(1)
        queries: PerSplit = per_split(15)
        unlabelled: PerSplitOrNone = per_split(0, 0)
        distractors: PerSplitOrNone = per_split(0, 0)
        pool: int | None = Field(default=None, ge=1)
        distortions: SplitDistortions = Field(default_factory=dict)
        train_on: TrainOn = ("train",)

    def __init__(self, config: Config, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.config = config
        place = datasets.get("cifar100") if config.folder is None else datasets.locate("cifar100", config.folder)
        names, labels, pixels = _opened(place / "cifar-100-binary.tar.gz")
        splits: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
        for index, name in enumerate(names):
            splits["validation" if name in VALIDATION else "test" if name in TEST else "train"].append(index)
        splits = joined(splits, config.train_on)
        super().__init__(
            {split: [pixels[labels == index] for index in members] for split, members in splits.items()},
            ways=config.ways,
            shots=config.shots,
            queries=config.queries,
            unlabelled=config.unlabelled,
            distractors=config.distractors,
            pool=config.pool,
            distortions=config.distortions,
            names={split: [names[index] for index in members] for split, members in splits.items()},
            device=device,
            dtype=dtype,
        )


@lru_cache(maxsize=1)
def _opened(archive: Path) -> tuple[tuple[str, ...], NDArray[np.uint8], NDArray[np.uint8]]:
    """Names of the classes, labels ``[n]``, pictures ``[n, 3, 32, 32]``."""
    try:
        with tarfile.open(archive) as files:
            names = _member(files, "fine_label_names.txt").decode().split()
            raw = _member(files, "train.bin") + _member(files, "test.bin")
    except (tarfile.TarError, OSError, KeyError) as error:
        raise DataError(f"cannot read {archive}: {error}; expected CIFAR-100's binary version") from error
    if not set(names) >= VALIDATION | TEST or len(raw) % _RECORD:
        raise DataError(
            f"{archive} is not CIFAR-100's binary version: {len(names)} classes, {len(raw)} bytes of records"
        )
    records = np.frombuffer(raw, dtype=np.uint8).reshape(-1, _RECORD)
    return tuple(names), records[:, 1], records[:, 2:].reshape(-1, 3, 32, 32)


def _member(files: tarfile.TarFile, name: str) -> bytes:
    stream = files.extractfile(f"cifar-100-binary/{name}")
    assert stream is not None
    return stream.read()
