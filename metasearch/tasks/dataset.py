"""A whole data set as one task, or minibatches of it as many: ordinary training, judged by other examples."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import ConfigError
from metasearch.core.seeds import Draws, derive
from metasearch.core.values import Task, TaskSpec
from metasearch.tasks import cifar10_data, datasets, omniglot_data
from metasearch.tasks.idx import read_idx
from metasearch.tasks.settings import SPLITS, check_split
from metasearch.tasks.training import drawn

__all__ = ["WholeDataset"]


class PerClass(BaseConfig):
    """Examples of each class in each part of the data.

    Args:
        train: weights are trained on them.
        search: the search judges by them.
        validation: what is reported is selected by them; a searcher never hears of them.
        test: examples of the test set; None means all of them.
    """

    train: PositiveInt = 200
    search: PositiveInt = 100
    validation: PositiveInt = 50
    test: PositiveInt | None = None


class WholeDataset:
    """Classification of all classes, with the examples cut into parts, each with equal numbers of every class.

    A learner trains on the support set, all of the part ``train`` (and in the split ``test`` also ``search`` and
    ``validation``: nothing is left to be selected there), and is judged on the query set: the part ``search`` in the
    split train, ``validation`` and ``test`` in the others. With ``support`` and ``query``, tasks of the split train are
    minibatches of these parts. The parts are cut by ``split_seed``; all seeds see the same ones.

    Settings (``Config``):
        data: ``mnist`` (test part from its 10,000 test images), ``cifar10`` (likewise), or ``omniglot`` (20 drawings of
            each character).
        classes: how many, drawn by ``split_seed``; None means all.
        per_class: examples of each class in each part.
        support, query: examples of a training task, drawn by its seed; None means the whole part.
        image_size: side of Omniglot's pictures in pixels.
        split_seed: cuts the data.
        folder: where the files lie; None looks where all data sets are looked for.

    Images are ``[T, n, C, H, W]`` in [0, 1], 1 being ink, labels ``[T, n]``.

    Raises:
        DataError: if the files are nowhere, or are not the data set.
        ConfigError: if there are fewer classes or examples than are asked for.
    """

    class Config(BaseConfig):
        """See :class:`WholeDataset`."""

        data: Literal["mnist", "cifar10", "omniglot"]
        classes: PositiveInt | None = None
        per_class: PerClass = PerClass()
        support: PositiveInt | None = None
        query: PositiveInt | None = None
        image_size: PositiveInt = 28
        split_seed: int = 0
        folder: str | None = None

    def __init__(self, config: Config, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.config = config
        self._parts = {
            name: (torch.from_numpy(x).to(device, dtype).mul_(1 / 255), torch.from_numpy(y).to(device))
            for name, (x, y) in _parts(config).items()
        }
        sizes = {"support": "train", "query": "search"}
        for key, part in sizes.items():
            asked, there = getattr(config, key), len(self._parts[part][1])
            if asked is not None and asked > there:
                raise ConfigError(key, f"{asked} were asked for, but the part {part!r} has {there} examples")

    def spec(self, split: str) -> TaskSpec:
        """Shapes of a split's tasks.

        Raises:
            ConfigError: if the split is not one of train, validation and test.
        """
        check_split(split, SPLITS)
        (x, y), (_, judged) = self._support(split), self._query(split)
        support, query = (self.config.support, self.config.query) if split == "train" else (None, None)
        classes = int(self._parts["train"][1].max()) + 1
        return TaskSpec("classification", tuple(x.shape[1:]), classes, support or len(y), query or len(judged))

    def sample(self, split: str, seeds: NDArray[np.int64]) -> Task:
        """One task a seed; whole parts are shared by all tasks, not copied.

        Raises:
            ConfigError: if the split is not one of train, validation and test.
        """
        check_split(split, SPLITS)
        seeds = np.asarray(seeds, dtype=np.int64).reshape(-1)
        support, query = (self.config.support, self.config.query) if split == "train" else (None, None)
        return Task(
            drawn(self._support(split), seeds, f"dataset/{split}/support", support),
            drawn(self._query(split), seeds, f"dataset/{split}/query", query),
            seeds,
        )

    def _support(self, split: str) -> tuple[Tensor, Tensor]:
        return self._parts["everything" if split == "test" else "train"]

    def _query(self, split: str) -> tuple[Tensor, Tensor]:
        return self._parts["search" if split == "train" else split]


Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


def _parts(config: WholeDataset.Config) -> dict[str, Arrays]:
    """The parts by name: images ``[n, C, H, W]`` uint8 and labels from 0."""
    learning, testing = _opened(config.data, config.image_size, config.folder)
    names = np.unique(learning[1])
    if config.classes is not None:
        if config.classes > len(names):
            raise ConfigError("classes", f"{config.data} has {len(names)}, {config.classes} were asked for")
        order = Draws([derive(config.split_seed, "classes")]).permutation(len(names))[0]
        names = np.sort(names[order[: config.classes]])
    wanted = {name: getattr(config.per_class, name) for name in ("train", "search", "validation", "test")}
    rows: dict[str, list[NDArray[np.int64]]] = {name: [] for name in wanted}
    for name in names.tolist():
        places = [("train", "search", "validation")] + ([] if testing is None else [("test",)])
        for source, parts in zip((learning, testing), places, strict=False):
            assert source is not None
            own = np.flatnonzero(source[1] == name)
            order = Draws([derive(config.split_seed, config.data, *parts, int(name))]).permutation(len(own))[0]
            _cut(own[order], parts if testing is not None else (*parts, "test"), wanted, rows, int(name))
    sources: dict[str, Arrays] = dict.fromkeys(wanted, learning) | ({} if testing is None else {"test": testing})
    found = {name: _taken(sources[name], np.concatenate(rows[name]), names) for name in wanted}
    everything = [found[name] for name in ("train", "search", "validation")]
    x, y = (np.concatenate([one[i] for one in everything]) for i in (0, 1))
    return {**found, "everything": (x, y)}


def _cut(
    order: NDArray[np.int64],
    parts: tuple[str, ...],
    wanted: Mapping[str, int | None],
    rows: Mapping[str, list[NDArray[np.int64]]],
    label: int,
) -> None:
    """Deals the examples of a class out to parts."""
    start = 0
    for part in parts:
        count = wanted[part]
        end = len(order) if count is None else start + count
        if end > len(order) or end == start:
            raise ConfigError(
                f"per_class.{part}", f"class {label} has {len(order)} examples for {', '.join(parts)}; ask for fewer"
            )
        rows[part].append(order[start:end])
        start = end


def _taken(source: Arrays, rows: NDArray[np.int64], names: NDArray[np.int64]) -> Arrays:
    return source[0][rows], np.searchsorted(names, source[1][rows]).astype(np.int64)


@lru_cache(maxsize=2)
def _opened(data: str, size: int, folder: str | None) -> tuple[Arrays, Arrays | None]:
    """What there is to learn from, and the published test set if there is one."""
    if data == "omniglot":
        _, pictures = omniglot_data.load(folder or "bundled", size)
        labels = np.repeat(np.arange(len(pictures)), pictures.shape[1])
        return (pictures.reshape(-1, 1, size, size), labels), None
    if data == "cifar10":
        return cifar10_data.read(folder)
    place = datasets.get(data, folder)
    return _mnist(place, "train"), _mnist(place, "t10k")


def _mnist(folder: Path, name: str) -> Arrays:
    images = read_idx(folder / f"{name}-images-idx3-ubyte.gz")
    return images[:, None], read_idx(folder / f"{name}-labels-idx1-ubyte.gz").astype(np.int64)
