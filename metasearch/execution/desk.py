"""The desk between two threads: the caller's, which submits and waits, and Tune's, which runs the trials.

Tune sees three small things that share the desk: a searcher that hands out queued calls, a callback that takes in
results, and a stopper that ends the experiment.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

import numpy as np
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from metasearch.core.errors import MetasearchError
from metasearch.core.values import Call, Change, Failure, Measurement, Report
from metasearch.execution.losses import lost_failure
from metasearch.execution.packing import pack, resolved, unpack
from metasearch.execution.schedulers import Ranking
from metasearch.execution.trainable import AFTER, CALL, OUTCOME, REPORT, RESTORED

__all__ = ["Closed", "Desk", "Flight", "Outcome", "Queue", "Results", "stopped_measurement"]

_KEY = "key"

Outcome = Report | Change | Measurement | Failure


@dataclass(frozen=True, eq=False)
class Letter:
    """A packed call in a trial's configuration, which Tune copies and writes into names: it stays one, and short."""

    content: bytes

    def __repr__(self) -> str:
        return "call"

    def __deepcopy__(self, memo: dict[int, Any]) -> Letter:
        return self


@dataclass(eq=False)
class Flight:
    """A call on its way through Tune."""

    call: Call
    packed: bytes
    restored: str | None
    after: int | None
    trial: TuneTrial | None = None
    last: Report | None = None
    outcome: bytes | None = None
    seconds: float = 0.0

    def config(self, key: int) -> dict[str, Any]:
        """The configuration of its Tune trial."""
        return {_KEY: key, CALL: Letter(self.packed), RESTORED: self.restored, AFTER: self.after}

    def changed(self, choices: Mapping[str, Any], checkpoint: str, step: int) -> dict[str, Any]:
        """What a trial's configuration becomes when its run goes on from another's checkpoint, under other choices."""
        call = resolved(self.call)
        self.packed = pack(replace(call, phi=call.phi.replace(choices=dict(choices))))
        self.restored, self.after = checkpoint, step
        return {CALL: Letter(self.packed), RESTORED: checkpoint, AFTER: step}


class Desk:
    """What the threads share.

    Args:
        workers: how many trials are handed out at a time; None for all.
        ranking: by what the scheduler compares trials.
    """

    def __init__(self, workers: int | None, ranking: Ranking | None) -> None:
        self.arrived: SimpleQueue[tuple[Call, Outcome] | BaseException] = SimpleQueue()
        self.ranking = ranking
        self.error: MetasearchError | None = None
        """Why a scheduler gave up; Tune keeps no more than the text of what is raised in its loop."""
        self._workers = workers
        self._queued: deque[Flight] = deque()
        self._live: dict[int, Flight] = {}
        self._next = 0
        self._closed = False
        self._change: Change | None = None
        self._changed = threading.Condition()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher and callbacks with its own state, which nobody reads

    def __deepcopy__(self, memo: dict[int, Any]) -> Desk:
        return self

    @property
    def closed(self) -> bool:
        """Whether the trials are to end."""
        return self._closed

    def close(self) -> None:
        """Ends the trials."""
        with self._changed:
            self._closed = True
            self._queued.clear()
            self._changed.notify_all()

    def queue(self, flight: Flight) -> None:
        """Queues a call."""
        with self._changed:
            self._queued.append(flight)
            self._changed.notify_all()

    def next(self) -> dict[str, Any] | None:
        """The configuration of the next trial, if a worker is free for it.

        Blocks while no trial lives and none is queued: Tune would otherwise sleep for seconds before it asks again.
        """
        with self._changed:
            if not self._live:
                self._changed.wait_for(lambda: self._queued or self._closed)
            busy = sum(
                flight.trial is None or flight.trial.status != TuneTrial.PAUSED for flight in self._live.values()
            )
            if not self._queued or (self._workers is not None and busy >= self._workers):
                return None
            key, self._next = self._next, self._next + 1
            self._live[key] = self._queued.popleft()
            return self._live[key].config(key)

    def announce(self, change: Change) -> None:
        """Keeps what the scheduler did to a population until the report that made it act has been delivered."""
        self._change = change

    def deliver(self, call: Call, report: Report | None) -> None:
        """Delivers a report, then what it made the scheduler do."""
        if report is not None:
            self.arrived.put((call, report))
        if self._change is not None:
            self.arrived.put((call, self._change))
            self._change = None

    def flight(self, trial: TuneTrial) -> Flight:
        """The call that a Tune trial runs."""
        return self._live[trial.config[_KEY]]

    def land(self, trial: TuneTrial, outcome: Outcome) -> None:
        """Answers a trial's call and forgets the trial."""
        with self._changed:
            flight = self._live.pop(trial.config[_KEY])
        self.arrived.put((flight.call, outcome))


class Queue(Searcher):
    """A searcher that proposes nothing of its own."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        config = self._desk.next()
        return Searcher.FINISHED if self._desk.closed else config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: results leave through the callback."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Tune's state is never restored."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see :meth:`save`."""


class Results(Callback):
    """Takes in what trials report, and how they end."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._desk.flight(trial).trial = trial

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        flight = self._desk.flight(trial)
        flight.seconds = float(result.get("time_total_s", 0.0))
        report, flight.outcome = result.pop(REPORT, None), result.pop(OUTCOME, None)
        if report is None or (flight.last is not None and report.step <= flight.last.step):
            self._desk.deliver(flight.call, None)
            return
        flight.last = report
        if trial.config[AFTER] != report.step:  # else the scheduler has just said from where it goes on
            trial.config[AFTER] = report.step  # a later start of this trial goes on from here
            if report.checkpoint is not None:
                trial.config[RESTORED] = report.checkpoint
        self._desk.deliver(flight.call, report)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        flight = self._desk.flight(trial)
        if flight.outcome is not None:
            self._desk.land(trial, unpack(flight.outcome))
        elif flight.last is not None and self._desk.ranking is not None:
            self._desk.land(trial, stopped_measurement(flight.last, self._desk.ranking.metric, flight.seconds))
        else:
            self._desk.land(trial, Failure("lost", "the trial was ended before its first report"))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        error = trial.get_pickled_error() or trial.get_error()
        story = f"its worker died in each of {trial.num_failures} attempts"
        self._desk.land(trial, lost_failure(error, story))


class Closed(Stopper):
    """Ends Tune's experiment when the desk is closed."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._desk.closed


def stopped_measurement(last: Report, metric: str, seconds: float) -> Measurement:
    """What a trial that was stopped after so many seconds has measured: its last report, marked ``stopped``."""
    value = np.array([last.metrics[metric]])
    metrics = {name: np.array([number]) for name, number in last.metrics.items()}
    return Measurement(value, value, {**metrics, "stopped": np.ones(1)}, seconds=seconds)
