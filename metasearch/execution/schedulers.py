"""Which running trials are stopped early: settings, and the Ray Tune schedulers they stand for.

A scheduler compares trials after equal budget, that is at equal ``step`` of their reports.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    TrialScheduler,
)
from ray.tune.schedulers.async_hyperband import _Bracket

from metasearch.core.config import Config, validate
from metasearch.core.errors import ConfigError, nearest
from metasearch.core.objectives import Direction, Objectives, order
from metasearch.core.values import Report

__all__ = [
    "RANK",
    "TIME",
    "Asha",
    "HyperBand",
    "Median",
    "Population",
    "Ranking",
    "feed",
    "make_scheduler",
    "parse_scheduler",
]

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
        weights: compare by a weighted sum of reported metrics instead (a scalarisation of several objectives).
    """

    metric: str = "L"
    mode: Literal["min", "max"] = "min"
    weights: dict[str, float] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_measure(self) -> Ranking:
        if self.weights is not None and "metric" in self.model_fields_set:
            raise ConfigError("weights", "stand in place of a metric; give one of the two")
        return self

    def rank(self, report: Report) -> float | NDArray[np.float64]:
        """The compared value; one that is not finite counts as worse than every finite one.

        Raises:
            ConfigError: if the report lacks a metric.
        """
        self._metric(report, self.metric)  # a run that is stopped is recorded with it
        value = sum(
            weight * self._metric(report, name) for name, weight in (self.weights or {self.metric: 1.0}).items()
        )
        worst = _WORST if self.mode == "min" else -_WORST
        return max(-_WORST, min(_WORST, value)) if math.isfinite(value) else worst

    def _metric(self, report: Report, name: str) -> float:
        if name not in report.metrics:
            hint = nearest(name, report.metrics)
            key = "metric" if name == self.metric else "weights"
            raise ConfigError(f"scheduler.{key}", f"trials are compared by {name!r}, which was not reported; {hint}")
        return report.metrics[name]


class Asha(Ranking):
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934), without ``max`` as a stop: survivors finish.

    Args:
        grace: budget before the first comparison.
        reduction: one in ``reduction`` trials passes each comparison; comparisons stand at ``grace * reduction ** k``.
        max: budget beyond which nothing is compared.
        objectives: several reported metrics, each ``min`` or ``max``: trials are compared by how many levels of others
            dominate them, then by how crowded their level is (Schmucker et al. 2021, arXiv:2106.12639, with NSGA-II's
            order inside a level). Those of the experiment, unless ``metric`` or ``weights`` is given.
    """

    type: Literal["asha"]
    grace: int = Field(default=1, ge=1)
    reduction: float = Field(default=3, gt=1)
    max: int = Field(default=2**20, ge=1)
    objectives: dict[str, Direction] | None = Field(default=None, min_length=1)

    def rank(self, report: Report) -> float | NDArray[np.float64]:
        """As every ranking's; with several objectives all of them, lower being better in each."""
        if self.objectives is None:
            return super().rank(report)
        self._metric(report, self.metric)
        vector = np.array(Objectives(self.objectives).vector(report.metrics, "scheduler.objectives"))
        return np.clip(np.where(np.isfinite(vector), vector, _WORST), -_WORST, _WORST)


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


class Population(Ranking):
    """Population-based training (``pbt``: Jaderberg et al. 2017, arXiv:1711.09846; ``pb2``: Parker-Holder et al. 2020,
    arXiv:2002.02518).

    After every ``interval`` all members wait for each other; the worst take over the checkpoints of the best and go on
    under other choices. What is found is a schedule: the choices over the course of the best member's training. Choices
    change in the middle of a run, so they must leave the shapes in its checkpoints alone.

    Args:
        population: members: as many as the budget has evaluations.
        max: budget of a whole run; nobody waits there.
        interval: budget between waits.
        burn_in: budget before the first one.
        quantile: share of the members that is replaced, and share that it is replaced from.
        resample: probability that a choice is drawn anew instead of perturbed (pbt).
        factors: by which numbers are multiplied, one below 1 and one above (pbt).
    """

    type: Literal["pbt", "pb2"]
    population: int = Field(ge=2)
    max: int = Field(ge=1)
    interval: int = Field(default=1, ge=1)
    burn_in: int = Field(default=0, ge=0)
    quantile: float = Field(default=0.25, gt=0, le=0.5)
    resample: float = Field(default=0.25, ge=0, le=1)
    factors: tuple[float, float] = (0.8, 1.2)

    @model_validator(mode="after")
    def _settings_fit(self) -> Population:
        for name in ("resample", "factors"):
            if self.type == "pb2" and name in self.model_fields_set:
                raise ConfigError(name, "is a setting of pbt; pb2 takes what its model proposes")
        if not 0 < min(self.factors) < 1 < max(self.factors):
            raise ConfigError("factors", f"expected one between 0 and 1 and one above 1, got {self.factors}")
        return self


_KINDS: dict[str, type[Ranking]] = {
    "asha": Asha,
    "hyperband": HyperBand,
    "median": Median,
    "pbt": Population,
    "pb2": Population,
}


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
        case Asha(objectives=dict()):
            return _ParetoAsha(settings)
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


class _ParetoAsha(ASHAScheduler):
    """ASHA whose rungs hold vectors, lower being better in each place."""

    def __init__(self, settings: Asha) -> None:
        longest = max(settings.max, settings.grace)
        super().__init__(
            time_attr=TIME,
            metric=RANK,
            mode="max",  # leaves the vectors as they are
            grace_period=settings.grace,
            reduction_factor=settings.reduction,
            max_t=longest,
            stop_last_trials=False,
        )
        self._brackets = [_ParetoBracket(settings.grace, longest, settings.reduction, 0, stop_last_trials=False)]


class _ParetoBracket(_Bracket):
    """A trial passes a rung if it is among the best ``1 / reduction`` of those that came there, itself included."""

    def on_result(self, trial: Any, cur_iter: int, cur_rew: Any) -> str:
        for milestone, recorded in self._rungs:  # the highest first
            if cur_iter < milestone:
                continue
            if trial.trial_id in recorded:
                break
            recorded[trial.trial_id] = cur_rew
            place = order(list(recorded.values())).index(len(recorded) - 1)
            passes = place < max(1, math.ceil(len(recorded) / self.rf))
            return str(TrialScheduler.CONTINUE if passes else TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)


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
