"""Matching Networks: labels of the support set, weighted by a softmax over similarities to each of its examples.

    p(y | x) = sum_i a(x, x_i) 1[y_i = y],   a = softmax_i of c(f(x), g(x_i))        (Eqs. 1 and 2)

Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016, arXiv:1606.04080. Without context it is a soft nearest
neighbour in a learned embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from metasearch.core.registry import build
from metasearch.core.values import Batch, Phi, TaskSpec, Tensors
from metasearch.learners.metric.base import MetricConfig, MetricLearner
from metasearch.learners.metric.context import Context
from metasearch.learners.metric.distances import Distance
from metasearch.learners.metric.embedding import Embedding, Seeds

__all__ = ["Matching", "class_logits"]

TRACED_STEPS = 32
"""Longest support set whose reading, step by step, is unrolled into a compiled graph; a longer one takes minutes."""


class Matching(MetricLearner):
    """Compares with every support example.

    The outputs are ``log sum exp`` of the similarities to the examples of a class; their softmax is p(y | x) exactly.

    phi is the embedding (``embedding.*``), that of query examples where it is another one (``query_embedding.*``), the
    context (``context.*``) and the temperature (``distance.log_temperature``) where they are learned.
    """

    name: ClassVar[str] = "matching"

    class Config(MetricConfig):
        """Settings, besides those of :class:`~metasearch.learners.metric.MetricConfig`.

        Args:
            distance: ``cosine``, ``squared_euclidean`` or ``inner``, or a block with ``temperature`` and ``learned``.
            shared: whether f and g are one network; else query examples have their own, of the same architecture, and
                norm layers see each set by itself.
            context: full context embeddings: ``{steps: K}`` reads the support set K times (see
                :class:`~metasearch.learners.metric.context.Context`).
        """

        distance: Any = "cosine"
        shared: bool = True
        context: Context.Config | None = None

    def __init__(self, config: Any, spec: TaskSpec, choices: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, spec, choices)
        self.distance: Distance = build("distance", config.distance, "distance")
        self.context = None if config.context is None else Context(config.context, self.embedding.features)
        self.query_embedding = self.embedding
        if not config.shared:
            self.query_embedding = Embedding(config.model, spec, config.features, slot="query_embedding")
            self.embedding.norm_over = "set"

    @property
    def traceable(self) -> bool:
        return super().traceable and (self.context is None or self.spec.support <= TRACED_STEPS)

    def own(self, seed: int) -> tuple[Tensors, Tensors]:
        tensors = {f"distance.{name}": value for name, value in self.distance.init().items()}
        buffers: Tensors = {}
        if self.context is not None:
            tensors |= {f"context.{name}": value for name, value in self.context.init(seed).items()}
        if not self.config.shared:
            further, buffers = self.query_embedding.init(seed)
            tensors |= further
        return tensors, buffers

    def embed(self, phi: Phi, support: Tensor, query: Tensor, seeds: Seeds) -> tuple[Tensor, Tensor, Tensors]:
        if self.config.shared:
            return super().embed(phi, support, query, seeds)
        first, updates = self.embedding.single(phi, support, seeds)
        second, further = self.query_embedding.single(phi, query, seeds)
        return first, second, {**updates, **further}

    def beside(self, phi: Phi, support: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        if self.config.shared:
            return super().beside(phi, support)
        z = self.embedding(phi, support)
        return lambda query: (z, self.query_embedding(phi, query))

    def compare(
        self, phi: Phi, support: Tensor, labels: Tensor, query: Tensor, seeds: Seeds | None
    ) -> tuple[Tensor, Tensors]:
        """Logits ``[T, m, ways]``."""
        return class_logits(self.similarities(phi, support, labels, query), labels, self.spec.outputs), {}

    def similarities(self, phi: Phi, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """``[T, m, n]`` of query vectors to support vectors, in context if there is one; a softmax of them is a."""
        if self.context is not None:
            support, query = self.context(phi.part("context"), support, labels, query)
        return self.distance(phi.part("distance"), query, support)

    @torch.no_grad()
    def attention(self, phi: Phi, support: Batch, query: Tensor) -> Tensor:
        """``a(x, x_i)`` at test, ``[T, m, n]``: how much each support example weighs for each query example."""
        first, second = self.beside(phi, support.x)(query)
        return torch.softmax(self.similarities(phi, first, support.y, second), -1)


def class_logits(similarities: Tensor, labels: Tensor, ways: int) -> Tensor:
    """``log sum exp`` over the examples of each class, ``[T, m, ways]``, of ``[T, m, n]`` with labels ``[T, n]``.

    Exact however far apart classes are: each sum is taken relative to its own largest term, so that none underflows.
    A class without examples has the smallest finite number.
    """
    target = labels.unsqueeze(1).expand_as(similarities)
    lowest = torch.finfo(similarities.dtype).min
    start = similarities.new_full((*similarities.shape[:2], ways), lowest)
    largest = start.scatter_reduce(-1, target, similarities.detach(), "amax")  # a constant: it cancels in the gradient
    terms = torch.exp(similarities - largest.gather(-1, target))
    sums = terms @ F.one_hot(labels, ways).to(terms.dtype)  # at least 1 for a class with examples
    return largest + torch.log(sums.clamp_min(torch.finfo(sums.dtype).tiny))
