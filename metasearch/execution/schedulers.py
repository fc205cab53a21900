"""Which running trials are stopped early: settings, and the Ray Tune schedulers they stand for.

A scheduler compares trials after equal budget, that is at equal ``step`` of their reports.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from metasearch.core.config import Config, validate
from metasearch.core.errors import ConfigError, nearest
from metasearch.core.values import Report

__all__ = ["RANK", "TIME", "Asha", "HyperBand", "Median", "Ranking", "feed", "make_scheduler", "parse_scheduler"]

TIME = "step"
"""Key under which schedulers find the budget spent."""

RANK = "rank"
"""Key under which schedulers find the value they compare."""

_WORST = 1e30  # stands for nan and infinity: schedulers average and take percentiles


class Ranking(Config):
    """What all schedulers share.

    Args:
        metric: the reported metric that trials are compared by.
        mode: whether smaller (``min``) or larger values are better.
        path: where these settings stand in the experiment file, for errors.
    """

    metric: str = "L"
    mode: Literal["min", "max"] = "min"

    def rank(self, report: Report) -> float:
        """The compared value; one that is not finite counts as worse than every finite one.

        Raises:
            ConfigError: if the report lacks the metric.
        """
        if self.metric not in report.metrics:
            hint = nearest(self.metric, report.metrics)
            raise ConfigError(
                "scheduler.metric", f"trials are compared by {self.metric!r}, which was not reported; {hint}"
            )
        value = report.metrics[self.metric]
        worst = _WORST if self.mode == "min" else -_WORST
        return max(-_WORST, min(_WORST, value)) if math.isfinite(value) else worst


class Asha(Ranking):
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934), without ``max`` as a stop: survivors finish.

    Args:
        grace: budget before the first comparison.
        reduction: one in ``reduction`` trials passes each comparison; comparisons stand at ``grace * reduction ** k``.
        max: budget beyond which nothing is compared.
    """

    type: Literal["asha"]
    grace: int = Field(default=1, ge=1)
    reduction: float = Field(default=3, gt=1)
    max: int = Field(default=2**20, ge=1)


class HyperBand(Ranking):
    """HyperBand (Li et al. 2018, arXiv:1603.06560): brackets that wait for their slowest trial.

    A trial that waits gives its worker away, and goes on from its newest checkpoint. A bracket compares only proposals
    that are in flight together: keep at least as many in flight as its first one has trials. On a Ray that others use,
    too, more than ``workers`` trials can run at a time.

    Args:
        max: largest budget of a trial.
        reduction: one in ``reduction`` trials passes each comparison.
    """

    type: Literal["hyperband"]
    max: int = Field(ge=1)
    reduction: float = Field(default=3, gt=1)


class Median(Ranking):
    """The median stopping rule (Golovin et al. 2017, Vizier): stops a trial whose best is worse than the median mean.

    Args:
        grace: budget before the first comparison.
        min_trials: trials to compare with before one is stopped.
    """

    type: Literal["median"]
    grace: int = Field(default=1, ge=0)
    min_trials: int = Field(default=3, ge=1)


_KINDS: dict[str, type[Ranking]] = {"asha": Asha, "hyperband": HyperBand, "median": Median}


def parse_scheduler(settings: Mapping[str, Any] | None) -> Ranking | None:
    """The checked settings; None where there is no scheduler (``type: none``, or nothing).

    Raises:
        ConfigError: below ``scheduler``, for unknown types and keys.
    """
    if settings is None or settings.get("type") == "none":
        return None
    kind = settings.get("type")
    if kind not in _KINDS:
        raise ConfigError("scheduler.type", f"unknown scheduler {kind!r}; {nearest(str(kind), ['none', *_KINDS])}")
    return validate(_KINDS[kind], settings, "scheduler")


def make_scheduler(settings: Ranking | None) -> TrialScheduler:
    """The Tune scheduler for checked settings; first in, first out without any."""
    common: Any = {"time_attr": TIME, "metric": RANK, "mode": None if settings is None else settings.mode}
    match settings:
        case Asha():
            return ASHAScheduler(
                **common,
                grace_period=settings.grace,
                reduction_factor=settings.reduction,
                max_t=max(settings.max, settings.grace),
                stop_last_trials=False,
            )
        case HyperBand():
            return HyperBandScheduler(
                **common, max_t=settings.max, reduction_factor=settings.reduction, stop_last_trials=False
            )
        case Median():
            return _MedianStopping(
                **common,
                grace_period=settings.grace,
                min_samples_required=settings.min_trials,
                # Infinite, since a trial counts as last put aside at minus infinity: none is, just to let another run.
                min_time_slice=math.inf,  # type: ignore[arg-type]
            )
        case _:
            return FIFOScheduler()  # type: ignore[no-untyped-call]


class _MedianStopping(MedianStoppingRule):
    """Tune's rule, without its second look at the last report, which the end of a run does not carry."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: all reports were taken in as they came."""


@dataclass(frozen=True)
class _Past:
    """As much of a Tune trial as the schedulers look at."""

    trial_id: str
    status: str = "TERMINATED"


def feed(scheduler: TrialScheduler, settings: Ranking | None, history: Iterable[tuple[int, Sequence[Report]]]) -> None:
    """Tells a fresh scheduler what finished trials reported, so that new ones are compared with them.

    ASHA's rungs and the median rule's means come out as they were. HyperBand compares only trials that run together:
    its brackets start anew.

    Args:
        scheduler: fresh.
        settings: what it was made from.
        history: trial id and reports in order, in the order of the journal.
    """
    if not isinstance(settings, Asha | Median):
        return
    nobody: Any = None  # these two schedulers ask nothing of Tune's controller
    for number, reports in history:
        past: Any = _Past(f"restored-{number}")
        results = [{TIME: report.step, RANK: settings.rank(report)} for report in reports]
        if not results:
            continue
        scheduler.on_trial_add(nobody, past)
        for result in results:
            scheduler.on_trial_result(nobody, past, result)
        scheduler.on_trial_complete(nobody, past, results[-1])
