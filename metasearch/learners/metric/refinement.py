"""Prototypes that unlabelled examples refine: soft k-means from the labelled ones.

Ren, Triantafillou, Ravi, Snell, Swersky, Tenenbaum, Larochelle, Zemel 2018, arXiv:1803.00676.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from metasearch.core.config import Config
from metasearch.core.values import Tensors

__all__ = ["Refinement"]


class Refinement(Config):
    """Settings of the refinement, and its computation.

        z_jc = softmax_c(-|x_j - p_c|^2)                                          (Eq. 3)
        p_c  = (sum_i x_i [y_i = c] + sum_j x_j z_jc) / (number of c + sum_j z_jc)

    With ``distractors``, one more cluster takes the unlabelled examples of no class: it lies at the origin with a
    radius r of its own, classes having radius 1 (Eq. 5 and 6),

        z_jc = softmax_c(-|x_j - p_c|^2 / r_c^2 - log r_c)

    and stays there in every step. Instead of the squared distance stands what the learner compares by.

    Args:
        steps: times that examples are assigned and prototypes moved.
        distractors: whether there is that cluster.
        radius: of it, at the start (100 in the authors' code).
        learned: whether phi holds the radius (as its logarithm).
    """

    steps: PositiveInt = 1
    distractors: bool = False
    radius: PositiveFloat = 100.0
    learned: bool = True

    def init(self) -> Tensors:
        """What it learns: ``log_radius``, or nothing."""
        return {"log_radius": torch.tensor(math.log(self.radius))} if self.distractors and self.learned else {}

    def moved(
        self,
        values: Tensors,
        centres: Tensor,
        x: Tensor,
        members: Tensor,
        similarity: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Refined prototypes ``[T, ways, d]``.

        Args:
            values: what it learned.
            centres: of the labelled examples.
            x: vectors of all examples, ``[T, n, d]``.
            members: ``[T, n, ways]``, 1 at the class of a labelled example; zero for those without a label.
            similarity: of vectors ``[T, n, d]`` and ``[T, m, d]``, minus their distance: ``[T, n, m]``.
        """
        unlabelled = 1 - members.sum(-1, keepdim=True)
        for _ in range(self.steps):
            scores = similarity(x, centres)
            if self.distractors:
                scores = torch.cat([scores, self._far(values, similarity(x, torch.zeros_like(x[:, :1])))], -1)
            weights = members + unlabelled * scores.softmax(-1)[..., : members.shape[-1]]
            total = weights.sum(1).unsqueeze(-1)
            centres = weights.mT @ x / total.clamp_min(torch.finfo(x.dtype).tiny)
        return centres

    def _far(self, values: Tensors, scores: Tensor) -> Tensor:
        log_radius = values.get("log_radius", torch.tensor(math.log(self.radius), dtype=torch.float64))
        return scores * torch.exp(-2 * log_radius) - log_radius
