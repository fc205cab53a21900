"""What self-supervised learners have in common: a loss of pictures without labels, and few-shot accuracy as a probe."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metasearch.core import seeds as seeding
from metasearch.core.errors import UnsupportedError
from metasearch.core.registry import build
from metasearch.core.values import Losses, Phi, Task, TaskSpec, Tensors
from metasearch.learners.losses import metrics_for
from metasearch.learners.metric.base import MetricConfig, MetricLearner, class_sums
from metasearch.learners.metric.distances import Distance, SquaredEuclidean
from metasearch.learners.metric.embedding import Seeds

__all__ = ["Answers", "Pretext"]


@dataclass(frozen=True)
class Answers:
    """What became of pictures ``[T, n]``.

    Args:
        losses: ``[T, n]``.
        metrics: ``[T, n]`` each.
        updates: next values of phi's buffers.
    """

    losses: Tensor
    metrics: Tensors = field(default_factory=dict)
    updates: Tensors = field(default_factory=dict)


class Pretext(MetricLearner):
    """Learns an embedding from the pictures of tasks without their labels. A leaf says what is to be answered about
    pictures, and what that needs besides the embedding, as the slot ``pretext``.

    In training, support and query examples are pictures alike: the objective is the mean loss of both. L and the
    metrics are those of the query examples, beside the support examples of their task. In evaluation there is also
    ``accuracy``: labels are looked at there, to tell how well the nearest mean of the classes' support vectors tells
    query examples apart.

    The embedding can be the start of an inner loop: ``initialization: {type: tensors, from: PHI}`` takes it, and leaves
    what belongs to the pretext task behind. So that it fits ``conv4`` with whatever head, learn it with ``conv4`` and
    ``head: none``.

    Raises:
        UnsupportedError: for tasks that are not classification of pictures.
    """

    class Config(MetricConfig):
        """Settings, besides those of :class:`~metasearch.learners.metric.MetricConfig`.

        Args:
            distance: by which the nearest class mean is found in evaluation; a temperature of it changes nothing.
        """

        distance: Any = "squared_euclidean"

    def __init__(self, config: Any, spec: TaskSpec, choices: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, spec, choices)
        if len(spec.input_shape) != 3:
            raise UnsupportedError(
                "learner", f"{self.name} needs pictures [channels, height, width], got {list(spec.input_shape)}"
            )
        self.distance: Distance = build("distance", config.distance, "distance")
        if self.distance.init():
            raise UnsupportedError("distance", "learns nothing here, where labels are not learned from; fix it")

    @abstractmethod
    def answers(self, phi: Phi, task: Task, seed: int, seeds: Seeds | None) -> Answers:
        """Losses of the support examples of a task, then of its query examples.

        Args:
            phi: the embedding and the slot ``pretext`` are read.
            task: its pictures are looked at.
            seed: of what is drawn beside the tasks.
            seeds: ``[T]`` in training, for layers that draw; else None.
        """

    def vectors(self, phi: Phi, x: Tensor, seeds: Seeds | None) -> tuple[Tensor, Tensors]:
        """Vectors of ``x [T, n, ...]`` as one batch a task, and the buffers' next values in training."""
        return (self.embedding(phi, x), {}) if seeds is None else self.embedding.single(phi, x, seeds)

    def prototypes(self, support: Tensor, labels: Tensor) -> Tensor:
        """``[T, ways, d]``: means of the support vectors ``[T, n, d]`` of each class."""
        sums, counts = class_sums(support, labels, self.spec.outputs)
        return sums / counts.clamp_min(1).unsqueeze(-1)

    def compare(
        self, phi: Phi, support: Tensor, labels: Tensor, query: Tensor, seeds: Seeds | None
    ) -> tuple[Tensor, Tensors]:
        """Similarities ``[T, m, ways]`` to the class means."""
        return self.distance({}, query, self.prototypes(support, labels)), {}

    def head(self, phi: Phi, support: Tensor, labels: Tensor) -> nn.Linear:
        """The nearest class mean as a linear layer, where the distance is squared Euclidean."""
        if not isinstance(self.distance, SquaredEuclidean):
            return super().head(phi, support, labels)
        return self.distance.head({}, self.prototypes(support, labels)[0])

    def evaluate(self, phi: Phi, task: Task, seed: int, *, train: bool = True, create_graph: bool = True) -> Losses:
        """Losses and metrics without labels, and ``accuracy`` in evaluation; shapes as in
        :class:`~metasearch.core.contracts.Learner`.
        """
        key = np.int64(seeding.derive(seed, "embedding"))
        found = self.answers(phi, task, seed, np.asarray(np.bitwise_xor(task.seeds, key)) if train else None)
        first = task.support.x.shape[1]
        metrics = {name: value[:, first:].mean(-1) for name, value in found.metrics.items()}
        if not train:
            with torch.no_grad():
                metrics |= metrics_for(self.spec, self.adapt(phi, task.support, seed)(task.query.x), task.query.y)
        return Losses(found.losses.mean(-1), found.losses[:, first:].mean(-1), metrics, found.updates)


def pictures(task: Task) -> Tensor:
    """All pictures of tasks, ``[T, support + query, channels, height, width]``."""
    return torch.cat([task.support.x, task.query.x], 1)
