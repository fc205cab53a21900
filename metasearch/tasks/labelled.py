"""Ordinary labelled pictures, divided into training, validation and test: what a training run learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import ConfigError, DataError
from metasearch.core.registry import build, registry
from metasearch.core.seeds import Draws, derive
from metasearch.tasks import cifar10_data, omniglot_data
from metasearch.tasks.image_folder import ENDINGS, SPELLINGS, read_picture
from metasearch.tasks.settings import SPLITS

__all__ = ["Cifar10", "Drawings", "Folder", "Labelled", "Source", "source"]

Split = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Pictures ``[n, channels, height, width]`` and their classes ``[n]``."""


@dataclass(frozen=True)
class Labelled:
    """Labelled pictures.

    Args:
        splits: by ``train``, ``validation`` and ``test``.
        names: of the classes.
    """

    splits: Mapping[str, Split]
    names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one picture."""
        return tuple(self.splits["train"][0].shape[1:])


class Source(Protocol):
    """Where labelled pictures come from: built from a ``Config`` (or keyword arguments), listed under ``data``."""

    def load(self) -> Labelled:
        """The pictures; called once a worker."""
        ...


class Drawings:
    """Few drawings of many Omniglot characters; training, validation and test are by different people.

    Args:
        config: its settings.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            classes: characters, out of all 1623.
            train: drawings of each in training, by as many people.
            validation: by others.
            test: by others again.
            image_size: side in pixels.
            seed: draws characters and people.
        """

        classes: int = Field(default=100, ge=2, le=omniglot_data.CHARACTERS)
        train: PositiveInt = 5
        validation: PositiveInt = 5
        test: PositiveInt = 10
        image_size: int = Field(default=28, ge=4, le=omniglot_data.SIZE)
        seed: int = 0

    def __init__(self, config: Config) -> None:
        self.config = config
        if config.train + config.validation + config.test > omniglot_data.DRAWERS:
            raise ConfigError("data.train", f"with validation and test at most {omniglot_data.DRAWERS} drawings")

    def load(self) -> Labelled:
        config = self.config
        names, pictures = omniglot_data.load("bundled", config.image_size)
        chosen = np.sort(Draws([derive(config.seed, "drawings")]).choose(len(names), config.classes)[0])
        people = Draws([derive(config.seed, "people")]).permutation(omniglot_data.DRAWERS)[0]
        ends = np.cumsum([config.train, config.validation, config.test])
        parts = np.split(people[: ends[-1]], ends[:-1])
        splits = {
            split: _flat(pictures[chosen][:, np.sort(part)][:, :, None])
            for split, part in zip(SPLITS, parts, strict=True)
        }
        return Labelled(splits, tuple(names[i] for i in chosen))


class Cifar10:
    """Pictures of CIFAR-10 (Krizhevsky 2009), a part of the training set of which is held out for validation.

    Args:
        config: its settings.

    Raises:
        DataError: by :meth:`load`, if the archive is missing, is not CIFAR-10's or holds too few pictures.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            folder: holds ``cifar-10-binary.tar.gz``; None looks where data sets lie, and downloads it if need be.
            train: training pictures, equally many of each class.
            validation: further pictures of the training set.
            test: pictures of the test set.
            seed: draws which.
        """

        folder: str | None = None
        train: PositiveInt = 3000
        validation: PositiveInt = 1000
        test: PositiveInt = 4000
        seed: int = 0

    def __init__(self, config: Config) -> None:
        self.config = config

    def load(self) -> Labelled:
        config = self.config
        (x, y), (test_x, test_y) = cifar10_data.read(config.folder)
        train, validation = _balanced(y, (config.train, config.validation), derive(config.seed, "cifar10", "train"))
        (test,) = _balanced(test_y, (config.test,), derive(config.seed, "cifar10", "test"))
        splits = {
            "train": (x[train], y[train]),
            "validation": (x[validation], y[validation]),
            "test": (test_x[test], test_y[test]),
        }
        return Labelled(splits, _CIFAR10)


class Folder:
    """A folder of one's own: ``class/picture``, or ``train/class/picture`` and likewise ``validation`` and ``test``.

    Without folders for the splits (or without one of them), each class's training pictures are divided by ``held_out``.

    Args:
        config: its settings.

    Raises:
        DataError: by :meth:`load`, if there is no such folder, no class in it, or a picture that cannot be read.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            folder: where the pictures are.
            image_size: side in pixels; pictures are cut to a square and resized.
            color: three channels, or one.
            held_out: shares of each class for validation and for test, where they have no folder of their own.
            seed: draws that division.
        """

        folder: str
        image_size: int = Field(default=64, ge=1)
        color: bool = True
        held_out: tuple[float, float] = (0.2, 0.2)
        seed: int = 0

    def __init__(self, config: Config) -> None:
        self.config = config

    def load(self) -> Labelled:
        config, folder = self.config, Path(self.config.folder).expanduser()
        if not folder.is_dir():
            raise DataError(f"no folder {str(folder)!r} (looked from {Path.cwd()}); give the folder of the pictures")
        below = _folders(folder)
        found = {split: next((one for one in below if one.name in SPELLINGS[split]), None) for split in SPLITS}
        top = found["train"] or folder
        names = tuple(one.name for one in _folders(top))
        if len(names) < 2:
            raise DataError(f"{top} needs at least two folders, one a class; it has {len(names)}")
        files = {split: [_pictures(place / name) for name in names] for split, place in found.items() if place}
        rest = files.get("train") or [_pictures(folder / name) for name in names]
        for split, share in zip(("validation", "test"), config.held_out, strict=True):
            if split not in files:
                taken = [self._taken(paths, share, split) for paths in rest]
                files[split] = taken
                rest = [[path for path in paths if path not in own] for paths, own in zip(rest, taken, strict=True)]
        files["train"] = rest
        return Labelled({split: self._read(files[split], split) for split in SPLITS}, names)

    def _taken(self, paths: Sequence[Path], share: float, split: str) -> list[Path]:
        order = Draws([derive(self.config.seed, "folder", split, paths[0].parent.name if paths else "")])
        chosen = order.permutation(len(paths))[0][: max(round(share * len(paths)), 1)]
        return [paths[i] for i in sorted(chosen)]

    def _read(self, classes: Sequence[Sequence[Path]], split: str) -> Split:
        empty = next((number for number, paths in enumerate(classes) if not paths), None)
        if empty is not None:
            raise DataError(f"class number {empty} of {self.config.folder} has no pictures for {split}; add some")
        config = self.config
        labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in classes])
        pictures = [_read(path, config.image_size, config.color) for paths in classes for path in paths]
        return np.stack(pictures), labels


_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _balanced(labels: NDArray[np.int64], sizes: Sequence[int], seed: int) -> list[NDArray[np.int64]]:
    """Different indexes for each size, equally many of each class (the first classes have one more where need be)."""
    order = Draws([seed]).permutation(len(labels))[0]
    ranked = [order[labels[order] == label] for label in range(int(labels.max()) + 1)]
    if sum(sizes) > len(labels):
        raise DataError(f"there are {len(labels)} pictures, {sum(sizes)} were asked for; ask for fewer")
    parts, start = [], np.zeros(len(ranked), dtype=np.int64)
    for size in sizes:
        each = size // len(ranked) + (np.arange(len(ranked)) < size % len(ranked))
        if any(start[i] + each[i] > len(rows) for i, rows in enumerate(ranked)):
            raise DataError(f"a class has fewer than {int((start + each).max())} pictures; ask for fewer")
        parts.append(np.sort(np.concatenate([rows[s : s + e] for rows, s, e in zip(ranked, start, each, strict=True)])))
        start = start + each
    return parts


@lru_cache(maxsize=65536)
def _read(path: Path, size: int, color: bool) -> NDArray[np.uint8]:
    return read_picture(path, size, color)


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS) if folder.is_dir() else []


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _flat(classes: NDArray[np.uint8]) -> Split:
    """``[classes, n, ...]`` as pictures and labels."""
    labels = np.repeat(np.arange(len(classes)), classes.shape[1])
    return np.ascontiguousarray(classes.reshape(-1, *classes.shape[2:])), labels


for _name, _part in {"omniglot": Drawings, "cifar10": Cifar10, "image_folder": Folder}.items():
    registry("data").add(_name, _part)


def source(settings: Any, path: str = "data") -> Source:
    """Where labelled pictures come from, by its settings: ``{type: image_folder, folder: ...}``.

    Raises:
        ConfigError: naming the setting that is wrong.
    """
    if isinstance(settings, type):
        settings = {"type": settings}
    built: Source = build("data", settings, path) if isinstance(settings, Mapping | str) else settings
    return built
