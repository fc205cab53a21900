"""Norm layers that differ from one inner step to the next: the norms slot."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from pydantic import PositiveInt

from metasearch.components.base import Component, Context
from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import ConfigError
from metasearch.core.values import Tensors

__all__ = ["PerStepNorms"]


class PerStepNorms(Component):
    """Scales and shifts of norm layers of their own for each inner step, learned and not adapted.

    MAML++ (Antoniou, Edwards, Storkey 2019, arXiv:1810.09502). The network of inner step k = 0, 1 ... uses the
    k-th set, and the query loss after it the same one. The first set is the initialization's own, so that the learned
    initial weights are a whole network; this slot holds the others. Steps beyond ``steps`` use the last set.

    Raises:
        ConfigError: if a pattern fits no parameter, or one that the inner loop changes.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            steps: inner steps that have a set.
            names: patterns of the parameters.
        """

        steps: PositiveInt
        names: tuple[str, ...] = ("*norm*",)

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        for pattern in config.names:
            if not any(fnmatchcase(name, pattern) for name in context.shapes):
                raise ConfigError("names", f"no parameter fits {pattern!r}; the model has: {', '.join(context.shapes)}")
        self._names = [name for name in context.shapes if any(fnmatchcase(name, one) for one in config.names)]
        if changed := sorted(set(self._names) & set(context.adapted)):
            raise ConfigError(
                "names",
                f"the inner loop changes {', '.join(changed)}, so they cannot differ by step; leave them out of "
                'learner.adapt, for example ["*", "!*norm*"]',
            )

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        parameters, _ = self.context.model.init(seed)  # norms do not start from draws: every step starts equal
        shapes = self.context.shapes
        return {
            name: parameters[name].expand(self.config.steps - 1, *shapes[name]).clone()
            for name in self._names
            if self.config.steps > 1
        }, {}

    def parameters(self, values: Tensors, theta: Tensors, step: int) -> Tensors:
        index = min(step, self.config.steps - 1)
        if index == 0:
            return theta
        tasks = next(iter(theta.values())).shape[0]
        own = {name: values[name][index - 1] for name in self._names}
        return {**theta, **{name: value.expand(tasks, *value.shape) for name, value in own.items()}}
