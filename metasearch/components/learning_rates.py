"""How far the inner loop steps: the learning-rate slot.

A rate is per inner step, in units of parameter per gradient.
"""

from __future__ import annotations

import torch
from pydantic import Field

from metasearch.components.base import Component
from metasearch.core.config import Config as BaseConfig
from metasearch.core.values import Tensors

__all__ = ["FixedRate", "PerParameterRates", "SharedRate"]


class FixedRate(Component):
    """One rate for all parameters and steps, set by hand or by a searcher of choices."""

    class Config(BaseConfig):
        """Settings.

        Args:
            value: the rate.
        """

        value: float = Field(gt=0.0)

    def rates(self, values: Tensors, rates: Tensors, step: int) -> Tensors:
        rate = torch.tensor(self.config.value, dtype=torch.float64)  # 0-dim: takes the dtype of what it multiplies
        return dict.fromkeys(self.context.adapted, rate)


class SharedRate(Component):
    """One learned rate for all parameters and steps."""

    class Config(BaseConfig):
        """Settings.

        Args:
            init: the rate that learning starts from.
        """

        init: float = Field(gt=0.0)

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        return {"rate": torch.tensor(self.config.init)}, {}

    def rates(self, values: Tensors, rates: Tensors, step: int) -> Tensors:
        return dict.fromkeys(self.context.adapted, values["rate"])


class PerParameterRates(Component):
    """One learned rate for each single parameter, which may become negative.

    Meta-SGD; Li et al. 2017, arXiv:1707.09835.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            init: the rate that learning starts from, for all parameters.
        """

        init: float = Field(gt=0.0)

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        return {name: torch.full(self.context.shapes[name], self.config.init) for name in self.context.adapted}, {}

    def rates(self, values: Tensors, rates: Tensors, step: int) -> Tensors:
        return dict(values)
