"""Linear regression tasks: with a linear model every inner loss is a quadratic, so hypergradients have closed forms."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from metasearch.core.config import Config as BaseConfig
from metasearch.core.seeds import Draws
from metasearch.core.values import Batch, Task, TaskSpec
from metasearch.tasks.settings import SPLITS, PerSplit, at_split, check_split, per_split, pool_seeds

__all__ = ["Quadratic"]


class Quadratic:
    """Regression on ``y = <x, w> + noise``; a task is its solution w, and inputs are normal with unequal variances.

    With a linear model without bias and the squared error, the support loss is ``(theta - w)' H (theta - w)`` up to
    the noise, with ``H = X' X / shots``; k gradient steps of size a from phi end at ``w + (I - 2 a H)^k (phi - w)``.

    Settings (``Config``):
        dimensions: length d of an input.
        shots, queries: support and query examples, a number or one for each split.
        center, spread: w ~ N(center, spread^2), each coordinate alike.
        condition: ratio of the largest to the smallest variance of the inputs' coordinates, spaced evenly on a log
            scale from 1 down to 1 / condition.
        noise: standard deviation of what is added to the targets.
        inputs: law of the numbers in an input: ``normal`` with the variances above, or ``uniform`` in [0, 1).
        targets: ``solution`` is the regression above; with ``independent`` the targets are drawn like the inputs, for
            themselves. As many shots as dimensions then give random problems ``|W theta - y|^2``, the quadratics of
            Andrychowicz et al. 2016, arXiv:1606.04474, Sec. 3.1 (their code has the uniform law).
        shared: whether the query set is the support set, so that a task is a function to be minimised and L is its
            value at the end.
        pool: number of different training tasks; None for no limit.

    Inputs are ``[T, n, d]``, targets ``[T, n, 1]``; ``info["solution"]`` is w, ``[T, d]`` float64, on the CPU. The
    same seed gives different tasks in different splits. With independent targets there is no ``info``.

    Example:
        >>> tasks = Quadratic(Quadratic.Config(dimensions=3), dtype=torch.float64)
        >>> task = tasks.sample("train", np.arange(2))
        >>> residual = task.support.x @ task.info["solution"][:, :, None] - task.support.y
        >>> bool(residual.abs().max() < 1e-12)
        True
    """

    class Config(BaseConfig):
        """See :class:`Quadratic`."""

        dimensions: int = Field(default=4, ge=1)
        shots: PerSplit = per_split(8)
        queries: PerSplit = per_split(8)
        center: float = 0.0
        spread: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
        condition: float = Field(default=10.0, ge=1.0, allow_inf_nan=False)
        noise: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
        inputs: Literal["normal", "uniform"] = "normal"
        targets: Literal["solution", "independent"] = "solution"
        shared: bool = False
        pool: int | None = Field(default=None, ge=1)

    def __init__(self, config: Config, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.config = config
        self._device = torch.device(device)
        self._dtype = dtype
        self._scale = np.exp(np.linspace(0.0, -0.5 * math.log(config.condition), config.dimensions))

    def spec(self, split: str) -> TaskSpec:
        """Shapes of a split's tasks.

        Raises:
            ConfigError: if the split is not one of train, validation and test.
        """
        check_split(split, SPLITS)
        config = self.config
        shots = at_split(config.shots, split)
        queries = shots if config.shared else at_split(config.queries, split)
        return TaskSpec("regression", (config.dimensions,), 1, shots, queries)

    def sample(self, split: str, seeds: NDArray[np.int64]) -> Task:
        """One task a seed.

        Raises:
            ConfigError: if the split is not one of train, validation and test.
        """
        spec, config = self.spec(split), self.config
        seeds = np.asarray(seeds, dtype=np.int64).reshape(-1)
        draws = Draws(pool_seeds(seeds, config.pool, split), f"quadratic/{split}")
        n, d = spec.support + (0 if config.shared else spec.query), config.dimensions
        solution = config.center + config.spread * draws.normal(d)
        x = self._drawn(draws, n * d).reshape(-1, n, d) * self._scale
        if config.targets == "solution":
            y = (x * solution[:, None, :]).sum(axis=2) + config.noise * draws.normal(n)
        else:
            y = self._drawn(draws, n) + config.noise * draws.normal(n)
        support = self._batch(x[:, : spec.support], y[:, : spec.support])
        return Task(
            support=support,
            query=support if config.shared else self._batch(x[:, spec.support :], y[:, spec.support :]),
            seeds=seeds,
            info={"solution": torch.from_numpy(solution)} if config.targets == "solution" else {},
        )

    def _drawn(self, draws: Draws, n: int) -> NDArray[np.float64]:
        return draws.normal(n) if self.config.inputs == "normal" else draws.uniform(n)

    def _batch(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Batch:
        return Batch(
            torch.from_numpy(x.copy()).to(self._device, self._dtype),
            torch.from_numpy(y[..., None].copy()).to(self._device, self._dtype),
        )
