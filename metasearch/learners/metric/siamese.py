"""Siamese networks: one embedding for both pictures of a pair, and a verdict on whether they show the same.

    weighted_l1:         p(same) = sigmoid(sum_j a_j |h_j - h'_j| + b), cross-entropy
    euclidean, cosine:   D = |h - h'| or 1 - cos(h, h'),  l = D^2 / 2 for same, max(0, margin - D)^2 / 2 for different

Koch, Zemel, Salakhutdinov 2015, ICML Deep Learning Workshop (weighted L1; the class of the likeliest pair); Hadsell,
Chopra, LeCun 2006, CVPR, Eq. 4 (contrastive loss).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from metasearch.core import seeds as seeding
from metasearch.core.values import Phi, TaskSpec, Tensors
from metasearch.learners.losses import metrics_for
from metasearch.learners.metric.base import MetricConfig, MetricLearner, class_sums
from metasearch.learners.metric.distances import unit
from metasearch.learners.metric.embedding import Seeds
from metasearch.learners.metric.verification import balanced_accuracy, roc_auc
from metasearch.models.initial import Initializer

__all__ = ["Siamese"]


class Siamese(MetricLearner):
    """Learns from the pairs of a task: each of its query examples with each of its support examples.

    Same and different pairs weigh one half each, however many of either there are. A query example gets the class
    whose support examples it is most like on average.

    phi is the embedding (``embedding.*``) and, with ``weighted_l1``, the weights (``verdict.weight``,
    ``verdict.bias``). Metrics are ``accuracy`` (of classes), ``verification`` (balanced accuracy of pairs at the
    threshold) and, at test, ``auc`` (area under the ROC curve of pairs).
    """

    name: ClassVar[str] = "siamese"

    class Config(MetricConfig):
        """Settings, besides those of :class:`~metasearch.learners.metric.MetricConfig`.

        Args:
            energy: how two vectors are compared, see above.
            margin: distance from which different pairs cost nothing (``euclidean`` and ``cosine``).
            squash: whether vectors go through a sigmoid first (as published, for ``weighted_l1``).
        """

        energy: Literal["weighted_l1", "euclidean", "cosine"] = "weighted_l1"
        margin: PositiveFloat = 1.0
        squash: bool = False

    def __init__(self, config: Any, spec: TaskSpec, choices: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, spec, choices)
        self.threshold = 0.0 if config.energy == "weighted_l1" else -0.5 * config.margin

    def own(self, seed: int) -> tuple[Tensors, Tensors]:
        """Weights are drawn from N(0, 1 / features)."""
        if self.config.energy != "weighted_l1":
            return {}, {}
        draw, d = Initializer(seeding.derive(seed, "init", "verdict")), self.embedding.features
        return {"verdict.weight": draw.normal(d, std=d**-0.5), "verdict.bias": torch.zeros(())}, {}

    def compare(
        self, phi: Phi, support: Tensor, labels: Tensor, query: Tensor, seeds: Seeds | None
    ) -> tuple[Tensor, Tensors]:
        """Scores of all pairs ``[T, m, n]``: the logit of p(same), or -D."""
        return self.pairs(phi, query.unsqueeze(2), support.unsqueeze(1)), {}

    def pairs(self, phi: Phi, first: Tensor, second: Tensor) -> Tensor:
        """Scores ``[...]`` of vectors ``[..., d]``, which broadcast."""
        if self.config.squash:
            first, second = torch.sigmoid(first), torch.sigmoid(second)
        if self.config.energy == "cosine":
            return (unit(first) * unit(second)).sum(-1) - 1
        apart = first - second
        if self.config.energy == "euclidean":
            return -apart.square().sum(-1).clamp_min(1e-12).sqrt()
        values = phi.part("verdict")
        return apart.abs() @ values["weight"] + values["bias"]

    def outputs(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Means over the support examples of each class of ``log p(same)`` or ``-D``."""
        each = F.logsigmoid(scores) if self.config.energy == "weighted_l1" else scores
        sums, counts = class_sums(each.mT, labels, self.spec.outputs)
        return (sums / counts.clamp_min(1).unsqueeze(-1)).mT

    def losses(self, scores: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """``[T]``, half the mean loss of same pairs and half that of different ones."""
        same = _same(labels, targets).to(scores.dtype)
        if self.config.energy == "weighted_l1":
            each = F.binary_cross_entropy_with_logits(scores, same, reduction="none")
        else:
            each = 0.5 * torch.where(same > 0, scores, (self.config.margin + scores).clamp_min(0)).square()
        shares = [(each * kind).sum((1, 2)) / kind.sum((1, 2)) for kind in (same, 1 - same)]
        return 0.5 * (shares[0] + shares[1])

    def metrics(self, scores: Tensor, labels: Tensor, targets: Tensor, *, train: bool) -> Tensors:
        same = _same(labels, targets).flatten(1)
        found = metrics_for(self.spec, self.outputs(scores, labels), targets)
        found["verification"] = balanced_accuracy(scores.flatten(1), same, self.threshold)
        if not train:
            found["auc"] = roc_auc(scores.flatten(1), same)
        return found

    @torch.no_grad()
    def similarity(self, phi: Phi, first: Tensor, second: Tensor) -> Tensor:
        """``[T, n]``: p(same), or -D, of the pairs ``first[t, i]``, ``second[t, i]`` (``[T, n, ...]`` each) at test."""
        scores = self.pairs(phi, *self.embedding.beside(phi, first)(second))
        return torch.sigmoid(scores) if self.config.energy == "weighted_l1" else scores


def _same(labels: Tensor, targets: Tensor) -> Tensor:
    """``[T, m, n]``, whether a query and a support example are of one class."""
    return targets.unsqueeze(2) == labels.unsqueeze(1)
