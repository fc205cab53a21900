"""Prototypical Networks: the nearest class mean in a learned embedding.

    c_k = mean of f(x_i) over the support examples of class k        (Eq. 1)
    p(y = k | x) = softmax_k(-|f(x) - c_k|^2)                         (Eq. 2)

Snell, Swersky, Zemel 2017, arXiv:1703.05175. Gaussian prototypes: Fort 2017, arXiv:1708.02735. Prototypes that
unlabelled examples refine: :mod:`metasearch.learners.metric.refinement`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metasearch.core.errors import ArtifactError, ConfigError, UnsupportedError
from metasearch.core.registry import build
from metasearch.core.values import Batch, Phi, Task, TaskSpec, Tensors
from metasearch.learners.metric.base import MetricConfig, MetricLearner
from metasearch.learners.metric.distances import Distance, Quadratic, SquaredEuclidean
from metasearch.learners.metric.embedding import Seeds
from metasearch.learners.metric.refinement import Refinement

__all__ = ["Prototypical"]


class Prototypical(MetricLearner):
    """Compares with the mean of each class's support vectors.

    phi is the embedding (``embedding.*``) and, if they are learned, the temperature (``distance.log_temperature``) and
    the radius of distractors (``refinement.log_radius``). With squared Euclidean distance the outputs are those of a
    linear classifier on the embedding, up to a term that all classes share: weights ``2 c_k``, biases ``-|c_k|^2``
    (Sec. 2.4); :meth:`head` is this classifier.

    With ``precision``, the last of the embedding's outputs say how sure it is of the others: an example has the
    precision ``s = 1 + softplus`` of them, one number (``radius``, the last output) or one for each dimension
    (``diagonal``, the last half). Then (Fort 2017, Sec. 3)

        c_k = sum_i s_i f(x_i) / sum_i s_i,    s_k = sum_i s_i,    d^2 = sum over dimensions of s_k (f(x) - c_k)^2

    and ``distance: euclidean`` makes softmax of -d, as there. A query's own precision is not looked at.

    With ``refinement``, examples without a label move the prototypes. Tasks bring them (``unlabelled`` of few-shot
    tasks), or they stand in the support set with the label -1.
    """

    name: ClassVar[str] = "prototypical"

    class Config(MetricConfig):
        """Settings, besides those of :class:`~metasearch.learners.metric.MetricConfig`.

        Args:
            distance: ``squared_euclidean``, ``euclidean``, ``cosine`` or ``inner``, or a block with ``temperature`` and
                ``learned``.
            precision: ``none``, ``radius`` or ``diagonal``.
            refinement: settings of :class:`~metasearch.learners.metric.refinement.Refinement`; None means none.
        """

        distance: Any = "squared_euclidean"
        precision: Literal["none", "radius", "diagonal"] = "none"
        refinement: Refinement | None = None

    def __init__(self, config: Any, spec: TaskSpec, choices: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, spec, choices)
        self.distance: Distance = build("distance", config.distance, "distance")
        self.refinement: Refinement | None = config.refinement
        self.takes_unlabelled = self.refinement is not None
        if config.precision != "none":
            self._check_precision()

    def _check_precision(self) -> None:
        features = self.embedding.features
        if not isinstance(self.distance, Quadratic):
            raise UnsupportedError("precision", "weights squared differences; take distance euclidean, or its square")
        if self.refinement is not None:
            raise UnsupportedError("precision", "and refinement do not go together; choose one")
        if features < 2 or (self.config.precision == "diagonal" and features % 2):
            raise ConfigError(
                "precision",
                f"{self.config.precision!r} takes {'half' if self.config.precision == 'diagonal' else 'one'} of the "
                f"embedding's outputs, which are {features}; change features, or the network's last layer",
            )

    def own(self, seed: int) -> tuple[Tensors, Tensors]:
        found = {f"distance.{name}": value for name, value in self.distance.init().items()}
        if self.refinement is not None:
            found |= {f"refinement.{name}": value for name, value in self.refinement.init().items()}
        return found, {}

    def support(self, task: Task, *, train: bool) -> Batch:
        """Support examples, then those of ``task.info["unlabelled"]``, labelled -1, if they are used."""
        if not self.takes_unlabelled:
            return task.support
        more = task.info.get("unlabelled")
        if more is None:
            if train:
                raise UnsupportedError(
                    "refinement", "needs tasks with unlabelled examples; set tasks.unlabelled, or leave out refinement"
                )
            return task.support
        missing = torch.full(more.shape[:2], -1, dtype=task.support.y.dtype, device=task.support.y.device)
        return Batch(torch.cat([task.support.x, more.to(task.support.x)], 1), torch.cat([task.support.y, missing], 1))

    def drawn(self, task: Task, seed: int) -> Tensors:
        """The unlabelled examples: arrays of the task that a recorded graph must take as inputs."""
        return {"unlabelled": task.info["unlabelled"]} if self.takes_unlabelled and "unlabelled" in task.info else {}

    def prototypes(self, phi: Phi, support: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """``[T, ways, d]`` of support vectors ``[T, n, features]``, zero for a class without an example; and their
        precisions ``[T, ways, d or 1]``, None if all are 1.
        """
        x, precision = self._split(support)
        ways = self.spec.outputs
        members = F.one_hot(labels.clamp_min(0), ways).to(x.dtype) * (labels >= 0).unsqueeze(-1)
        if precision is not None:
            total = members.mT @ precision
            return members.mT @ (precision * x) / total.clamp_min(1), total
        centres = members.mT @ x / members.sum(1).clamp_min(1).unsqueeze(-1)
        if self.refinement is not None:
            values = phi.part("distance")
            centres = self.refinement.moved(
                phi.part("refinement"), centres, x, members, lambda one, other: self.distance(values, one, other)
            )
        return centres, None

    def compare(
        self, phi: Phi, support: Tensor, labels: Tensor, query: Tensor, seeds: Seeds | None
    ) -> tuple[Tensor, Tensors]:
        """Similarities ``[T, m, ways]`` to the prototypes."""
        centres, precision = self.prototypes(phi, support, labels)
        values = phi.part("distance")
        if precision is None:
            return self.distance(values, query, centres), {}
        assert isinstance(self.distance, Quadratic)
        return self.distance.weighted(values, self._split(query)[0], centres, precision), {}

    def _split(self, vectors: Tensor) -> tuple[Tensor, Tensor | None]:
        """Vectors of the embedding as positions and precisions."""
        if self.config.precision == "none":
            return vectors, None
        features = vectors.shape[-1]
        sizes = [features - 1, 1] if self.config.precision == "radius" else [features // 2, features // 2]
        x, raw = vectors.split(sizes, -1)
        return x, 1 + F.softplus(raw)

    def head(self, phi: Phi, support: Tensor, labels: Tensor) -> nn.Linear:
        centres, precision = self.prototypes(phi, support, labels)
        if not isinstance(self.distance, SquaredEuclidean) or precision is not None:
            raise ArtifactError(
                "only squared Euclidean distance without precisions makes prototypes a linear layer; use the "
                "classifier, or .embedding() of the loaded phi for the network"
            )
        return self.distance.head(phi.part("distance"), centres[0])
