"""Families of policies that a search chooses from: each has settings and a space, and makes a policy of choices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, PositiveInt, field_validator

from metasearch.augment.operations import NAMES, OPERATIONS, STROKES
from metasearch.augment.policy import Policy, numbers_of
from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import ConfigError
from metasearch.core.registry import build, registry
from metasearch.core.space import Choice, Dimension, Float, Space

__all__ = ["Design", "Given", "Nothing", "RandAugment", "Scheduled", "SubPolicies", "Uniform", "design"]

GROUPS: Mapping[str, tuple[str, ...]] = {
    "all": NAMES,
    "strokes": STROKES,
    "rand_augment": tuple(name for name in NAMES if name not in ("cutout", "sample_pairing")),
}
"""Names for lists of operations: all 16, those for drawings in ink, and the 14 of RandAugment (with inversion in the
place of doing nothing)."""


class Operations(BaseConfig):
    """What designs share.

    Args:
        operations: names, or a name for several: ``all``, ``strokes`` (geometry and cutout, for drawings) or
            ``rand_augment``.
        fill: value of what moves into a picture and of what is cut out; None is grey for pictures of several channels
            and 0 for those of one.
    """

    operations: tuple[str, ...] = NAMES
    fill: float | None = Field(default=None, ge=0.0, le=1.0)

    @field_validator("operations", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        names = GROUPS.get(value, (value,)) if isinstance(value, str) else tuple(value)
        numbers_of(names)
        return names


class Design(ABC):
    """A family of policies.

    Args:
        config: its settings.
    """

    Config: ClassVar[type[BaseConfig]] = Operations

    def __init__(self, config: Any) -> None:
        self.config = config

    def space(self) -> Space:
        """What a searcher chooses, besides ranges in the settings."""
        return Space({})

    def policy(self, choices: Mapping[str, Any] | None = None) -> Policy:
        """The policy under choices of :meth:`space`.

        Raises:
            ConfigError: if a choice is missing, superfluous or out of range.
        """
        self.space().validate(choices or {})
        return self.make(choices or {})

    @abstractmethod
    def make(self, choices: Mapping[str, Any]) -> Policy:
        """The policy under valid choices."""

    def _even(self, places: int, low: float, high: float) -> Policy:
        """Operations at random, all equally often."""
        shape = (1, 1, places, len(self.config.operations))
        return Policy(
            self.config.operations,
            np.ones(shape),
            np.ones(shape),
            np.full(shape, low),
            np.full(shape, high),
            self.config.fill,
        )


class Nothing(Design):
    """No augmentation: what a policy has to beat."""

    class Config(BaseConfig):
        """No settings."""

    def make(self, choices: Mapping[str, Any]) -> Policy:
        zero = np.zeros((1, 1, 1, 1))
        return Policy(NAMES[:1], zero, zero, zero, zero)


class Given(Design):
    """A policy that is known: written out, or exported by metasearch."""

    class Config(BaseConfig):
        """Settings; one of the two.

        Args:
            sub_policies: lists of ``[operation, probability, level]``, each in order; ranges may stand for any of them.
            file: a policy as ``metasearch export RUN --to policy.json`` writes it.
            fill: see :class:`Operations`; for a file, None means what it says.
        """

        sub_policies: tuple[tuple[tuple[str, float, float], ...], ...] | None = None
        file: str | None = None
        fill: float | None = Field(default=None, ge=0.0, le=1.0)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if (config.sub_policies is None) == (config.file is None):
            raise ConfigError("sub_policies", "give either the sub-policies or the file that holds them")
        self._known = (
            Policy.of(config.sub_policies, config.fill)
            if config.sub_policies is not None
            else Policy.from_json(Path(str(config.file)))
        )
        if config.fill is not None:
            self._known = self._known.with_fill(config.fill)

    def make(self, choices: Mapping[str, Any]) -> Policy:
        return self._known


class SubPolicies(Design):
    """AutoAugment's space: sub-policies of a few operations in order, each with a probability and a level.

    Cubuk et al. 2019, arXiv:1805.09501: 5 sub-policies of 2 operations, 11 probabilities, 10 levels. Here an operation
    without a level has none to choose, and its direction is drawn (see :mod:`metasearch.augment.operations`).
    """

    class Config(Operations):
        """Settings.

        Args:
            count: sub-policies.
            places: operations in each.
        """

        count: PositiveInt = 5
        places: PositiveInt = 2

    def space(self) -> Space:
        """``<sub-policy>.<place>.operation``, ``.probability`` and ``.level``."""
        names = self.config.operations
        levelled = tuple(name for name in names if OPERATIONS[NAMES.index(name)].has_level)
        found: dict[str, Dimension] = {}
        for i in range(self.config.count):
            for k in range(self.config.places):
                found[f"{i}.{k}.operation"] = Choice(names)
                found[f"{i}.{k}.probability"] = Float(0.0, 1.0, step=0.1)
                if levelled:
                    found[f"{i}.{k}.level"] = Float(0.1, 1.0, step=0.1, when={f"{i}.{k}.operation": levelled})
        return Space(found)

    def make(self, choices: Mapping[str, Any]) -> Policy:
        def at(i: int, k: int) -> tuple[str, float, float]:
            name, often, much = (choices.get(f"{i}.{k}.{part}", 0.0) for part in ("operation", "probability", "level"))
            return name, often, much

        config = self.config
        return Policy.of([[at(i, k) for k in range(config.places)] for i in range(config.count)], config.fill)


class RandAugment(Design):
    """A number of operations an image, each at random, all at one level.

    Cubuk, Zoph, Shlens, Le 2020, arXiv:1909.13719: ``count`` is their N and ``level`` their M as a share of the range
    of magnitudes (M of 30: ``level: M/30``). Both are settings, so they are searched as ``count: {int: [1, 3]}`` and
    ``level: {float: [0.1, 1.0]}``.
    """

    class Config(Operations):
        """Settings.

        Args:
            count: operations an image.
            level: how much of each, in [0, 1].
        """

        operations: tuple[str, ...] = GROUPS["rand_augment"]
        count: PositiveInt = 2
        level: float = Field(default=0.3, ge=0.0, le=1.0)

    def make(self, choices: Mapping[str, Any]) -> Policy:
        return self._even(self.config.count, self.config.level, self.config.level)


class Uniform(Design):
    """A random policy: operations at random, each at a random level. With one place and ``high: 1``, TrivialAugment
    (Mueller and Hutter 2021, arXiv:2103.10158) on this list of operations.
    """

    class Config(Operations):
        """Settings.

        Args:
            places: operations an image.
            high: the highest level.
        """

        places: PositiveInt = 1
        high: float = Field(default=1.0, ge=0.0, le=1.0)

    def make(self, choices: Mapping[str, Any]) -> Policy:
        return self._even(self.config.places, 0.0, self.config.high)


class Scheduled(Design):
    """A schedule over the training: for each phase and operation a probability and a level.

    Population Based Augmentation (Ho, Liang, Stoica, Abbeel, Chen 2019, arXiv:1905.05393) searches such schedules. An
    image gets ``places`` operations, each drawn evenly and then carried out with its own probability; theirs goes
    through a shuffled list until 0, 1 or 2 operations have been carried out.
    """

    class Config(Operations):
        """Settings.

        Args:
            phases: equal parts of the training.
            places: operations an image.
        """

        operations: tuple[str, ...] = GROUPS["rand_augment"]
        phases: PositiveInt = 4
        places: PositiveInt = 2

    def space(self) -> Space:
        """``<phase>.<operation>.probability`` and ``.level``."""
        found: dict[str, Dimension] = {}
        for phase in range(self.config.phases):
            for name in self.config.operations:
                found[f"{phase}.{name}.probability"] = Float(0.0, 1.0, step=0.1)
                if OPERATIONS[NAMES.index(name)].has_level:
                    found[f"{phase}.{name}.level"] = Float(0.1, 1.0, step=0.1)
        return Space(found)

    def make(self, choices: Mapping[str, Any]) -> Policy:
        config = self.config

        def table(part: str) -> np.ndarray[Any, np.dtype[np.float64]]:
            rows = [
                [float(choices.get(f"{phase}.{name}.{part}", 0.0)) for name in config.operations]
                for phase in range(config.phases)
            ]
            return np.repeat(np.array(rows)[:, None, None], config.places, axis=2)

        level = table("level")
        return Policy(config.operations, np.ones_like(level), table("probability"), level, level, config.fill)


for _name, _part in {
    "none": Nothing,
    "given": Given,
    "sub_policies": SubPolicies,
    "rand_augment": RandAugment,
    "uniform": Uniform,
    "schedule": Scheduled,
}.items():
    registry("augmentation").add(_name, _part)


def design(settings: Mapping[str, Any] | str, path: str = "augmentation") -> Design:
    """The design that settings describe, with ranges already filled in.

    Raises:
        ConfigError: naming the setting that is wrong.

    Example:
        >>> policy = design({"type": "rand_augment", "count": 2, "level": 0.3}).policy()
        >>> policy.weight.shape
        (1, 1, 2, 14)
    """
    built: Design = build("augmentation", settings, path)
    return built
