"""How near two vectors are: similarities, of which a softmax makes probabilities.

A distance of your own is a subclass with ``similarity``, named ``module:Class`` in an experiment.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from metasearch.core.config import Config as BaseConfig
from metasearch.core.registry import registry
from metasearch.core.values import Tensors

__all__ = ["Cosine", "Distance", "Euclidean", "Inner", "Quadratic", "SquaredEuclidean"]


class Distance(ABC):
    """Similarities divided by a temperature, which may be learned (as its logarithm, so that it stays positive)."""

    class Config(BaseConfig):
        """Settings.

        Args:
            temperature: what similarities are divided by: smaller is more decided.
            learned: whether phi holds it, starting from ``temperature``.
        """

        temperature: PositiveFloat = 1.0
        learned: bool = False

    def __init__(self, config: Any) -> None:
        self.config = config

    def init(self) -> Tensors:
        """What it learns: ``log_temperature``, or nothing."""
        if not self.config.learned:
            return {}
        return {"log_temperature": torch.tensor(math.log(self.config.temperature))}

    def scale(self, values: Tensors) -> Tensor:
        """1 / temperature, a number (0-dim, of the dtype of what it multiplies)."""
        if self.config.learned:
            return torch.exp(-values["log_temperature"])
        return torch.tensor(1.0 / self.config.temperature, dtype=torch.float64)

    def __call__(self, values: Tensors, x: Tensor, y: Tensor) -> Tensor:
        """``[T, n, m]``: of ``x [T, n, d]`` and ``y [T, m, d]``, larger for what is nearer."""
        return self.similarity(x, y) * self.scale(values)

    @abstractmethod
    def similarity(self, x: Tensor, y: Tensor) -> Tensor:
        """The same at temperature 1."""


class Quadratic(Distance):
    """A distance that goes by squared differences, which may be weighted."""

    def weighted(self, values: Tensors, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """``[T, n, m]`` as a call gives it, with squared differences from ``y [T, m, d]`` weighted by ``weights
        [T, m, d or 1]``.
        """
        weights = weights.expand_as(y)
        nearer = 2 * x @ (weights * y).mT - (weights * y.square()).sum(-1).unsqueeze(1)
        return self.of_squares(nearer - x.square() @ weights.mT) * self.scale(values)

    def similarity(self, x: Tensor, y: Tensor) -> Tensor:
        return self.of_squares(2 * x @ y.mT - x.square().sum(-1, keepdim=True) - y.square().sum(-1).unsqueeze(1))

    @abstractmethod
    def of_squares(self, squares: Tensor) -> Tensor:
        """The similarity, of minus the sum of squares."""


class SquaredEuclidean(Quadratic):
    """``-|x - y|^2``, written as ``2 x y - |x|^2 - |y|^2``: one matrix product."""

    def of_squares(self, squares: Tensor) -> Tensor:
        return squares

    @torch.no_grad()
    def head(self, values: Tensors, centres: Tensor) -> nn.Linear:
        """The linear layer that gives a vector's similarities to ``centres [m, d]``, up to what is equal for all."""
        scale = self.scale(values)
        head = nn.Linear(centres.shape[1], centres.shape[0]).to(centres)
        head.weight.copy_(2 * scale * centres)
        head.bias.copy_(-scale * centres.square().sum(-1))
        return head


class Euclidean(Quadratic):
    """``-|x - y|``; below 1e-4 it is that, with gradient zero."""

    def of_squares(self, squares: Tensor) -> Tensor:
        return -(-squares).clamp_min(1e-8).sqrt()


class Cosine(Distance):
    """The cosine of the angle between two vectors. At temperature 1 a softmax of it learns slowly: it spans [-1, 1]."""

    class Config(Distance.Config):
        """As for every distance, with a temperature of 0.1."""

        temperature: PositiveFloat = 0.1

    def similarity(self, x: Tensor, y: Tensor) -> Tensor:
        return unit(x) @ unit(y).mT


class Inner(Distance):
    """The inner product."""

    def similarity(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ y.mT


def unit(x: Tensor) -> Tensor:
    """Vectors of length 1; those shorter than 1e-4 stay shorter, so that zero has a finite gradient."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True).clamp_min(1e-8))


for _name, _class in {
    "squared_euclidean": SquaredEuclidean,
    "euclidean": Euclidean,
    "cosine": Cosine,
    "inner": Inner,
}.items():
    registry("distance").add(_name, _class)
