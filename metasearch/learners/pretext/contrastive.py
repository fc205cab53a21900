"""A contrastive loss without labels: two distorted views of a picture are nearer to each other than to all others.

    l(a_i) = -log exp(cos(a_i, b_i) / t) / sum over the 2n - 1 other views v of exp(cos(a_i, v) / t)

with projections a_i and b_i of the two views of picture i of n. SimCLR: Chen, Kornblith, Norouzi, Hinton 2020,
arXiv:2002.05709, Eq. 1, with a projection of one hidden layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from metasearch.augment import design
from metasearch.core import seeds as seeding
from metasearch.core.errors import UnsupportedError
from metasearch.core.values import Phi, Task, TaskSpec, Tensors
from metasearch.learners.metric.distances import unit
from metasearch.learners.metric.embedding import Seeds
from metasearch.learners.pretext.base import Answers, Pretext, pictures
from metasearch.models.initial import Initializer

__all__ = ["Contrastive"]


class Contrastive(Pretext):
    """Learns to find the other view of a picture among all views of a task's pictures.

    Its projection (``pretext.hidden.weight``, ``pretext.hidden.bias``, ``pretext.weight``) is no part of the embedding.
    ``view_accuracy`` is the share of views whose nearest other view is of the same picture.

    What a task shows besides is different by decree, pictures of the same class included: tasks of many classes with
    one support and one query example of each have the fewest of those.

    Raises:
        UnsupportedError: for tasks that are not classification of pictures.
    """

    name: ClassVar[str] = "contrastive"

    class Config(Pretext.Config):
        """Settings, besides those of every self-supervised learner.

        Args:
            views: how a view is made of a picture: a family of augmentation policies without choices
                (:mod:`metasearch.augment.designs`).
            temperature: t.
            projection: numbers in a projection.
        """

        views: dict[str, Any] = Field(
            default_factory=lambda: {"type": "uniform", "operations": "strokes", "places": 2, "high": 0.5}
        )
        temperature: PositiveFloat = 0.5
        projection: PositiveInt = 64

    def __init__(self, config: Any, spec: TaskSpec, choices: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, spec, choices)
        made = design(config.views, "views")
        if made.space():
            raise UnsupportedError("views", "has choices, which nobody takes here; take rand_augment, uniform or given")
        self._policy = made.policy()

    def own(self, seed: int) -> tuple[Tensors, Tensors]:
        """Xavier-uniform layers with biases 0."""
        draw, d = Initializer(seeding.derive(seed, "init", "pretext")), self.embedding.features
        return {
            "pretext.hidden.weight": draw.xavier_uniform(d, d),
            "pretext.hidden.bias": torch.zeros(d),
            "pretext.weight": draw.xavier_uniform(self.config.projection, d),
        }, {}

    def drawn(self, task: Task, seed: int) -> Tensors:
        """Both views of all pictures, ``[T, 2, support + query, ...]``."""
        x = pictures(task)
        keys = [np.bitwise_xor(task.seeds, np.int64(seeding.derive(seed, "view", number))) for number in range(2)]
        return {"views": torch.stack([self._policy(x, key) for key in keys], 1)}

    def answers(self, phi: Phi, task: Task, seed: int, seeds: Seeds | None) -> Answers:
        given = task.info["views"] if "views" in task.info else self.drawn(task, seed)["views"]
        z, updates = self.vectors(phi, given.flatten(1, 2), seeds)
        layers = phi.part("pretext")
        hidden = torch.relu(z @ layers["hidden.weight"].mT + layers["hidden.bias"])
        views = unit(hidden @ layers["weight"].mT)
        number, n = torch.arange(views.shape[1], device=views.device), given.shape[2]
        itself = number.unsqueeze(1) == number
        near = (views @ views.mT / self.config.temperature).masked_fill(itself, -torch.inf)
        other = number.roll(n).expand(len(views), -1)
        right = (near.argmax(-1) == other).to(torch.float64)
        return Answers(_mean(_losses(near, other)), {"view_accuracy": _mean(right)}, updates)


def _losses(near: Tensor, other: Tensor) -> Tensor:
    """``[T, 2n]``, of similarities ``[T, 2n, 2n]`` (minus infinity of each view to itself)."""
    return torch.logsumexp(near, -1) - near.gather(-1, other.unsqueeze(-1)).squeeze(-1)


def _mean(values: Tensor) -> Tensor:
    """``[T, n]``: means over the two views of ``[T, 2n]``."""
    return values.unflatten(1, (2, -1)).mean(1)
