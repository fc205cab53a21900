"""Settings and seeds that many task distributions share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

from metasearch.core.errors import ConfigError, nearest
from metasearch.core.seeds import derive_many

__all__ = [
    "SPLITS",
    "PerSplit",
    "PerSplitOrNone",
    "TrainOn",
    "at_split",
    "check_split",
    "joined",
    "per_split",
    "pool_seeds",
]

SPLITS = ("train", "validation", "test")


def per_split(value: Any, least: int = 1) -> dict[str, int]:
    """A count for each split, from one count or from a mapping.

    Validation and test take each other's count where only one of them is given, and that of training where neither is.

    Raises:
        ConfigError: if a count is not an integer or below ``least``, a split is unknown, or training has none.

    >>> per_split({"train": 5, "test": 15})
    {'train': 5, 'validation': 15, 'test': 15}
    """
    given = dict(value) if isinstance(value, Mapping) else dict.fromkeys(SPLITS, value)
    for split, count in given.items():
        if split not in SPLITS:
            raise ConfigError("", f"unknown split {split!r}; {nearest(str(split), SPLITS)}")
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < least:
            kind = "a positive integer" if least == 1 else f"an integer of at least {least}"
            raise ConfigError(split if isinstance(value, Mapping) else "", f"expected {kind}, got {count!r}")
    if "train" not in given:
        raise ConfigError(
            "train", "is required where counts are given for each split; one number would do for all of them"
        )
    held_out = given.get("validation", given.get("test", given["train"]))
    complete = {"validation": held_out, "test": given.get("test", held_out)} | given
    return {split: int(complete[split]) for split in SPLITS}


PerSplit = Annotated[dict[str, int], BeforeValidator(per_split)]
"""A positive integer, or a mapping from split to one; always held as the full mapping."""

PerSplitOrNone = Annotated[dict[str, int], BeforeValidator(lambda value: per_split(value, 0))]
"""The same, or 0."""


TrainOn = tuple[Literal["train", "validation"], ...]
"""The splits whose classes are trained on."""

Member = TypeVar("Member")


def joined(splits: Mapping[str, Sequence[Member]], train_on: TrainOn) -> dict[str, list[Member]]:
    """The members (classes) of each split, those of ``train_on`` together as training.

    A split that is trained on measures nothing any more and is left out.

    Raises:
        ConfigError: if ``train_on`` is without ``train``, or names a split that does not exist.

    >>> joined({"train": "ab", "validation": "c", "test": "d"}, ("train", "validation"))
    {'train': ['a', 'b', 'c'], 'test': ['d']}
    """
    if "train" not in train_on or not set(train_on) <= set(splits):
        raise ConfigError("train_on", f"expected train, and of {', '.join(splits)} no test; got {[*train_on]}")
    train = [member for split in SPLITS if split in train_on for member in splits[split]]
    return {"train": train} | {split: [*members] for split, members in splits.items() if split not in train_on}


def at_split(counts: Mapping[str, int], split: str) -> int:
    """The count of a split; a split of the user's own, besides the three, has that of validation."""
    return counts[split] if split in counts else counts["validation"]


def pool_seeds(seeds: NDArray[np.int64], size: int | None, split: str) -> NDArray[np.int64]:
    """Seeds of a finite pool of training tasks: seed s stands for task ``s mod size``.

    Validation and test keep their own seeds, so that they measure on all of p(T); so does everything without a pool.
    """
    seeds = np.asarray(seeds, dtype=np.int64).reshape(-1)
    if size is None or split != "train":
        return seeds
    return derive_many(0, "task-pool", seeds % size)


def check_split(split: str, valid: Iterable[str]) -> None:
    """Refuses a split that the tasks do not have.

    Raises:
        ConfigError: with the nearest valid name.
    """
    names = tuple(valid)
    if split not in names:
        raise ConfigError("split", f"these tasks have no split {split!r}; {nearest(split, names)}")
