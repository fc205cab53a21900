"""Rotation prediction: each picture is turned by 0, 90, 180 and 270 degrees, and a linear head says by how much.

    l(x) = -1/4 sum_k log softmax(W f(turn_k x) + b)_k

Gidaris, Singh, Komodakis 2018, arXiv:1803.07728: Eq. 3, with all four copies of a picture in one batch (Sec. 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from metasearch.core import seeds as seeding
from metasearch.core.errors import UnsupportedError
from metasearch.core.values import Phi, Task, TaskSpec, Tensors
from metasearch.learners.losses import cross_entropy
from metasearch.learners.metric.embedding import Seeds
from metasearch.learners.pretext.base import Answers, Pretext, pictures
from metasearch.models.initial import Initializer

__all__ = ["TURNS", "RotationPrediction"]

TURNS = 4


class RotationPrediction(Pretext):
    """Learns to say how far pictures are turned.

    Its head (``pretext.weight``, ``pretext.bias``) is no part of the embedding. ``rotation_accuracy`` is the share of
    turned query pictures that are answered right; chance is 1/4.

    Training tasks must not hold pictures that are turned already, which set a riddle without an answer: on Omniglot
    say ``rotations: none``.

    Raises:
        UnsupportedError: for tasks that are not classification of square pictures.
    """

    name: ClassVar[str] = "rotation_prediction"

    def __init__(self, config: Any, spec: TaskSpec, choices: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, spec, choices)
        if spec.input_shape[1] != spec.input_shape[2]:
            raise UnsupportedError(
                "learner", f"rotation_prediction needs square pictures, got {list(spec.input_shape)}"
            )

    def own(self, seed: int) -> tuple[Tensors, Tensors]:
        """A Xavier-uniform head with biases 0."""
        draw = Initializer(seeding.derive(seed, "init", "pretext"))
        head = draw.xavier_uniform(TURNS, self.embedding.features)
        return {"pretext.weight": head, "pretext.bias": torch.zeros(TURNS)}, {}

    def answers(self, phi: Phi, task: Task, seed: int, seeds: Seeds | None) -> Answers:
        x, head = pictures(task), phi.part("pretext")
        z, updates = self.vectors(phi, torch.cat([torch.rot90(x, turn, (-2, -1)) for turn in range(TURNS)], 1), seeds)
        logits = z @ head["weight"].mT + head["bias"]
        turned = torch.arange(TURNS, device=x.device).repeat_interleave(x.shape[1]).expand(len(x), -1)
        right = (logits.argmax(-1) == turned).to(torch.float64)
        return Answers(_mean(cross_entropy(logits, turned)), {"rotation_accuracy": _mean(right)}, updates)


def _mean(values: Tensor) -> Tensor:
    """``[T, n]``: means over the turns of ``[T, TURNS * n]``."""
    return values.unflatten(1, (TURNS, -1)).mean(1)
