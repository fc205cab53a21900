"""Where the inner loop starts: the initialization slot."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from metasearch.components.base import Component, Context
from metasearch.core import seeds
from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.core.values import Task, Tensors

__all__ = ["LearnedInitialization", "RandomInitialization"]

HEAD = ("head.weight", "head.bias")


class LearnedInitialization(Component):
    """The initial weights are part of phi and equal for all tasks.

    MAML; Finn, Abbeel, Levine 2017, arXiv:1703.03400. With ``zero: ["head.*"]`` every task starts from a head of zeros:
    the zeroing trick of Kao, Chiu, Chen 2022, arXiv:2106.15367. Such parameters are no part of phi, so phi does not
    depend on the number of classes.

    With ``head: class_means`` every task starts from the head that tells its classes apart by the distance to the means
    c of their support features: W = 2c, b = -|c|^2, a function of the learned weights below it (Proto-MAML:
    Triantafillou et al. 2020, arXiv:1903.03096). This head is no part of phi either.

    Raises:
        ConfigError: if a pattern fits no parameter, or also fits the head that class means make.
        UnsupportedError: if class means are asked for where there are no classes, of a network that does not give its
            features (``represent``), or of one with buffers.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            zero: patterns of the names of parameters that start from zero in each task and are not learned.
            head: whether the last layer, ``head.weight`` and ``head.bias``, is learned like all others, or made of the
                class means of each task's support features.
        """

        zero: tuple[str, ...] = ()
        head: Literal["learned", "class_means"] = "learned"

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        for pattern in config.zero:
            if not any(fnmatchcase(name, pattern) for name in context.shapes):
                raise ConfigError("zero", f"no parameter fits {pattern!r}; the model has: {', '.join(context.shapes)}")
        self._zero = {name for name in context.shapes if any(fnmatchcase(name, one) for one in config.zero)}
        self._made = HEAD if config.head == "class_means" else ()
        if self._made:
            self._check_head()

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        parameters, buffers = self.context.model.init(seed)
        return {
            name: value for name, value in parameters.items() if name not in self._zero and name not in self._made
        }, buffers

    def theta(self, values: Tensors, theta: Tensors, task: Task, seed: int) -> Tensors:
        like, shapes = task.support.x, self.context.shapes
        start = {
            name: like.new_zeros(shape) if name in self._zero else values[name]
            for name, shape in shapes.items()
            if name not in self._made
        }
        # An expanded view: the backward pass of `expand` sums the tasks' gradients, and nothing is copied.
        found = {**theta, **{name: value.expand(len(task), *value.shape) for name, value in start.items()}}
        return {**found, **self._class_means(start, task)} if self._made else found

    def _class_means(self, start: Tensors, task: Task) -> Tensors:
        # From views of their own: to the inner loop, the head and what lies below it are independent of each other.
        shared, model = {name: value.unsqueeze(0) for name, value in start.items()}, cast("Any", self.context.model)
        features: Tensor = model.represent(shared, {}, task.support.x, seeds=task.seeds)[0]
        member = F.one_hot(task.support.y, self.context.spec.outputs).to(features.dtype)
        means = member.mT @ features / member.sum(1).clamp(min=1.0).unsqueeze(-1)
        return dict(zip(HEAD, (2.0 * means, -means.square().sum(-1)), strict=True))

    def _check_head(self) -> None:
        context = self.context
        if both := sorted(self._zero & set(self._made)):
            raise ConfigError("head", f"class_means makes {', '.join(both)}, which zero names, too; leave them out")
        if context.spec.kind != "classification":
            raise UnsupportedError("head", f"class_means needs classification tasks, these are {context.spec.kind}")
        if not set(HEAD) <= set(context.shapes) or not hasattr(context.model, "represent"):
            raise UnsupportedError(
                "head", f"class_means needs a network that gives its features and has {' and '.join(HEAD)}: conv4, mlp"
            )
        if context.model.init(0)[1]:
            raise UnsupportedError("head", "class_means needs a network without buffers; use norm: batch")


class RandomInitialization(Component):
    """Each task starts from fresh weights of the model's own initializer, drawn from the task's seed."""

    class Config(BaseConfig):
        """No settings: the model draws its weights."""

    draws = True

    def theta(self, values: Tensors, theta: Tensors, task: Task, seed: int) -> Tensors:
        drawn = [
            self.context.model.init(seeds.derive(int(one), "initialization", seed))[0] for one in np.asarray(task.seeds)
        ]
        like = task.support.x
        stacked = {name: torch.stack([one[name] for one in drawn]) for name in self.context.shapes}
        return {**theta, **{name: value.to(like.device, like.dtype) for name, value in stacked.items()}}
