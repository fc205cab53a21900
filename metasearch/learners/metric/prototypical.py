"""Prototypical Networks: the nearest class mean in a learned embedding.

    c_k = mean of f(x_i) over the support examples of class k        (Eq. 1)
    p(y = k | x) = softmax_k(-|f(x) - c_k|^2)                         (Eq. 2)

Snell, Swersky, Zemel 2017, arXiv:1703.05175.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metasearch.core.errors import ArtifactError
from metasearch.core.registry import build
from metasearch.core.values import Phi, TaskSpec, Tensors
from metasearch.learners.metric.base import MetricConfig, MetricLearner, class_sums
from metasearch.learners.metric.distances import Distance, SquaredEuclidean
from metasearch.learners.metric.embedding import Seeds

__all__ = ["Prototypical"]


class Prototypical(MetricLearner):
    """Compares with the mean of each class's support vectors.

    phi is the embedding (``embedding.*``) and, if it is learned, the temperature (``distance.log_temperature``). With
    squared Euclidean distance the outputs are those of a linear classifier on the embedding, up to a term that all
    classes share: weights ``2 c_k``, biases ``-|c_k|^2`` (Sec. 2.4); :meth:`head` is this classifier.
    """

    name: ClassVar[str] = "prototypical"

    class Config(MetricConfig):
        """Settings, besides those of :class:`~metasearch.learners.metric.MetricConfig`.

        Args:
            distance: ``squared_euclidean``, ``cosine`` or ``inner``, or a block with ``temperature`` and ``learned``.
        """

        distance: Any = "squared_euclidean"

    def __init__(self, config: Any, spec: TaskSpec, choices: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, spec, choices)
        self.distance: Distance = build("distance", config.distance, "distance")

    def own(self, seed: int) -> tuple[Tensors, Tensors]:
        return {f"distance.{name}": value for name, value in self.distance.init().items()}, {}

    def prototypes(self, support: Tensor, labels: Tensor) -> Tensor:
        """``[T, ways, d]``, the means of support vectors ``[T, n, d]``; zero for a class without an example."""
        sums, counts = class_sums(support, labels, self.spec.outputs)
        return sums / counts.clamp_min(1).unsqueeze(-1)

    def compare(
        self, phi: Phi, support: Tensor, labels: Tensor, query: Tensor, seeds: Seeds | None
    ) -> tuple[Tensor, Tensors]:
        """Similarities ``[T, m, ways]`` to the prototypes."""
        return self.distance(phi.part("distance"), query, self.prototypes(support, labels)), {}

    def head(self, phi: Phi, support: Tensor, labels: Tensor) -> nn.Linear:
        if not isinstance(self.distance, SquaredEuclidean):
            raise ArtifactError(
                "only squared Euclidean distance makes prototypes a linear layer; use the classifier, or .embedding() "
                "of the loaded phi for the network"
            )
        centres = self.prototypes(support, labels)[0]
        scale = self.distance.scale(phi.part("distance"))
        head = nn.Linear(centres.shape[1], centres.shape[0]).to(centres)
        with torch.no_grad():
            head.weight.copy_(2 * scale * centres)
            head.bias.copy_(-scale * centres.square().sum(-1))
        return head
