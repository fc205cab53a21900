"""Calls run in this process, one after another: the reference that the other executors must agree with."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metasearch.core.values import Call, Failure, Measurement, Report
from metasearch.execution.failures import attempt
from metasearch.execution.packing import Shared, pack, resolved, unpack
from metasearch.execution.sessions import Session, is_trial

if TYPE_CHECKING:
    from types import TracebackType

    from metasearch.core.contracts import Program

__all__ = ["Inline"]


class Inline:
    """Runs function calls and training runs here, without Ray.

    :meth:`submit` queues; :meth:`wait` does the work of one step: it answers one function call, or advances the
    training run at the head of the queue to its next report. There are no schedulers: every run goes to its end.

    Args:
        setup: makes the program; called once, before the first call.
        storage: folder for the checkpoints of training runs; a temporary one, removed by :meth:`close`, if None.
    """

    workers = 1

    def __init__(self, setup: Callable[[], Program], storage: Path | None = None) -> None:
        self._setup = setup
        self._storage = storage
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._program: Program | None = None
        self._queue: deque[Call] = deque()
        self._session: Session | None = None

    def put(self, value: Any) -> Shared:
        """A snapshot of a value; each call that refers to it gets a fresh copy."""
        return Shared(pack(value))

    def submit(self, call: Call) -> None:
        """Queues a call."""
        self._queue.append(call)

    def wait(self, timeout_s: float | None = None) -> list[tuple[Call, Report | Measurement | Failure]]:
        """One result of the call at the head of the queue; empty if nothing is queued. The time limit has no effect."""
        if not self._queue:
            return []
        call = self._queue[0]
        outcome = attempt(self._advance, call)
        if not isinstance(outcome, Report):
            self._queue.popleft()
            self._session = None
        return [(call, outcome)]

    def close(self) -> None:
        """Stops the training run in progress and drops what is queued."""
        if self._session is not None:
            self._session.stop()
            self._session = None
        self._queue.clear()
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def __enter__(self) -> Inline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _advance(self, call: Call) -> Report | Measurement | Failure:
        if self._program is None:
            self._program = self._setup()
        if self._session is None:
            call = resolved(unpack(pack(call)))
            if not is_trial(call):
                measurement: Measurement = unpack(pack(self._program.measure(call)))
                return measurement
            run = partial(self._program.run, call)
            self._session = Session(run, call, self._folder(), call.extra.get("restored"), call.extra.get("after"))
        return self._session.advance()

    def _folder(self) -> Path:
        if self._storage is not None:
            return self._storage
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="metasearch-trials-")
        return Path(self._temporary.name)
