"""Learned numbers of a slot that a searcher of choices sets, one by one, where no gradient does.

``slots: {learning_rates: {type: per_layer, init: 0.1, chosen: {within: [0.001, 1.0], log: true}}}``
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.core.space import Choice, Dimension, Float, Space
from metasearch.core.values import Tensors

__all__ = ["MOST_NUMBERS", "ChosenNumbers"]

MOST_NUMBERS = 256
"""More numbers than a searcher of choices would find its way among; a gradient does."""


class ChosenNumbers:
    """The learned tensors of a component as dimensions of a space, all with the same range.

    A number is named as its tensor; one of several in a tensor has its index in the flattened tensor behind
    (``weight.3``). Where nothing has been chosen, the tensors are as they start.

    Args:
        config: its settings.
        start: the component's fresh tensors.
        choices: values by name: all of them, or none.

    Raises:
        UnsupportedError: if there is nothing to choose, or too much of it, or the choices were made for other tensors.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            within: lowest and highest value.
            log: the range is even in the logarithm.
            points: how many values there are, evenly spaced with both ends; None means all numbers between. Searchers
                that decide between values (``policy``) need it.
        """

        within: tuple[float, float]
        log: bool = False
        points: int | None = Field(default=None, ge=2)

        @model_validator(mode="after")
        def _is_a_range(self) -> ChosenNumbers.Config:
            low, high = self.within
            if not -math.inf < low < high < math.inf or (self.log and low <= 0.0):
                expected = "0 < low < high" if self.log else "low < high"
                raise ConfigError("within", f"expected [low, high] with {expected}, got {list(self.within)}")
            return self

        def dimension(self) -> Dimension:
            """The range of each number."""
            low, high = self.within
            if self.points is None:
                return Float(low, high, log=self.log)
            spaced = np.geomspace if self.log else np.linspace
            return Choice(tuple(float(f"{value:.10g}") for value in spaced(low, high, self.points)))

    def __init__(self, config: Config, start: Tensors, choices: Mapping[str, Any]) -> None:
        names = {key: _names(key, value) for key, value in start.items()}
        every = [name for own in names.values() for name in own]
        if not 0 < len(every) <= MOST_NUMBERS:
            raise UnsupportedError(
                "",
                f"has {len(every)} learned numbers to choose, and 1 to {MOST_NUMBERS} are possible; let more of them "
                "share one number (per_layer, per_tensor), or leave it to a gradient",
            )
        self._space = Space(dict.fromkeys(every, config.dimension()))
        here = {name: choices[name] for name in every if name in choices}
        if len(choices) > len(here) or 0 < len(here) < len(every):
            strange = next(name for name in (*every, *choices) if (name in choices) != (name in every))
            raise UnsupportedError(
                "", f"was chosen for tensors of other shapes: {strange!r} is not in both; use equal numbers of outputs"
            )
        self.tensors: Tensors = {
            key: torch.tensor([here[name] for name in own], dtype=torch.float64).reshape(start[key].shape)
            if here
            else start[key]
            for key, own in names.items()
        }

    def space(self) -> Space:
        """A dimension for each number."""
        return self._space

    def like(self, other: Tensor | None) -> Tensors:
        """The tensors, in the dtype and on the device of another one."""
        if other is None or not other.is_floating_point():
            return {name: value.to(torch.get_default_dtype()) for name, value in self.tensors.items()}
        return {name: value.to(other) for name, value in self.tensors.items()}


def _names(key: str, value: Tensor) -> list[str]:
    return [f"{key}.{index}" for index in range(value.numel())] if value.dim() else [key]
