"""The baseline that learns nothing: the label of the nearest support example, by Euclidean distance between inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import UnsupportedError
from metasearch.core.values import Batch, Losses, Phi, Task, TaskSpec
from metasearch.learners.losses import loss_for, metrics_for

__all__ = ["PixelNearestNeighbour"]


class PixelNearestNeighbour:
    """1-nearest-neighbour on the raw inputs; its phi is empty.

    Args:
        config: no settings.
        spec: shapes of the tasks.
        choices: none are looked at.

    Raises:
        UnsupportedError: for tasks that are not classification.
    """

    class Config(BaseConfig):
        """No settings."""

    traceable = False

    def __init__(self, config: Any, spec: TaskSpec, choices: Mapping[str, Any] | None = None) -> None:
        if spec.kind != "classification":
            raise UnsupportedError("learner", f"nearest_neighbour needs classification tasks, got {spec.kind!r}")
        self.spec = spec

    def init(self, seed: int) -> Phi:
        """An empty phi: nothing is learned."""
        return Phi()

    def evaluate(self, phi: Phi, task: Task, seed: int, *, train: bool = True, create_graph: bool = True) -> Losses:
        """Accuracy, and the cross-entropy of a prediction that puts 0.99 of its mass on the neighbour's label."""
        outputs = self.adapt(phi, task.support, seed)(task.query.x)
        loss = loss_for(self.spec)(outputs, task.query.y).mean(-1)
        return Losses(loss, loss, metrics_for(self.spec, outputs, task.query.y))

    def adapt(
        self, phi: Phi, support: Batch, seed: int, steps: int | None = None, *, seeds: NDArray[np.int64] | None = None
    ) -> Neighbours:
        """Remembers the support sets."""
        return Neighbours(support, self.spec.outputs)


class Neighbours:
    """Predicts the label of the nearest remembered example.

    Log-probabilities ``[T, n, ways]`` for ``x [T, n, ...]``.
    """

    def __init__(self, support: Batch, ways: int) -> None:
        self._support = support
        self._ways = ways

    def __call__(self, x: Tensor) -> Tensor:
        distances = torch.cdist(x.flatten(2), self._support.x.flatten(2))
        labels = self._support.y.gather(1, distances.argmin(-1))
        certain = F.one_hot(labels, self._ways).to(x.dtype)
        return torch.log(0.99 * certain + 0.01 / self._ways)
