"""Omniglot: few-shot classification of handwritten characters."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import ConfigError
from metasearch.core.seeds import Draws, derive
from metasearch.tasks.base import FewShot
from metasearch.tasks.distortions import SplitDistortions
from metasearch.tasks.omniglot_data import SIZE, lake_runs, load, vinyals_splits
from metasearch.tasks.settings import PerSplit, PerSplitOrNone, TrainOn, joined, per_split

__all__ = ["Omniglot"]

_RANDOM_TRAIN = 1200
_DEFAULT_VALIDATION = 100


class Omniglot(FewShot):
    """N-way K-shot tasks from 1623 characters of 50 alphabets, each drawn once by 20 people.

    Pictures are ``[1, image_size, image_size]`` in [0, 1] with ink = 1.

    Three ways to split the characters are in use, and results under one say nothing about another:

    - ``vinyals``: 1028 train, 172 validation, 423 test characters, from (almost) different alphabets; fixed and
      harder.
    - ``random``: 1200 and 423 characters at random, alphabets mixed, as in MAML, Reptile and Meta-SGD. Their own lists
      cannot be recovered, so ``split_seed`` draws one.
    - ``lake``: the authors' background (964) and evaluation (659) sets, of different alphabets.

    The last two take validation characters at random out of training: ``random`` single ones, ``lake`` whole alphabets.

    Drawings turned by 90, 180 and 270 degrees count as new classes: with ``rotations: train`` in training only
    (validation and test stay upright, as in Reptile), with ``all`` in every split (as in MAML's code and Prototypical
    Networks), with ``none`` nowhere.

    Pictures are resized as Pillow's Lanczos filter resizes the stored image in mode ``L``, then inverted.

    Settings (``Config``):
        split: see above.
        ways, shots, queries: a number or one for each split; ``shots`` and ``queries`` count drawings of one class.
        rotations: see above.
        image_size: side of a picture in pixels.
        unlabelled, distractors: unlabelled examples of each class, and classes of which there are no others
            (:class:`~metasearch.tasks.base.FewShot`).
        pool: number of different training tasks; None for no limit.
        distortions: of the pictures, by split (:class:`~metasearch.tasks.distortions.Distortions`).
        train_on: splits whose classes are trained on: with ``[train, validation]`` both together, and there is no
            validation split.
        within_alphabet: all classes of a task come from one alphabet (in one orientation), drawn first among those with
            enough classes.
        same_drawers: all classes of a task are drawn by the same people, one for each shot and others for the queries.
        lake_runs: test tasks are the authors' 20 runs of one-shot classification (Lake et al. 2015), 400 trials
            together: 20 characters of an alphabet drawn by one person, to be told apart by those of another. Seed s is
            run ``s mod 20``; a test of 20 episodes takes each once.
        split_seed: draws the characters of ``random``, and those that validation takes out of training.
        validation_classes: how many at least; None means the 172 of ``vinyals``, and 100 else; 0 no validation split.
        data: ``bundled``; ``original`` (the authors' archives, downloaded if need be); or a folder with these archives.

    Raises:
        ConfigError: if a split has too few classes for ``ways``, or ``shots`` + ``queries`` exceed the 20 drawings.
        DataError: if the data cannot be read.

    Example:
        >>> tasks = Omniglot(Omniglot.Config(ways=5, shots=1, queries=15))
        >>> tasks.sample("train", np.arange(8)).support.x.shape
        torch.Size([8, 5, 1, 28, 28])
    """

    class Config(BaseConfig):
        """See :class:`Omniglot`."""

        split: Literal["vinyals", "random", "lake"] = "vinyals"
        ways: PerSplit = per_split(5)
        shots: PerSplit = per_split(1)
        queries: PerSplit = per_split(15)
        unlabelled: PerSplitOrNone = per_split(0, 0)
        distractors: PerSplitOrNone = per_split(0, 0)
        rotations: Literal["train", "all", "none"] = "train"
        image_size: int = Field(default=28, ge=4, le=SIZE)
        pool: int | None = Field(default=None, ge=1)
        distortions: SplitDistortions = Field(default_factory=dict)
        train_on: TrainOn = ("train",)
        within_alphabet: bool = False
        same_drawers: bool = False
        lake_runs: bool = False
        split_seed: int = 0
        validation_classes: int | None = Field(default=None, ge=0)
        data: str = "bundled"

    def __init__(self, config: Config, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.config = config
        names, pictures = load(config.data, config.image_size)
        present = {split: members.tolist() for split, members in _split(names, config).items() if len(members)}
        splits = joined(present, config.train_on)
        turned = {
            split for split in splits if config.rotations == "all" or (config.rotations == "train" and split == "train")
        }
        classes = {
            split: _class_names([names[i] for i in members], split in turned) for split, members in splits.items()
        }
        groups = {split: [_orientation(name) for name in labels] for split, labels in classes.items()}
        super().__init__(
            {split: _with_rotations(pictures[members], split in turned) for split, members in splits.items()},
            ways=config.ways,
            shots=config.shots,
            queries=config.queries,
            unlabelled=config.unlabelled,
            distractors=config.distractors,
            pool=config.pool,
            distortions=config.distortions,
            groups=groups if config.within_alphabet else None,
            names=classes,
            same_examples=config.same_drawers,
            device=device,
            dtype=dtype,
        )
        self._runs: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
        if config.lake_runs:
            self._check_runs()
            characters, drawers = lake_runs(names)
            # upright characters come first in their split, in the order of their indexes
            self._runs = np.searchsorted(splits["test"], characters), drawers

    def n_tasks(self, split: str) -> int | None:
        """How many different tasks a split has, where it is a list; seeds 0, 1 ... are these."""
        return len(self._runs[0]) if self._runs is not None and split == "test" else None

    def draw(
        self, split: str, keys: NDArray[np.int64], ways: int, examples: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self._runs is None or split != "test":
            return super().draw(split, keys, ways, examples)
        characters, drawers = (rows[keys % len(rows)] for rows in self._runs)
        return characters, np.repeat(drawers[:, None], ways, axis=1)

    def _check_runs(self) -> None:
        found = tuple(counts["test"] for counts in (self.config.ways, self.config.shots, self.config.queries))
        if self.config.split != "lake" or found != (20, 1, 1) or self.config.unlabelled["test"]:
            raise ConfigError(
                "lake_runs",
                "are tasks of split lake with 20 ways, 1 shot and 1 query; set split, ways.test, shots.test and "
                f"queries.test (here {self.config.split}, {', '.join(map(str, found))}), and no unlabelled ones",
            )


def _split(names: tuple[str, ...], config: Omniglot.Config) -> dict[str, NDArray[np.int64]]:
    """Indexes of the characters of each split, sorted."""
    if config.split == "vinyals":
        if config.validation_classes is not None:
            raise ConfigError(
                "validation_classes", "split 'vinyals' has its own 172; leave it out, or choose another split"
            )
        lists = vinyals_splits()
        short = [name.split("/", 1)[1] for name in names]
        return {split: np.flatnonzero([name in members for name in short]) for split, members in lists.items()}
    if config.split == "random":
        order = Draws([derive(config.split_seed, "omniglot", "characters")]).permutation(len(names))[0]
        train, test = np.sort(order[:_RANDOM_TRAIN]), np.sort(order[_RANDOM_TRAIN:])
    else:
        background = np.array([name.startswith("images_background/") for name in names])
        train, test = np.flatnonzero(background), np.flatnonzero(~background)
    held_out = _held_out([names[i] for i in train], config)
    return {"train": train[~held_out], "validation": train[held_out], "test": test}


def _held_out(names: list[str], config: Omniglot.Config) -> NDArray[np.bool_]:
    """Which of the training characters go to validation: single ones for ``random``, whole alphabets for ``lake``."""
    wanted = _DEFAULT_VALIDATION if config.validation_classes is None else config.validation_classes
    _, units = np.unique(
        names if config.split == "random" else [_alphabet(name) for name in names], return_inverse=True
    )
    sizes = np.bincount(units)
    order = Draws([derive(config.split_seed, "omniglot", "validation")]).permutation(len(sizes))[0]
    before = np.cumsum(sizes[order]) - sizes[order]
    taken = order[before < wanted]
    if len(taken) == len(sizes):
        raise ConfigError("validation_classes", f"{wanted} leave none of {len(names)} characters to train on; lower it")
    return np.isin(units, taken)


def _with_rotations(pictures: NDArray[np.uint8], turned: bool) -> NDArray[np.uint8]:
    """``[classes, 20, 1, size, size]``; with rotations 4 times the classes, all upright ones first."""
    angles = range(4) if turned else range(1)
    return np.concatenate([np.rot90(pictures, quarter, axes=(2, 3)) for quarter in angles])[:, :, None]


def _class_names(characters: list[str], turned: bool) -> list[str]:
    """``alphabet/character@degrees``, in the order of :func:`_with_rotations`."""
    short = [name.split("/", 1)[1] for name in characters]
    return [f"{name}@{90 * quarter}" for quarter in range(4 if turned else 1) for name in short]


def _alphabet(name: str) -> str:
    """Alphabet of ``set/alphabet/character``."""
    return name.split("/")[1]


def _orientation(class_name: str) -> str:
    """``alphabet@degrees`` of ``alphabet/character@degrees``."""
    alphabet, _, rest = class_name.partition("/")
    return f"{alphabet}@{rest.partition('@')[2]}"
