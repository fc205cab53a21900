"""Few-shot classification from examples sorted by class, and finite pools of tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from metasearch.core.contracts import TaskDistribution
from metasearch.core.errors import ConfigError, DataError
from metasearch.core.seeds import Draws
from metasearch.core.values import Batch, Task, TaskSpec
from metasearch.tasks.distortions import Distortions, distort, split_distortions
from metasearch.tasks.sampling import below, distinct
from metasearch.tasks.settings import at_split, check_split, per_split, pool_seeds

__all__ = ["ClassPool", "FewShot", "Pool"]

Examples = ArrayLike | Tensor | Sequence[ArrayLike] | Sequence[Tensor]


class ClassPool:
    """The examples of one split on one device, and the draw of classes and examples from them.

    Args:
        by_class: ``[classes, examples, ...]``, or a sequence of ``[examples, ...]`` where classes have unequal numbers
            of them. They are kept in the dtype they come in: uint8 takes a quarter of the memory of float32.
        groups: ``[classes]`` group of each class, if all classes of a task shall come from one group.
        device: where the examples are kept.

    Raises:
        DataError: if there is no class, a class without an example, or examples of unequal shapes.
    """

    def __init__(
        self, by_class: Examples, *, groups: ArrayLike | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.stored, self.counts = _stack(by_class)
        self.stored = self.stored.to(device)
        self._starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        label = (
            np.zeros(len(self), dtype=np.int64)
            if groups is None
            else np.unique(np.asarray(groups), return_inverse=True)[1]
        )
        if label.shape != (len(self),):
            raise DataError(f"expected a group for each of {len(self)} classes, got {label.size}")
        self._members = np.argsort(label, kind="stable")
        self._group_sizes = np.bincount(label)
        self._group_starts = np.cumsum(self._group_sizes) - self._group_sizes

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def most_ways(self) -> int:
        """The largest number of classes a task can have."""
        return int(self._group_sizes.max())

    def draw(self, seeds: NDArray[np.int64], ways: int, examples: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Classes ``[T, ways]`` in random order, and different examples ``[T, ways, examples]`` of each.

        The group is drawn first, each with enough classes being equally likely.
        """
        words = Draws(seeds, "few-shot").bits(1 + 2 * ways + 2 * ways * examples)
        eligible = np.flatnonzero(self._group_sizes >= ways)
        group = eligible[below(words[:, 0], len(eligible))]
        within = distinct(words[:, 1 : 1 + 2 * ways], self._group_sizes[group])
        classes = self._members[self._group_starts[group][:, None] + within]
        picks = distinct(words[:, 1 + 2 * ways :].reshape(len(words), ways, 2 * examples), self.counts[classes])
        return classes, picks

    def gather(self, classes: NDArray[np.int64], picks: NDArray[np.int64]) -> Tensor:
        """Examples ``[T, ways * n, ...]``, class by class, for ``classes [T, ways]`` and ``picks [T, ways, n]``."""
        rows = (self._starts[classes][..., None] + picks).reshape(-1)
        index = torch.from_numpy(rows).to(self.stored.device, non_blocking=True)
        return self.stored.index_select(0, index).reshape(len(classes), -1, *self.stored.shape[1:])


class FewShot:
    """N-way K-shot tasks: ``ways`` classes in random order, ``shots`` support and ``queries`` query examples of each.

    The position of a class in the task is its label, so labels mean nothing beyond their task. Support and query share
    no example. Both are class-major: all examples of label 0, then those of label 1, and so on.

    A task may also bring ``unlabelled`` examples, as many of each of its classes and of ``distractors`` further ones:
    ``info["unlabelled"]``. Learners that have no use for them are not disturbed.

    Args:
        images_by_class: for each split ``[classes, examples, ...]``, or a sequence of ``[examples, ...]``. uint8 is
            read as 256 levels and scaled to [0, 1]; other dtypes are taken as they are.
        ways, shots, queries: a number, or one for each split; ``shots`` and ``queries`` count examples of one class.
        unlabelled: further examples of each class, without their label.
        distractors: further classes of a task, of which there are only unlabelled examples.
        pool: number of different training tasks; None for no limit. Seed s is then task ``s mod pool``.
        groups: for each split ``[classes]``; classes of a task then come from one group.
        names: for each split the names of its classes, for reports.
        same_examples: whether a task shows the same example numbers of each class (where a number stands for a person,
            then its support set is by some people and its queries are by others); all classes need as many examples.
        distortions: for each split that has any, what happens to its pictures
            (:class:`~metasearch.tasks.distortions.Distortions`, or its settings), support and query alike.
        device, dtype: of the tasks' arrays.

    Raises:
        ConfigError: if a split has too few classes or a class too few examples, or examples that shall be distorted
            are no pictures.
        DataError: if the arrays of a split do not fit together.

    Example:
        >>> glyphs = np.zeros((12, 20, 1, 8, 8), dtype=np.uint8)
        >>> tasks = FewShot({"train": glyphs[:8], "test": glyphs[8:]}, ways=3, shots=2, queries=4)
        >>> tasks.sample("train", np.arange(5)).query.x.shape
        torch.Size([5, 12, 1, 8, 8])
    """

    def __init__(
        self,
        images_by_class: Mapping[str, Examples],
        *,
        ways: int | Mapping[str, int] = 5,
        shots: int | Mapping[str, int] = 1,
        queries: int | Mapping[str, int] = 15,
        unlabelled: int | Mapping[str, int] = 0,
        distractors: int | Mapping[str, int] = 0,
        pool: int | None = None,
        groups: Mapping[str, ArrayLike] | None = None,
        names: Mapping[str, Sequence[str]] | None = None,
        same_examples: bool = False,
        distortions: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        groups = groups or {}
        self._ways, self._shots, self._queries = (
            _counts("ways", ways),
            _counts("shots", shots),
            _counts("queries", queries),
        )
        self._unlabelled = _counts("unlabelled", unlabelled, 0)
        self._distractors = _counts("distractors", distractors, 0)
        self._names = dict(names or {})
        self._distortions = _distortions(distortions or {})
        self._limit = pool
        self._same_examples = same_examples
        self._dtype = dtype
        self._device = torch.device(device)
        self._pools = {
            split: ClassPool(images, groups=groups.get(split), device=device)
            for split, images in images_by_class.items()
        }
        for split, classes in self._pools.items():
            self._check(split, classes)
        for split in self._distortions:
            check_split(split, self._pools)
            if self._pools[split].stored.ndim != 4:
                shape = list(self._pools[split].stored.shape[1:])
                raise ConfigError(
                    f"distortions.{split}", f"needs pictures [channels, height, width], got examples of shape {shape}"
                )
        self._labels: dict[tuple[int, int], Tensor] = {}

    def spec(self, split: str) -> TaskSpec:
        """Shapes of a split's tasks: ``support`` is ways * shots, ``query`` is ways * queries.

        Raises:
            ConfigError: if there is no such split.
        """
        classes = self._pool(split)
        ways, shots, queries = self._sizes(split)
        return TaskSpec("classification", tuple(classes.stored.shape[1:]), ways, ways * shots, ways * queries)

    def sample(self, split: str, seeds: NDArray[np.int64]) -> Task:
        """One task a seed.

        ``info`` holds, on the CPU, ``classes`` ``[T, ways]`` (indexes into :meth:`class_names`) and ``examples``
        ``[T, ways, shots + queries]`` (which examples of each class; support first). Where there are such, also, on
        the tasks' device, ``unlabelled`` ``[T, (ways + distractors) * unlabelled, ...]``, those of distractors last.

        Raises:
            ConfigError: if there is no such split.
        """
        pool = self._pool(split)
        ways, shots, queries = self._sizes(split)
        seeds = np.asarray(seeds, dtype=np.int64).reshape(-1)
        unlabelled, distractors = at_split(self._unlabelled, split), at_split(self._distractors, split)
        keys = pool_seeds(seeds, self._limit, split)
        drawn, picks = self.draw(split, keys, ways + distractors, shots + queries + unlabelled)
        classes, known = drawn[:, :ways], picks[:, :ways, : shots + queries]
        parts = [
            pool.gather(classes, known[:, :, :shots]),
            pool.gather(classes, known[:, :, shots:]),
            pool.gather(drawn, picks[:, :, shots + queries :]),
        ]
        support, query, more = self._distorted(split, keys, [self.decode(part) for part in parts])
        return Task(
            support=Batch(support, self._classes(ways, shots, len(seeds))),
            query=Batch(query, self._classes(ways, queries, len(seeds))),
            seeds=seeds,
            info={"classes": torch.from_numpy(classes), "examples": torch.from_numpy(known)}
            | ({"unlabelled": more} if unlabelled else {}),
        )

    def draw(
        self, split: str, keys: NDArray[np.int64], ways: int, examples: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Classes ``[T, ways]`` of each task, and different examples ``[T, ways, examples]`` of them."""
        classes, picks = self._pool(split).draw(keys, ways, examples)
        return classes, np.repeat(picks[:, :1], ways, axis=1) if self._same_examples else picks

    def examples(self, split: str) -> tuple[Tensor, Tensor]:
        """All examples of a split as plain supervised data: ``[N, ...]`` as they are stored (never distorted; see
        :meth:`decode`), and their classes ``[N]`` below :meth:`n_classes`. The tensor is the distribution's own: not to
        be changed in place.
        """
        pool = self._pool(split)
        classes = torch.from_numpy(np.repeat(np.arange(len(pool)), pool.counts))
        return pool.stored, classes.to(self._device)

    def decode(self, stored: Tensor) -> Tensor:
        """Stored examples as the numbers a network sees: uint8 scaled to [0, 1], everything else cast.

        A product with the rounded 1/255 rather than a quotient: it is the same on every device.
        """
        return stored.to(self._dtype).mul_(1.0 / 255.0) if stored.dtype == torch.uint8 else stored.to(self._dtype)

    def n_classes(self, split: str) -> int:
        """Number of classes of a split."""
        return len(self._pool(split))

    def class_names(self, split: str) -> list[str]:
        """Names of a split's classes; their numbers where none were given."""
        return list(self._names.get(split) or map(str, range(self.n_classes(split))))

    def _classes(self, ways: int, n: int, tasks: int) -> Tensor:
        """Labels ``[T, ways * n]``, class by class."""
        if (ways, n) not in self._labels:
            self._labels[ways, n] = torch.arange(ways, device=self._device).repeat_interleave(n)
        return self._labels[ways, n].repeat(tasks, 1)

    def _distorted(self, split: str, keys: NDArray[np.int64], parts: list[Tensor]) -> list[Tensor]:
        settings = self._distortions.get(split)
        if settings is None:
            return parts
        ends = np.cumsum([part.shape[1] for part in parts])
        values = np.split(settings.draw(keys, int(ends[-1])), ends[:-1], axis=1)
        return [distort(part, settings, drawn) for part, drawn in zip(parts, values, strict=True)]

    def _sizes(self, split: str) -> tuple[int, int, int]:
        return at_split(self._ways, split), at_split(self._shots, split), at_split(self._queries, split)

    def _pool(self, split: str) -> ClassPool:
        check_split(split, self._pools)
        return self._pools[split]

    def _check(self, split: str, pool: ClassPool) -> None:
        """Refuses tasks that a split cannot give."""
        ways, shots, queries = self._sizes(split)
        unlabelled, distractors = at_split(self._unlabelled, split), at_split(self._distractors, split)
        if distractors and not unlabelled:
            raise ConfigError("distractors", "have unlabelled examples only; set unlabelled, too")
        if ways + distractors > pool.most_ways:
            kind = "classes" if pool.most_ways == len(pool) else "classes in its largest group"
            further = f" and {distractors} distractors" if distractors else ""
            raise ConfigError(
                "ways", f"{ways}{further} were asked for, but split {split!r} has {pool.most_ways} {kind}; lower ways"
            )
        fewest = int(pool.counts.min())
        if self._same_examples and fewest != pool.counts.max():
            raise ConfigError("same_examples", f"needs as many examples of each class, which split {split!r} has not")
        if shots + queries + unlabelled > fewest:
            further = f", and {unlabelled} unlabelled" if unlabelled else ""
            raise ConfigError(
                "queries",
                f"{shots} shots and {queries} queries{further} need {shots + queries + unlabelled} examples of each "
                f"class, but split {split!r} has a class with {fewest}; lower queries to at most "
                f"{max(fewest - shots - unlabelled, 0)}, or shots",
            )


class Pool:
    """A distribution whose training tasks are a fixed set of ``size``: seed s stands for task ``s mod size``.

    Args:
        tasks: any distribution; validation and test are passed through.
        size: number of different training tasks.

    Raises:
        ConfigError: if ``size`` is below 1.
    """

    def __init__(self, tasks: TaskDistribution, size: int) -> None:
        if size < 1:
            raise ConfigError("pool", f"expected at least one task, got {size}")
        self.tasks = tasks
        self.size = size

    def spec(self, split: str) -> TaskSpec:
        return self.tasks.spec(split)

    def sample(self, split: str, seeds: NDArray[np.int64]) -> Task:
        drawn = self.tasks.sample(split, pool_seeds(seeds, self.size, split))
        return dataclasses.replace(drawn, seeds=np.asarray(seeds, dtype=np.int64).reshape(-1))


def _counts(key: str, value: Any, least: int = 1) -> dict[str, int]:
    try:
        return per_split(value, least)
    except ConfigError as error:
        raise error.under(key) from None


def _distortions(given: Mapping[str, Any]) -> dict[str, Distortions]:
    try:
        return split_distortions(given)
    except ConfigError as error:
        raise error.under("distortions") from None


def _stack(by_class: Examples) -> tuple[Tensor, NDArray[np.int64]]:
    """All examples ``[N, ...]`` one class after the other, and the number of examples of each class."""
    if isinstance(by_class, np.ndarray | Tensor):
        array = _tensor(by_class)
        if array.ndim < 2 or not array.numel():
            raise DataError(f"expected examples [classes, examples, ...], got an array of shape {tuple(array.shape)}")
        return array.flatten(0, 1).contiguous(), np.full(array.shape[0], array.shape[1], dtype=np.int64)
    if not isinstance(by_class, Sequence):
        raise DataError(
            f"expected an array [classes, examples, ...] or a sequence of arrays, got {type(by_class).__name__}"
        )
    arrays = [_tensor(one) for one in by_class]
    shapes = {tuple(array.shape[1:]) for array in arrays}
    if len(shapes) != 1 or not all(array.numel() for array in arrays):
        raise DataError(
            f"expected at least one class, all with examples of one shape; got {len(arrays)} classes of shapes {shapes}"
        )
    return torch.cat(arrays), np.array([len(array) for array in arrays], dtype=np.int64)


def _tensor(array: Any) -> Tensor:
    """The array as a tensor, copied only where torch cannot share its memory (read-only, or turned round)."""
    return array if isinstance(array, Tensor) else torch.from_numpy(np.require(array, requirements=["C", "W"]))
