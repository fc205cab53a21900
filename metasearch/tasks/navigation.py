"""2D navigation: reinforcement learning small enough to be simulated for all tasks at once, in torch."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from metasearch.core.config import Config as BaseConfig
from metasearch.core.seeds import Draws
from metasearch.core.values import Batch, Task, TaskSpec
from metasearch.tasks.settings import SPLITS, PerSplit, at_split, check_split, per_split, pool_seeds

__all__ = ["Navigation", "Plane"]


class Plane:
    """A point that moves in the plane towards a goal that it does not see.

    An action is a displacement, times ``action_scale`` and cut to ``limit`` in each direction. A trajectory is over
    within ``radius`` of the goal.

    Args:
        config: its settings.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            reward: for each step minus the ``distance`` to the goal after it, or minus its square (``squared``).
            horizon: steps of a trajectory.
            limit: largest displacement in a coordinate; None for no limit.
            action_scale: displacement of an action of 1.
            radius: distance to the goal at which a trajectory is over.
        """

        reward: Literal["squared", "distance"] = "squared"
        horizon: PositiveInt = 100
        limit: PositiveFloat | None = 0.1
        action_scale: PositiveFloat = 0.1
        radius: float = Field(default=0.01, ge=0.0)

    actions = 2

    def __init__(self, config: Config) -> None:
        self.config = config
        self.horizon = config.horizon

    def step(self, position: Tensor, action: Tensor, goal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where a point goes, what it gets, and whether it is there.

        Args:
            position: ``[..., 2]``.
            action: ``[..., 2]``.
            goal: ``[..., 2]``.

        Returns:
            The next positions ``[..., 2]``, rewards ``[...]`` and ends ``[...]`` (bool).
        """
        move = action * self.config.action_scale
        if self.config.limit is not None:
            move = move.clamp(-self.config.limit, self.config.limit)
        position = position + move
        squared = (position - goal).square().sum(-1)
        distance = squared.sqrt()
        reward = -(squared if self.config.reward == "squared" else distance)
        return position, reward, distance < self.config.radius


class Navigation:
    """Tasks of reaching a goal in the plane; a task is a goal, uniform in the unit square around the origin.

    An example is a trajectory that is yet to be made: ``x`` is where it starts, ``y`` the goal. The policy of an inner
    loop makes the trajectories (see :mod:`metasearch.learners.policy`), on the support set to learn from and on the
    query set to be judged by.

    Published figures differ in reward, start and horizon and mean nothing without them; so they are settings here, and
    stand in the protocol of each result.

    Settings (``Config``):
        trajectories: support trajectories, a number or one for each split.
        queries: query trajectories, likewise.
        start: ``fixed`` at the origin, or ``random``, uniform in the same square.
        pool: number of different training tasks; None for no limit.
        reward, horizon, limit, action_scale, radius: of :class:`Plane`.

    ``x`` and ``y`` are ``[T, n, 2]``; ``info["goal"]`` is ``[T, 2]``, on the CPU. The same seed gives different goals
    in different splits.

    Reference: Finn, Abbeel, Levine 2017 (arXiv 1703.03400), section 5.3: squared distance, fixed start, 100 steps.
    (Its published code has the distance itself.) Random starts: Li et al. 2017 (arXiv 1707.09835).

    Example:
        >>> tasks = Navigation(Navigation.Config(trajectories=20))
        >>> tasks.sample("train", np.arange(3)).support.x.shape
        torch.Size([3, 20, 2])
    """

    class Config(Plane.Config):
        """See :class:`Navigation`."""

        trajectories: PerSplit = per_split(20)
        queries: PerSplit = per_split(20)
        start: Literal["fixed", "random"] = "fixed"
        pool: int | None = Field(default=None, ge=1)

    def __init__(self, config: Config, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.config = config
        self._device, self._dtype = torch.device(device), dtype
        self._plane = Plane(Plane.Config(**{name: getattr(config, name) for name in Plane.Config.model_fields}))

    def spec(self, split: str) -> TaskSpec:
        """Shapes of a split's tasks, and the world that trajectories are made in.

        Raises:
            ConfigError: if the split is not one of train, validation and test.
        """
        check_split(split, SPLITS)
        config = self.config
        support, query = at_split(config.trajectories, split), at_split(config.queries, split)
        return TaskSpec("control", (2,), 2, support, query, environment=self._plane)

    def sample(self, split: str, seeds: NDArray[np.int64]) -> Task:
        """One task a seed.

        Raises:
            ConfigError: if the split is not one of train, validation and test.
        """
        spec = self.spec(split)
        seeds = np.asarray(seeds, dtype=np.int64).reshape(-1)
        n = spec.support + spec.query
        unit = Draws(pool_seeds(seeds, self.config.pool, split), f"navigation/{split}").uniform(2 + 2 * n, -0.5, 0.5)
        goal, start = torch.from_numpy(unit[:, :2].copy()), torch.from_numpy(unit[:, 2:].copy()).reshape(-1, n, 2)
        if self.config.start == "fixed":
            start = torch.zeros_like(start)
        x, y = (one.to(self._device, self._dtype) for one in (start, goal[:, None].expand(-1, n, -1)))
        return Task(
            support=Batch(x[:, : spec.support], y[:, : spec.support]),
            query=Batch(x[:, spec.support :], y[:, spec.support :]),
            seeds=seeds,
            info={"goal": goal},
        )
