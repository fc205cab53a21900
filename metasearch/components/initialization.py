"""Where the inner loop starts: the initialization slot."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
import torch

from metasearch.components.base import Component, Context
from metasearch.core import seeds
from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import ConfigError
from metasearch.core.values import Task, Tensors

__all__ = ["LearnedInitialization", "RandomInitialization"]


class LearnedInitialization(Component):
    """The initial weights are part of phi and equal for all tasks.

    MAML; Finn, Abbeel, Levine 2017, arXiv:1703.03400. With ``zero: ["head.*"]`` every task starts from a head of zeros:
    the zeroing trick of Kao, Chiu, Chen 2022, arXiv:2106.15367. Such parameters are no part of phi, so phi does not
    depend on the number of classes.

    Raises:
        ConfigError: if a pattern fits no parameter.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            zero: patterns of the names of parameters that start from zero in each task and are not learned.
        """

        zero: tuple[str, ...] = ()

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        for pattern in config.zero:
            if not any(fnmatchcase(name, pattern) for name in context.shapes):
                raise ConfigError("zero", f"no parameter fits {pattern!r}; the model has: {', '.join(context.shapes)}")
        self._zero = {name for name in context.shapes if any(fnmatchcase(name, one) for one in config.zero)}

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        parameters, buffers = self.context.model.init(seed)
        return {name: value for name, value in parameters.items() if name not in self._zero}, buffers

    def theta(self, values: Tensors, theta: Tensors, task: Task, seed: int) -> Tensors:
        like, shapes = task.support.x, self.context.shapes
        start = {name: like.new_zeros(shape) if name in self._zero else values[name] for name, shape in shapes.items()}
        # An expanded view: the backward pass of `expand` sums the tasks' gradients, and nothing is copied.
        return {name: value.expand(len(task), *value.shape) for name, value in start.items()}


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
