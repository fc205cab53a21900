"""L(phi) itself, without a gradient: what validation, test and searchers of choices need."""

from __future__ import annotations

from typing import Any

import torch

from metasearch.core.contracts import Learner
from metasearch.core.values import Call, Losses, Phi, Task, Tensors
from metasearch.estimators.episodes import EpisodeEstimator

__all__ = ["Value"]


class Value(EpisodeEstimator):
    """The mean query loss over episodes; inner steps are those of test outside the train split."""

    def shard_losses(self, call: Call, phi: Phi, task: Task, learner: Learner) -> tuple[Losses, Tensors | None, Any]:
        with torch.no_grad():
            losses = learner.evaluate(phi, task, call.seed, train=call.split == "train", create_graph=False)
        return losses, None, None
