"""The augmentation slot: what happens to the support examples before each inner step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from metasearch.augment import designs
from metasearch.augment.policy import Policy
from metasearch.augment.relaxed import Relaxed
from metasearch.components.base import Component, Context
from metasearch.core.errors import UnsupportedError
from metasearch.core.space import Space
from metasearch.core.values import Batch, Tensors

__all__ = ["Designed", "Given", "Nothing", "RandAugment", "RelaxedPolicy", "Scheduled", "SubPolicies", "Uniform"]


class Augments(Component, ABC):
    """What all have in common: they draw, and need pictures.

    Raises:
        UnsupportedError: if the tasks' examples are no pictures ``[channels, height, width]``.
    """

    draws = True

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        shape = context.spec.input_shape
        if len(shape) != 3:
            raise UnsupportedError(
                "slots.augmentation", f"needs pictures [channels, height, width]; these tasks have {list(shape)}"
            )

    @abstractmethod
    def policy(self, values: Tensors) -> Policy:
        """The policy under learned values, as it is taken away."""


class Designed(Augments):
    """A policy by its choices (see :mod:`metasearch.augment.designs`); a subclass names the family.

    Each support example of each inner step has draws of its own; a policy with phases goes by the inner steps of
    training.
    """

    family: ClassVar[type[designs.Design]]

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self._design = self.family(config)

    def space(self) -> Space:
        return self._design.space()

    @cached_property
    def _policy(self) -> Policy:
        return self._design.policy(self.context.choices)

    def policy(self, values: Tensors) -> Policy:
        return self._policy

    def support(self, values: Tensors, batch: Batch, step: int, seeds: NDArray[np.int64]) -> Batch:
        progress = min(step / max(self.context.steps - 1, 1), 1.0)
        return Batch(self._policy(batch.x, seeds, progress), batch.y)


class Nothing(Designed):
    """No augmentation."""

    Config = designs.Nothing.Config
    family = designs.Nothing
    draws = False

    def support(self, values: Tensors, batch: Batch, step: int, seeds: NDArray[np.int64]) -> Batch:
        return batch


class Given(Designed):
    """See :class:`metasearch.augment.designs.Given`."""

    Config = designs.Given.Config
    family = designs.Given


class SubPolicies(Designed):
    """See :class:`metasearch.augment.designs.SubPolicies`."""

    Config = designs.SubPolicies.Config
    family = designs.SubPolicies


class RandAugment(Designed):
    """See :class:`metasearch.augment.designs.RandAugment`."""

    Config = designs.RandAugment.Config
    family = designs.RandAugment


class Uniform(Designed):
    """See :class:`metasearch.augment.designs.Uniform`."""

    Config = designs.Uniform.Config
    family = designs.Uniform


class Scheduled(Designed):
    """See :class:`metasearch.augment.designs.Scheduled`."""

    Config = designs.Scheduled.Config
    family = designs.Scheduled


class RelaxedPolicy(Augments):
    """A policy with a gradient; see :mod:`metasearch.augment.relaxed`. Its tensors are ``operation``, ``probability``
    and ``level``, logits ``[count, places, operations]``.
    """

    class Config(designs.Operations):
        """Settings.

        Args:
            count: sub-policies.
            places: operations in each.
            temperature: of softmax and coins.
            hard: one drawn operation a place with straight-through derivatives, or the weighted mean of all.
            probability: where all probabilities start.
            level: where all levels start; at 0, and where a level moves nothing by fractions of a pixel, derivatives of
                geometric operations are those of one side.
            spread: standard deviation of the first logits of operations.
        """

        count: PositiveInt = 5
        places: PositiveInt = 2
        temperature: PositiveFloat = 0.5
        hard: bool = True
        probability: float = Field(default=0.5, gt=0.0, lt=1.0)
        level: float = Field(default=0.4, gt=0.0, lt=1.0)
        spread: NonNegativeFloat = 1e-3

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self._relaxed = Relaxed(
            config.operations, config.count, config.places, config.temperature, config.hard, config.fill
        )

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        return self._relaxed.init(self.config.probability, self.config.level, self.config.spread, seed), {}

    def policy(self, values: Tensors) -> Policy:
        return self._relaxed.policy(values)

    def support(self, values: Tensors, batch: Batch, step: int, seeds: NDArray[np.int64]) -> Batch:
        return Batch(self._relaxed(values, batch.x, seeds), batch.y)
