"""A training run in a thread, advanced report by report: what the in-process and the Tune executor have in common."""

from __future__ import annotations

import operator
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

from metasearch.core.values import Call, Failure, Measurement, Report
from metasearch.execution.failures import TrialStopped, attempt, failure_of

__all__ = ["Session", "SessionTrial", "is_trial"]


def is_trial(call: Call) -> bool:
    """Whether a call is a training run (``extra["trial"]``), which reports through a trial, and not a function call."""
    return bool(call.extra.get("trial", False))


class SessionTrial:
    """The :class:`~metasearch.core.contracts.Trial` that a training run is given.

    Args:
        call: the call; its proposal is the trial's id.
        storage: folder that checkpoints are made under, as ``<id>/<number>``; every host that runs trials must see it.
        restored: path of the newest checkpoint, relative to ``storage``.
        exchange: hands a report over and returns whether the run goes on.
        after: last step that was delivered.
    """

    def __init__(
        self,
        call: Call,
        storage: Path,
        restored: str | None,
        exchange: Callable[[Report], bool],
        after: int | None = None,
    ) -> None:
        self.id = call.proposal
        self.seed = call.seed
        self.restored = None if restored is None else storage / restored
        self._folder = storage / str(self.id)
        self._next = 0
        if self.restored is not None and self.restored.parent == self._folder and self.restored.name.isdigit():
            self._next = int(self.restored.name) + 1
        elif self.restored is not None and after is not None:
            # Another's checkpoint: what this run saved before may still be resumed from, and has lower numbers, since a
            # run saves at most once a step.
            self._next = after + 1
        self._written: Path | None = None
        self._step: int | None = None
        self._exchange = exchange

    def report(self, step: int, **metrics: float) -> None:
        """Reports metrics after ``step`` units of budget.

        Raises:
            ValueError: if the step does not grow from report to report.
            TrialStopped: if the scheduler stops the run here; to be let pass.
        """
        step = operator.index(step)
        if self._step is not None and step <= self._step:
            raise ValueError(f"steps must grow from report to report, got {step} after {self._step}")
        checkpoint = None if self._written is None else f"{self.id}/{self._written.name}"
        self._step, self._written = step, None
        if not self._exchange(Report(step, {name: float(value) for name, value in metrics.items()}, checkpoint)):
            raise TrialStopped

    def checkpoint(self) -> Path:
        """An empty folder to write a checkpoint into; it counts from the next report on."""
        folder = self._written
        if folder is None:
            folder = self._written = self._folder / str(self._next)
            self._next += 1
        if folder.exists():  # left by an attempt that was lost before it reported
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder


class Session:
    """One training run. Its code runs only while :meth:`advance` waits for it, in a thread of its own.

    Args:
        run: the training run, ``program.run`` with the call bound.
        call: the call.
        storage: folder for checkpoints.
        restored: newest checkpoint, relative to ``storage``.
        after: last step that was already delivered; reports up to it are not delivered again.
    """

    def __init__(
        self,
        run: Callable[[SessionTrial], Measurement],
        call: Call,
        storage: Path,
        restored: str | None = None,
        after: int | None = None,
    ) -> None:
        self._trial = SessionTrial(call, storage, restored, self._exchange, after)
        self._run = run
        self._after = after
        self._outbox: SimpleQueue[Report | Measurement | Failure] = SimpleQueue()
        self._inbox: SimpleQueue[bool] = SimpleQueue()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def advance(self) -> Report | Measurement | Failure:
        """Runs up to the next new report, or to the end."""
        while True:
            if self._thread is None:
                self._thread = threading.Thread(target=self._main, name=f"trial-{self._trial.id}", daemon=True)
                self._thread.start()
            else:
                self._inbox.put(True)
            outcome = self._outbox.get()
            if not isinstance(outcome, Report) or self._after is None or outcome.step > self._after:
                return outcome

    def stop(self, timeout_s: float = 30.0) -> None:
        """Ends the run at the report where it waits, and gives its ``finally`` blocks time to finish."""
        self._stopped = True
        if self._thread is not None and self._thread.is_alive():
            self._inbox.put(False)
            self._thread.join(timeout_s)

    def _exchange(self, report: Report) -> bool:
        if self._stopped:
            return False
        self._outbox.put(report)
        return self._inbox.get()

    def _main(self) -> None:
        try:
            self._outbox.put(attempt(self._run, self._trial))
        except TrialStopped:
            return
        except BaseException as error:  # noqa: BLE001 -- what user code raises must reach the driver, or it would wait forever
            self._outbox.put(failure_of(error))
