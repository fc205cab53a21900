"""Inner trajectories that outlive an evaluation: each one takes a few steps of theirs, the next goes on from there.

What is carried is a value, one for each shard: the seeds that the trajectory began with, how many steps are left of it,
and the inner states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import PositiveInt

from metasearch.core import seeds as seeding
from metasearch.core.config import Config as BaseConfig
from metasearch.core.contracts import Learner, Unrollable
from metasearch.core.errors import UnsupportedError
from metasearch.core.values import Call, Losses, Phi
from metasearch.estimators.episodes import EpisodeEstimator, Problem

__all__ = ["Growing", "Journey", "TruncatedEstimator", "unrollable"]


class Growing(BaseConfig):
    """A curriculum: trajectories are short at first and grow, geometrically, to the learner's number of inner steps.

    Args:
        start: inner steps of the first trajectories.
        until: outer step from which on they have their full length.
    """

    start: PositiveInt
    until: PositiveInt

    def length(self, full: int, outer_step: int) -> int:
        """Inner steps of a trajectory that begins at an outer step.

        >>> [Growing(start=10, until=100).length(1000, step) for step in (0, 50, 100)]
        [10, 100, 1000]
        """
        if outer_step >= self.until or self.start >= full:
            return full
        return round(self.start * (full / self.start) ** (outer_step / self.until))


@dataclass(frozen=True)
class Journey:
    """Where a shard's trajectory stands.

    Args:
        seeds: of its tasks.
        seed: of all else that is drawn on the way.
        left: inner steps to its end.
        kept: what the estimator keeps of it (inner states ...); empty before the first step.
    """

    seeds: tuple[int, ...]
    seed: int
    left: int
    kept: dict[str, Any]


class TruncatedEstimator(EpisodeEstimator):
    """An estimate from ``steps`` inner steps at a time; at the end of the inner loop new tasks begin.

    L is the query loss where the steps end, so it varies along a trajectory; validation measures whole ones.

    Raises:
        UnsupportedError: if the learner's trajectory cannot be taken in parts.
    """

    class Config(EpisodeEstimator.Config):
        """Settings.

        Args:
            steps: inner steps of one evaluation.
            offsets: whether the first trajectory of each shard is shortened by a random number of truncations, so that
                later ones do not begin and end together.
            horizon: trajectories that are short at first (:class:`Growing`: ``{start: 20, until: 1000}``); None means
                the learner's number of inner steps from the beginning on.
        """

        steps: PositiveInt = 20
        offsets: bool = True
        horizon: Growing | None = None

    gives_gradient: ClassVar[bool] = True
    carries: bool = True

    def __init__(self, config: Any, problem: Problem, function: str = "train") -> None:
        super().__init__(config, problem, function)
        unrollable(problem.learner({}, "train"), "evaluation.estimator")

    def check(self, learner: Learner, phi: Phi) -> None:
        inner = unrollable(learner, "evaluation.estimator")
        if self.config.horizon is not None and len(inner.objective_weights()) < inner.n_steps(train=True):
            raise UnsupportedError(
                "evaluation.estimator.horizon",
                "shorter trajectories have a loss only where every step counts; use `objective: sum`",
            )

    def task_seeds(self, call: Call) -> Sequence[int]:
        return call.carried["seeds"] if call.carried and call.carried["left"] else call.seeds

    def journey(self, call: Call, learner: Unrollable) -> Journey:
        """The trajectory that a call goes on with: the one it carries, or a new one."""
        if call.carried and call.carried["left"]:
            return Journey(**{**call.carried, "seeds": tuple(call.carried["seeds"])})
        horizon, steps = learner.n_steps(train=True), int(self.config.steps)
        if self.config.horizon is not None:
            horizon = self.config.horizon.length(horizon, call.step)
        skipped = 0
        if call.carried is None and self.config.offsets:
            starts = -(-horizon // steps)
            skipped = steps * int(seeding.Draws([seeding.derive(call.seed, "offset")]).integers(1, starts)[0, 0])
        return Journey(call.seeds, call.seed, horizon - skipped, {})

    def onward(self, journey: Journey, kept: dict[str, Any], losses: Sequence[Losses]) -> dict[str, Any]:
        """What to carry; a trajectory that came to its end, or left the numbers behind, is not gone on with."""
        finite = all(bool(torch.isfinite(one.objective).all() & torch.isfinite(one.query).all()) for one in losses)
        left = journey.left - min(int(self.config.steps), journey.left) if finite else 0
        if not left:
            return {"seeds": [], "seed": 0, "left": 0, "kept": {}}
        return {
            "seeds": [int(one) for one in np.asarray(journey.seeds)],
            "seed": journey.seed,
            "left": left,
            "kept": kept,
        }


def unrollable(learner: Learner, path: str) -> Unrollable:
    """The learner as one whose trajectory can be taken in parts.

    Raises:
        UnsupportedError: if it is not.
    """
    if not isinstance(learner, Unrollable):
        raise UnsupportedError(
            path, f"takes the inner loop in parts, and {type(learner).__name__} has none; use backprop or value"
        )
    return learner
