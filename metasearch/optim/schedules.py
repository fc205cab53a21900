"""Rates that change in the course of training: curves with settings that a search can choose, and torch's schedulers.

A curve is a function of progress, from 0 at the first step of a run to 1 at its last, so that one found on short runs
also serves long ones.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import ConfigError
from metasearch.core.registry import build

__all__ = ["Constant", "Pieces", "Schedule", "StepRates", "WarmupCosine", "schedule"]


class StepRates(LRScheduler):
    """Sets the rate of each param group to what a function of the step says; an ordinary LR scheduler.

    Its state is the step count; the function is given anew, as to ``LambdaLR``.

    Args:
        optimizer: whose groups it changes.
        rates: ``rates(step)`` returns one rate a group, for steps (calls of :meth:`step`) counted from 0.
        last_epoch: steps already made, less one.
    """

    def __init__(self, optimizer: Optimizer, rates: Callable[[int], Sequence[float]], last_epoch: int = -1) -> None:
        self._rates = rates
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The rates of the present step, one a group."""
        rates: list[float | Tensor] = [float(rate) for rate in self._rates(self.last_epoch)]
        if len(rates) != len(self.optimizer.param_groups):
            raise ConfigError(
                "rates", f"expected one for each of {len(self.optimizer.param_groups)} param groups, got {len(rates)}"
            )
        return rates

    def state_dict(self) -> dict[str, Any]:
        """Everything but the function."""
        return {name: value for name, value in super().state_dict().items() if name != "_rates"}


class Schedule(ABC):
    """A curve of learning rates over a training run; a subclass says its values.

    Args:
        config: its settings.
    """

    Config: ClassVar[type[BaseConfig]] = BaseConfig

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def rate(self, progress: float) -> float:
        """The rate at a progress in [0, 1]."""

    def rates(self, steps: int) -> list[float]:
        """The rates of all steps of a run.

        Args:
            steps: their number, at least one.
        """
        return [self.rate(_progress(step, steps)) for step in range(steps)]

    def scheduler(self, optimizer: Optimizer, steps: int, last_epoch: int = -1) -> StepRates:
        """The curve as an LR scheduler.

        Args:
            optimizer: its groups keep the ratios of their rates: the curve is the rate of the first one.
            steps: calls of ``scheduler.step()`` that a run makes, of epochs or of batches; later ones stay at the end.
            last_epoch: as for torch's schedulers.

        Raises:
            ConfigError: if there is no step, or the first group's rate is 0.
        """
        if steps < 1:
            raise ConfigError("steps", f"expected at least one step, got {steps}")
        starts = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
        if not starts[0]:
            raise ConfigError(
                "optimizer", "its first group has rate 0, so the others' ratios to it mean nothing; use 1"
            )
        ratios = [start / starts[0] for start in starts]

        def rates(step: int) -> list[float]:
            now = self.rate(_progress(step, steps))
            return [now * ratio for ratio in ratios]

        return StepRates(optimizer, rates, last_epoch)


class Constant(Schedule):
    """The same rate all the time: what a schedule has to beat."""

    class Config(BaseConfig):
        """Settings.

        Args:
            peak: the rate.
        """

        peak: PositiveFloat

    def rate(self, progress: float) -> float:
        return float(self.config.peak)


class WarmupCosine(Schedule):
    """A straight line up to the peak, then half a cosine down to the floor.

        progress < warmup:  peak * (start + (1 - start) * progress / warmup)
        after:              peak * (floor + (1 - floor) * (1 + cos(pi * (progress - warmup) / (1 - warmup))) / 2)

    Loshchilov and Hutter 2017, arXiv:1608.03983, Eq. 5, for the cosine; Goyal et al. 2017, arXiv:1706.02677, Sec. 2.2,
    for the warmup.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            peak: the highest rate.
            warmup: share of the run that goes up.
            start: rate at the first step, as a share of the peak.
            floor: rate at the last step, as a share of the peak.
        """

        peak: PositiveFloat
        warmup: float = Field(default=0.1, ge=0.0, lt=1.0)
        start: float = Field(default=0.1, ge=0.0, le=1.0)
        floor: float = Field(default=0.0, ge=0.0, le=1.0)

    def rate(self, progress: float) -> float:
        config = self.config
        if progress < config.warmup:
            return float(config.peak * (config.start + (1.0 - config.start) * progress / config.warmup))
        fallen = (progress - config.warmup) / (1.0 - config.warmup)
        return float(config.peak * (config.floor + (1.0 - config.floor) * 0.5 * (1.0 + math.cos(math.pi * fallen))))


class Pieces(Schedule):
    """One rate for each of several equal parts of the run, for example for each epoch."""

    class Config(BaseConfig):
        """Settings.

        Args:
            values: the rates, in order.
        """

        values: tuple[PositiveFloat, ...] = Field(min_length=1)

    def rate(self, progress: float) -> float:
        values = self.config.values
        return float(values[min(int(progress * len(values)), len(values) - 1)])


def schedule(settings: Mapping[str, Any] | str) -> Schedule:
    """The curve that settings describe: ``{type: warmup_cosine, peak: 0.1}``, with ranges already filled in.

    Raises:
        ConfigError: naming the setting that is wrong.

    Example:
        >>> curve = schedule({"type": "warmup_cosine", "peak": 1.0, "warmup": 0.5, "start": 0.0})
        >>> [round(rate, 3) for rate in curve.rates(5)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    return build("schedule", settings, "schedule")


def _progress(step: int, steps: int) -> float:
    return min(step / (steps - 1), 1.0) if steps > 1 else 1.0
