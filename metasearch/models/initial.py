"""Initial values of parameters, drawn on the CPU from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["Initializer", "parameter_shapes"]


def parameter_shapes(module: Callable[[], nn.Module]) -> dict[str, torch.Size]:
    """Shapes of the parameters of a factory's module; nothing is allocated and no global generator advances."""
    with torch.device("meta"):
        return {name: value.shape for name, value in module().named_parameters()}


class Initializer:
    """Draws one parameter after the other; the same seed and the same order give the same values.

    Args:
        seed: any integer that fits 64 bits.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generator = torch.Generator().manual_seed(seed)

    def xavier_uniform(self, *shape: int) -> Tensor:
        """Uniform with variance ``2 / (fan_in + fan_out)``, ``[out, in, *window]`` (Glorot and Bengio 2010, Eq. 16)."""
        window = math.prod(shape[2:])
        bound = math.sqrt(6.0 / ((shape[0] + shape[1]) * window))
        return (torch.rand(shape, generator=self._generator) * 2 - 1) * bound

    def normal(self, *shape: int, std: float) -> Tensor:
        """Normal with mean 0."""
        return torch.randn(shape, generator=self._generator) * std

    def truncated_normal(self, *shape: int, std: float) -> Tensor:
        """Normal with mean 0, cut at two standard deviations."""
        return torch.nn.init.trunc_normal_(
            torch.empty(shape), std=std, a=-2 * std, b=2 * std, generator=self._generator
        )
