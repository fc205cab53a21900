"""Hand-made optimizers as baselines: what a learned update rule has to beat, each at its best rate.

Settings are chosen from a grid on validation tasks, by the same figure that the test reports, before the test is taken.
The budget of a baseline is the size of its grid: by default 11 rates, and for AdamW each of them with 3 weight decays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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

__all__ = [
    "DECAYS",
    "RULES",
    "Adam",
    "AdamWCosine",
    "Momentum",
    "Nesterov",
    "RmsProp",
    "Sgd",
    "TunedOptimizer",
    "candidates",
]

RULES: Mapping[str, Mapping[str, Any]] = {
    "sgd": {"type": "learned_momentum", "momentum": 0.0},
    "momentum": {"type": "learned_momentum", "momentum": 0.9},
    "nesterov": {"type": "learned_momentum", "momentum": 0.9, "nesterov": True},
    "rmsprop": {"type": "learned_adam", "betas": (0.0, 0.99), "correct": False},
    "adam": {"type": "learned_adam"},
    "adamw_cosine": {"type": "learned_adam"},
}
"""The hand-made optimizers, as update rules with the usual constants (torch's defaults)."""

DECAYS = (0.0, 0.01, 0.1)
"""Weight decays of AdamW's grid, in units of the rate."""


def candidates(name: str, rates: Sequence[float], steps: int, decays: Sequence[float] = DECAYS) -> list[dict[str, Any]]:
    """The grid of a hand-made optimizer, as settings of its rule.

    Args:
        name: one of :data:`RULES`.
        rates: of the grid.
        steps: of the training run, at whose end the rate of ``adamw_cosine`` is 0.
        decays: of the grid of ``adamw_cosine``.
    """
    grid = [{**RULES[name], "rate": rate} for rate in rates]
    if name != "adamw_cosine":
        return grid
    return [{**one, "weight_decay": decay, "horizon": max(steps, 1)} for one in grid for decay in decays]


class TunedOptimizer:
    """The search's inner loop with a hand-made rule in place of its own, at the best settings of a grid.

    Raises:
        UnsupportedError: if the learner is no inner loop.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            rates: the grid; by default two rates a decade from 1e-4 to 10.
            decays: weight decays of ``adamw_cosine``, each of which is tried with each rate.
            episodes: validation tasks that the settings are chosen on.
            shard: of these, how many at a time.
            rule: further settings of the rule (``momentum``, ``betas`` ...).
        """

        rates: tuple[float, ...] = Field(default=tuple(float(10 ** (k / 2)) for k in range(-8, 3)), min_length=1)
        decays: tuple[float, ...] = Field(default=DECAYS, min_length=1)
        episodes: PositiveInt = 64
        shard: PositiveInt = 32
        rule: dict[str, Any] = Field(default_factory=dict)

    name: ClassVar[str]

    def __init__(self, config: Any, problem: Problem, split: str) -> None:
        self.config = config
        self._problem = problem
        own = problem.learner({}, split)
        if not isinstance(own, InnerLoop):
            raise UnsupportedError("test.baselines", f"{self.name!r} needs a learner with an inner loop")
        self._own: InnerLoop = own
        self.learner = own.with_rule(self.grid()[0])

    def grid(self) -> list[dict[str, Any]]:
        """Settings of the rule that are tried."""
        config = self.config
        found = candidates(self.name, config.rates, self._own.n_steps(train=False), config.decays)
        return [{**one, **config.rule} for one in found]

    def prepare(self, seed: int) -> Phi:
        """A phi that holds the best settings, beside the search's own fresh parts."""
        return self.tuned(self.start(seed), seed)

    def start(self, seed: int) -> Phi:
        """A phi with the first settings of the grid."""
        return self.learner.init(seed)

    def tuned(self, phi: Phi, seed: int) -> Phi:
        """A phi with the best settings, whichever it had; they depend on the number of inner steps."""
        grid = self.grid()
        return self._own.with_rule(min(grid, key=lambda rule: self.figure(rule, seed))).init(seed)

    def figure(self, rule: Mapping[str, Any], seed: int) -> float:
        """Mean query loss over the validation tasks; infinite where one diverges."""
        learner, problem, shard = self._own.with_rule(rule), self._problem, self.config.shard
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


class AdamWCosine(TunedOptimizer):
    """AdamW, betas 0.9 and 0.999, with a rate that falls to 0 along a cosine; rate and weight decay are tuned."""

    name = "adamw_cosine"
