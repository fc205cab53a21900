"""L(phi) itself, without a gradient: what validation, test and searchers of choices need."""

from __future__ import annotations

from typing import Any, Literal

import torch

from metasearch.core.contracts import Learner
from metasearch.core.values import Call, Losses, Phi, Task, Tensors
from metasearch.estimators.episodes import EpisodeEstimator

__all__ = ["Value"]


class Value(EpisodeEstimator):
    """The mean query loss over episodes; inner steps are those of test outside the train split."""

    class Config(EpisodeEstimator.Config):
        """Settings.

        Args:
            mode: how F_phi runs on training tasks: with the steps of ``train``, where the network predicts the query
                examples as it does in training; or as at the ``test``, with its steps, layers that draw off, and
                moving averages in use.
        """

        mode: Literal["train", "test"] = "train"

    def shard_losses(self, call: Call, phi: Phi, task: Task, learner: Learner) -> tuple[Losses, Tensors | None, Any]:
        train = call.split == "train" and self.config.mode == "train"
        with torch.no_grad():
            losses = learner.evaluate(phi, task, call.seed, train=train, create_graph=False)
        return losses, None, None
