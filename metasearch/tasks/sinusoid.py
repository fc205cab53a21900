"""Sinusoid regression: the smallest family of tasks on which a learned start pays."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field

from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import ConfigError
from metasearch.core.seeds import Draws
from metasearch.core.values import Batch, Task, TaskSpec
from metasearch.tasks.settings import SPLITS, PerSplit, at_split, check_split, per_split, pool_seeds

__all__ = ["Sinusoid"]


def _interval(value: Any) -> Any:
    """A number stands for the interval that holds nothing else."""
    return (value, value) if isinstance(value, int | float) else value


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if not (math.isfinite(value[0]) and math.isfinite(value[1]) and value[0] <= value[1]):
        raise ConfigError("", f"expected finite [low, high] with low <= high, got {list(value)}")
    return value


Interval = Annotated[tuple[float, float], BeforeValidator(_interval), AfterValidator(_ordered)]


class Sinusoid:
    """Regression on ``y = amplitude * sin(frequency * x - phase)``; a task is one amplitude, frequency and phase.

    Settings (``Config``):
        shots, queries: support and query points, a number or one for each split.
        amplitude, phase, frequency, x: a number, or ``[low, high]`` of a uniform distribution. The defaults are those
            of MAML; ``frequency: [0.8, 1.2]`` is the harder family of Meta-SGD.
        pool: number of different training tasks; None for no limit.

    Inputs and targets are ``[T, n, 1]``; ``info`` holds ``amplitude``, ``phase`` and ``frequency`` ``[T]``, on the
    CPU. The same seed gives different tasks in different splits, so that held-out tasks stay unseen.

    Reference: Finn, Abbeel, Levine 2017 (arXiv 1703.03400), section 5.1; Li et al. 2017 (arXiv 1707.09835).

    Example:
        >>> tasks = Sinusoid(Sinusoid.Config(shots=5, queries=10))
        >>> tasks.sample("train", np.arange(3)).query.y.shape
        torch.Size([3, 10, 1])
    """

    class Config(BaseConfig):
        """See :class:`Sinusoid`."""

        shots: PerSplit = per_split(10)
        queries: PerSplit = per_split(10)
        amplitude: Interval = (0.1, 5.0)
        phase: Interval = (0.0, math.pi)
        frequency: Interval = (1.0, 1.0)
        x: Interval = (-5.0, 5.0)
        pool: int | None = Field(default=None, ge=1)

    def __init__(self, config: Config, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.config = config
        self._device = torch.device(device)
        self._dtype = dtype

    def spec(self, split: str) -> TaskSpec:
        """Shapes of a split's tasks.

        Raises:
            ConfigError: if the split is not one of train, validation and test.
        """
        check_split(split, SPLITS)
        return TaskSpec("regression", (1,), 1, at_split(self.config.shots, split), at_split(self.config.queries, split))

    def sample(self, split: str, seeds: NDArray[np.int64]) -> Task:
        """One task a seed.

        Raises:
            ConfigError: if the split is not one of train, validation and test.
        """
        spec, config = self.spec(split), self.config
        seeds = np.asarray(seeds, dtype=np.int64).reshape(-1)
        unit = Draws(pool_seeds(seeds, config.pool, split), f"sinusoid/{split}").uniform(3 + spec.support + spec.query)
        amplitude, phase, frequency = (
            low + (high - low) * unit[:, i : i + 1]
            for i, (low, high) in enumerate([config.amplitude, config.phase, config.frequency])
        )
        x = config.x[0] + (config.x[1] - config.x[0]) * unit[:, 3:]
        y = amplitude * np.sin(frequency * x - phase)
        return Task(
            support=Batch(self._column(x[:, : spec.support]), self._column(y[:, : spec.support])),
            query=Batch(self._column(x[:, spec.support :]), self._column(y[:, spec.support :])),
            seeds=seeds,
            info={
                name: torch.from_numpy(value[:, 0].copy())
                for name, value in {"amplitude": amplitude, "phase": phase, "frequency": frequency}.items()
            },
        )

    def _column(self, values: NDArray[np.float64]) -> torch.Tensor:
        return torch.from_numpy(values[..., None].copy()).to(self._device, self._dtype)
