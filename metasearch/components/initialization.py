"""Where the inner loop starts: the initialization slot."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from metasearch.components.base import Component
from metasearch.core import seeds
from metasearch.core.config import Config as BaseConfig
from metasearch.core.values import Task, Tensors

__all__ = ["LearnedInitialization", "RandomInitialization"]


class LearnedInitialization(Component):
    """The initial weights are part of phi and equal for all tasks.

    MAML; Finn, Abbeel, Levine 2017, arXiv:1703.03400.
    """

    class Config(BaseConfig):
        """No settings: shapes come from the model."""

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        return self.context.model.init(seed)

    def theta(self, values: Tensors, theta: Tensors, task: Task, seed: int) -> Tensors:
        # An expanded view: the backward pass of `expand` sums the tasks' gradients, and nothing is copied.
        return {name: value.expand(len(task), *value.shape) for name, value in values.items()}


class RandomInitialization(Component):
    """Each task starts from fresh weights of the model's own initializer, drawn from the task's seed."""

    class Config(BaseConfig):
        """No settings: the model draws its weights."""

    draws: ClassVar[bool] = True

    def theta(self, values: Tensors, theta: Tensors, task: Task, seed: int) -> Tensors:
        drawn = [
            self.context.model.init(seeds.derive(int(one), "initialization", seed))[0] for one in np.asarray(task.seeds)
        ]
        like = task.support.x
        return {
            name: torch.stack([one[name] for one in drawn]).to(like.device, like.dtype) for name in self.context.shapes
        }
