"""Relation Networks: how alike two examples are is itself learned.

    r = g([f(x_i), f(x_j)]) in (0, 1),   l = mean of (r - 1[y_i = y_j])^2        (Eqs. 1 and 2)

with the sum of a class's support maps in place of f(x_i) where it has several examples. Sung, Yang, Zhang, Xiang, Torr,
Hospedales 2018, arXiv:1711.06025.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from metasearch.core import seeds as seeding
from metasearch.core.errors import ConfigError
from metasearch.core.values import Phi, TaskSpec, Tensors
from metasearch.learners.metric.base import MetricConfig, MetricLearner, class_sums
from metasearch.learners.metric.embedding import Seeds, shared
from metasearch.models import build_model
from metasearch.models.functional import linear
from metasearch.models.initial import Initializer

__all__ = ["Relation"]


class Relation(MetricLearner):
    """Scores each pair of a query example and a class by a network of its own.

    phi is the embedding (``embedding.*``), the relation module (``relation.*``) and its last layer (``score.weight``,
    ``score.bias``). The outputs are ``log r``; their softmax is r divided by its sum over the classes.

    Raises:
        ConfigError: if the relation module takes maps and the embedding gives none.
    """

    name: ClassVar[str] = "relation"

    class Config(MetricConfig):
        """Settings, besides those of :class:`~metasearch.learners.metric.MetricConfig`.

        Args:
            relation: the relation module, a network from two maps on top of each other (``[2 * channels, height,
                width]``), or two vectors one after the other, to ``hidden`` units; a ReLU and a linear layer make the
                score of them.
            hidden: see above.
            maps: shape of the embedding's outputs seen as maps, for a network that does not say (``conv4`` with ``head:
                none`` does); None without a hint of the network means vectors.
            aggregate: what stands for a class with several examples: the ``sum`` of their maps, as published, or the
                ``mean``, which does not grow with the number of shots.
        """

        relation: Any = Field(default_factory=lambda: {"type": "conv4", "blocks": 2, "pool": "max", "head": "flatten"})
        hidden: PositiveInt = 8
        maps: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
        aggregate: Literal["sum", "mean"] = "sum"

    def __init__(self, config: Any, spec: TaskSpec, choices: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, spec, choices)
        maps = config.maps or self.embedding.maps
        features = self.embedding.features
        if maps is not None and torch.Size(maps).numel() != features:
            raise ConfigError("maps", f"{list(maps)} are not the {features} outputs of the embedding network")
        self._maps = (features,) if maps is None else maps
        both = (2 * self._maps[0], *self._maps[1:])
        self._spec = dataclasses.replace(spec, kind="embedding", input_shape=both, outputs=config.hidden, loss=None)
        self.relation: Any = build_model(config.relation, self._spec)

    @property
    def traceable(self) -> bool:
        return super().traceable and bool(getattr(self.relation, "traceable", False))

    @property
    def batch_norm(self) -> str:
        if getattr(self.relation, "transductive", True):
            return "statistics of the batch at hand in the relation module (transductive)"
        return super().batch_norm

    def own(self, seed: int) -> tuple[Tensors, Tensors]:
        parameters, buffers = self.relation.init(seeding.derive(seed, "init", "relation"))
        draw = Initializer(seeding.derive(seed, "init", "score"))
        last = {"score.weight": draw.xavier_uniform(1, self.config.hidden), "score.bias": torch.zeros(1)}
        return (
            {**{f"relation.{name}": value for name, value in parameters.items()}, **last},
            {f"relation.{name}": value for name, value in buffers.items()},
        )

    def compare(
        self, phi: Phi, support: Tensor, labels: Tensor, query: Tensor, seeds: Seeds | None
    ) -> tuple[Tensor, Tensors]:
        """The logits of r, ``[T, m, ways]``."""
        classes, counts = class_sums(support, labels, self.spec.outputs)
        if self.config.aggregate == "mean":
            classes = classes / counts.clamp_min(1).unsqueeze(-1)
        if seeds is None and not torch.is_grad_enabled():  # task by task: all pairs of many tasks are too much memory
            one = [self._scores(phi, *pair, None)[0] for pair in zip(classes.split(1), query.split(1), strict=True)]
            return torch.cat(one), {}
        scores, state = self._scores(phi, classes, query, seeds)
        with torch.no_grad():
            updates = {f"relation.{name}": value.to(torch.float64).mean(0) for name, value in state.items()}
        return scores, updates if seeds is not None else {}

    def _scores(self, phi: Phi, classes: Tensor, query: Tensor, seeds: Seeds | None) -> tuple[Tensor, Tensors]:
        """``[T, m, ways]`` of ``classes [T, ways, d]`` and ``query [T, m, d]``, and the next buffers."""
        tasks, m, ways = len(query), query.shape[1], classes.shape[1]
        pairs = (classes.unsqueeze(1).expand(-1, m, -1, -1), query.unsqueeze(2).expand(-1, -1, ways, -1))
        # [T, m, ways, 2, channels * ...] -> [T, m * ways, 2 * channels, ...]
        x = torch.stack(pairs, 3).reshape(tasks, m * ways, *self._spec.input_shape)
        y, state = self.relation(shared(phi.part("relation")), shared(phi.buffers_of("relation")), x, seeds=seeds)
        last = shared(phi.part("score"))
        return linear(torch.relu(y), last["weight"], last["bias"]).reshape(tasks, m, ways), state

    def outputs(self, scores: Tensor, labels: Tensor) -> Tensor:
        return F.logsigmoid(scores)

    def losses(self, scores: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """``[T]``, the mean over pairs of ``(r - match)^2``."""
        match = F.one_hot(targets, self.spec.outputs).to(scores.dtype)
        return (torch.sigmoid(scores) - match).square().mean((1, 2))
