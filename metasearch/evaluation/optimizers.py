"""Hand-made optimizers as baselines: what a learned update rule has to beat, each at its best rate.

A rate is chosen from a grid on validation tasks, by the same figure that the test reports, before the test is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveInt

from metasearch.core import seeds as seeding
from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import UnsupportedError
from metasearch.core.values import Phi
from metasearch.estimators.episodes import Problem
from metasearch.learners.inner_loop import InnerLoop

__all__ = ["RULES", "Adam", "Momentum", "Nesterov", "RmsProp", "Sgd", "TunedOptimizer"]

RULES: Mapping[str, Mapping[str, Any]] = {
    "sgd": {"type": "learned_momentum", "momentum": 0.0},
    "momentum": {"type": "learned_momentum", "momentum": 0.9},
    "nesterov": {"type": "learned_momentum", "momentum": 0.9, "nesterov": True},
    "rmsprop": {"type": "learned_adam", "betas": (0.0, 0.99), "correct": False},
    "adam": {"type": "learned_adam"},
}
"""The hand-made optimizers, as update rules with the usual constants (torch's defaults)."""


class TunedOptimizer:
    """The search's inner loop with a hand-made rule in place of its own, at the best rate of a grid.

    Raises:
        UnsupportedError: if the learner is no inner loop.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            rates: the grid; by default two rates a decade from 1e-4 to 10.
            episodes: validation tasks that the rate is chosen on.
            shard: of these, how many at a time.
            rule: further settings of the rule (``momentum``, ``betas`` ...).
        """

        rates: tuple[float, ...] = Field(default=tuple(float(10 ** (k / 2)) for k in range(-8, 3)), min_length=1)
        episodes: PositiveInt = 64
        shard: PositiveInt = 32
        rule: dict[str, Any] = Field(default_factory=dict)

    name: ClassVar[str]

    def __init__(self, config: Any, problem: Problem, split: str) -> None:
        self.config = config
        self._problem = problem
        self._own = problem.learner({}, split)
        if not isinstance(self._own, InnerLoop):
            raise UnsupportedError("test.baselines", f"{self.name!r} needs a learner with an inner loop")
        self.learner: InnerLoop = self.with_rate(config.rates[0])

    def with_rate(self, rate: float) -> InnerLoop:
        """The inner loop at a rate."""
        own = self._own
        assert isinstance(own, InnerLoop)
        rule = {**RULES[self.name], **self.config.rule, "rate": rate}
        settings = own.config.model_copy(update={"slots": {**own.config.slots, "update_rule": rule}})
        return InnerLoop(settings, own.spec)

    def prepare(self, seed: int) -> Phi:
        """A phi that holds the best rate, beside the search's own fresh parts."""
        figures = {rate: self.figure(rate, seed) for rate in self.config.rates}
        return self.with_rate(min(figures, key=lambda rate: figures[rate])).init(seed)

    def figure(self, rate: float, seed: int) -> float:
        """Mean query loss over the validation tasks; infinite where one diverges."""
        learner, problem, shard = self.with_rate(rate), self._problem, self.config.shard
        phi = problem.phi(learner.init(seed))
        seeds = seeding.derive_many(seed, "tuning", np.arange(self.config.episodes))
        losses = []
        with torch.no_grad():
            for start in range(0, len(seeds), shard):
                task = problem.sample("validation", [int(one) for one in seeds[start : start + shard]])
                losses.append(learner.evaluate(phi, task, seed, train=False, create_graph=False).query)
        mean = float(torch.cat(losses).double().mean())
        return mean if math.isfinite(mean) else math.inf


class Sgd(TunedOptimizer):
    """Gradient descent."""

    name = "sgd"


class Momentum(TunedOptimizer):
    """Gradient descent with momentum 0.9."""

    name = "momentum"


class Nesterov(TunedOptimizer):
    """Nesterov's accelerated gradient with momentum 0.9."""

    name = "nesterov"


class RmsProp(TunedOptimizer):
    """RMSprop, decay 0.99."""

    name = "rmsprop"


class Adam(TunedOptimizer):
    """Adam, betas 0.9 and 0.999."""

    name = "adam"
