"""Function calls on a pool of Ray actors: less than a millisecond of overhead a call, lost workers replaced.

The driver holds the queue. An actor is given one call, and a second one ahead only while calls are short and plenty are
waiting: then it never idles, yet no call waits behind a long one while another actor is free.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from metasearch.core.errors import ExecutionError, UnsupportedError
from metasearch.core.values import Call, Failure, Measurement, Report
from metasearch.execution.cluster import require_resources, start_ray, worker_environment
from metasearch.execution.failures import failure_of
from metasearch.execution.losses import lost_failure
from metasearch.execution.packing import Shared, pack, unpack
from metasearch.execution.sessions import is_trial
from metasearch.execution.worker import Worker

if TYPE_CHECKING:
    from types import TracebackType

    from metasearch.core.contracts import Program

__all__ = ["Actors"]

_SHORT_S = 0.1  # calls below this are sent ahead
_CONTROL_S = 60.0  # for fetching what Ray has said is there
_BACK_OFF_S = (0.1, 5.0)  # wait before a worker is replaced: first, longest


@dataclass(eq=False)
class _Job:
    """A call on its way, packed once however often it is repeated."""

    call: Call
    packed: bytes
    references: tuple[dict[str, Any], ...]
    repeats: int = 0


@dataclass(eq=False)
class _Slot:
    """A place in the pool: an actor, or the wait for the next one."""

    actor: Any = None
    starting: Any = None
    pid: int | None = None
    jobs: dict[Any, _Job] = field(
        default_factory=dict
    )  # by result reference, in the order in which the actor runs them
    since: float = 0.0
    losses: int = 0
    retry_at: float = 0.0

    @property
    def live(self) -> bool:
        return self.actor is not None and self.starting is None


class Actors:
    """Runs function calls on Ray actors, each with a program of its own.

    A call whose worker or node dies is repeated, on a new worker if need be; the same call gives the same answer
    wherever and however often it runs. If the head node dies, Ray ends this process without an exception (see
    :func:`~metasearch.execution.cluster.start_ray`).

    Args:
        setup: makes the program, once a worker; pickled by value where it cannot be imported.
        workers: number of actors.
        gpus_per_worker: share of a GPU; 0.5 puts two workers on one.
        cpus_per_worker: CPUs that Ray reserves for one worker.
        address: of a running cluster; None starts Ray on this machine (or uses the one this process is connected to).
        environment: variables for the workers, over the package's own.
        threads: of one worker's numerical libraries.
        max_repeats: how often a call is repeated after the loss of its worker before it counts as lost.
        working_dir: folder of the user's own modules, shipped to the hosts of a cluster.

    Raises:
        ExecutionError: if the connected local Ray is too small for the pool.
    """

    def __init__(
        self,
        setup: Callable[[], Program],
        workers: int,
        *,
        gpus_per_worker: float = 0,
        cpus_per_worker: float = 1,
        address: str | None = None,
        environment: Mapping[str, str] | None = None,
        threads: int = 1,
        max_repeats: int = 5,
        working_dir: Path | None = None,
    ) -> None:
        if workers < 1:
            raise ExecutionError(f"a pool needs at least 1 worker, got {workers}; set execution.workers to 1 or more")
        local = address in (None, "local")
        variables = worker_environment(threads, environment, local=local)
        self._ray = start_ray(
            workers,
            workers * gpus_per_worker,
            address,
            cpus_per_worker=cpus_per_worker,
            environment=variables,
            working_dir=working_dir,
        )
        if local:
            require_resources(workers, cpus_per_worker, gpus_per_worker)
        self.workers = workers
        self._setup = cloudpickle.dumps(setup)
        self._threads = threads
        self._max_repeats = max_repeats
        options = {"num_cpus": cpus_per_worker, "num_gpus": gpus_per_worker, "runtime_env": {"env_vars": variables}}
        self._factory = ray.remote(Worker).options(max_restarts=0, max_task_retries=0, **options)
        self._pending: deque[_Job] = deque()
        self._arrived: list[tuple[Call, Report | Measurement | Failure]] = []
        self._seconds = 0.0  # a call's duration, smoothed
        self._slots = [_Slot() for _ in range(workers)]
        for slot in self._slots:
            self._start(slot)

    def put(self, value: Any) -> Shared:
        """Stores a value once for all workers; each call that refers to it gets a fresh copy of its tensors."""
        return Shared(ray.put(pack(value)))

    def submit(self, call: Call) -> None:
        """Queues a function call.

        Raises:
            UnsupportedError: for a training run, which needs reports.
        """
        if is_trial(call):
            raise UnsupportedError(
                "execution.type", "actors run function calls only; training runs need 'trials' or 'inline'"
            )
        given = {"phi": call.phi, "carried": call.carried}
        put = {name: value.content for name, value in given.items() if isinstance(value, Shared)}
        without: dict[str, Any] = dict.fromkeys(put)
        own = replace(call, **without)
        self._pending.append(_Job(call, pack(own), (put,) if put else ()))
        self._assign()

    def wait(self, timeout_s: float | None = None) -> list[tuple[Call, Report | Measurement | Failure]]:
        """What has arrived; empty when the time is over, or when no call is queued or running."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._arrived and (self._pending or any(slot.jobs for slot in self._slots)):
            self._turn(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if deadline is not None and time.monotonic() >= deadline:
                break
        arrived, self._arrived = self._arrived, []
        return arrived

    def pids(self, timeout_s: float = 60.0) -> list[int]:
        """Process ids of the workers, waiting until all of them run.

        Raises:
            ExecutionError: if they do not start in time.
        """
        deadline = time.monotonic() + timeout_s
        while not all(slot.live for slot in self._slots):
            if time.monotonic() > deadline:
                raise ExecutionError(
                    f"not all of {self.workers} workers started within {timeout_s:g} s; is the cluster large enough?"
                )
            self._turn(0.1)
        return [slot.pid for slot in self._slots if slot.pid is not None]

    def close(self) -> None:
        """Ends the workers, and the local Ray if this pool started it; queued and running calls are dropped."""
        for slot in self._slots:
            self._drop(slot)
        self._pending.clear()
        self._arrived.clear()
        self._ray.close()

    def __enter__(self) -> Actors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _turn(self, timeout_s: float | None) -> None:
        """Waits for the next thing to happen, then takes in all that has."""
        now = time.monotonic()
        for slot in self._slots:
            if slot.actor is None and slot.retry_at <= now:
                self._start(slot)
        due = [max(0.0, slot.retry_at - now) for slot in self._slots if slot.actor is None]
        pause = min([*due, *([] if timeout_s is None else [timeout_s])], default=None)
        events = dict(self._events())
        if events:
            self._take(events, pause)
        else:
            time.sleep(pause or 0.0)
        self._assign()

    def _events(self) -> Iterator[tuple[Any, _Slot]]:
        for slot in self._slots:
            if slot.starting is not None:
                yield slot.starting, slot
            for reference in slot.jobs:
                yield reference, slot

    def _take(self, events: dict[Any, _Slot], timeout_s: float | None) -> None:
        first, rest = ray.wait(list(events), num_returns=1, timeout=timeout_s)
        more = ray.wait(rest, num_returns=len(rest), timeout=0)[0] if first and rest else []
        for reference in (*first, *more):
            slot = events[reference]
            if reference is slot.starting:
                self._started(slot)
            elif reference in slot.jobs:  # else its worker was found lost a moment ago
                self._answered(slot, reference)

    def _assign(self) -> None:
        """Gives queued calls to the least busy actors."""
        live = [slot for slot in self._slots if slot.live]
        while self._pending and live:
            slot = min(live, key=lambda slot: len(slot.jobs))
            ahead = self._seconds < _SHORT_S and len(self._pending) > len(live)
            if len(slot.jobs) >= (2 if ahead else 1):
                return
            job = self._pending.popleft()
            if not slot.jobs:
                slot.since = time.monotonic()
            slot.jobs[slot.actor.measure.remote(job.packed, *job.references)] = job

    def _answered(self, slot: _Slot, reference: Any) -> None:
        try:
            outcome: Measurement | Failure = unpack(ray.get(reference, timeout=_CONTROL_S))
        except RayTaskError as error:  # outside of the program: fetching what the call refers to, or sending the answer
            if isinstance(error.cause, RayError):
                self._lost(slot, error.cause)
                return
            outcome = failure_of(error)
        except OutOfMemoryError as error:
            self._finish(slot, reference, lost_failure(error, "its host ran out of memory"))
            self._lost(slot, error)
            return
        except RayError as error:
            self._lost(slot, error)
            return
        now = time.monotonic()
        self._seconds += 0.2 * (now - slot.since - self._seconds)
        slot.since, slot.losses = now, 0
        self._finish(slot, reference, outcome)

    def _finish(self, slot: _Slot, reference: Any, outcome: Measurement | Failure) -> None:
        self._arrived.append((slot.jobs.pop(reference).call, outcome))

    def _start(self, slot: _Slot) -> None:
        slot.actor = self._factory.remote(self._setup, self._threads)
        slot.starting = slot.actor.start.remote()

    def _started(self, slot: _Slot) -> None:
        try:
            slot.pid, failure = ray.get(slot.starting, timeout=_CONTROL_S)
        except RayError as error:
            self._lost(slot, error)
            if slot.losses > self._max_repeats and not any(other.live for other in self._slots):
                self._fail_pending(lost_failure(error, f"workers died {slot.losses} times while they started"))
            return
        slot.starting = None
        if failure is not None:
            self._drop(slot)
            self._fail_pending(failure)

    def _fail_pending(self, failure: Failure) -> None:
        """Answers all that is queued, since no worker can be had; the next call tries again."""
        self._arrived.extend((job.call, failure) for job in self._pending)
        self._pending.clear()
        for slot in self._slots:
            slot.losses = 0

    def _lost(self, slot: _Slot, error: RayError) -> None:
        """Puts a dead worker's calls back to the front, and its replacement off for a while.

        Only the first of its calls was running: the other is not held responsible.
        """
        jobs = list(slot.jobs.values())
        self._drop(slot)
        slot.retry_at = time.monotonic() + min(_BACK_OFF_S[0] * 2.0**slot.losses, _BACK_OFF_S[1])
        slot.losses += 1
        if jobs and jobs[0].repeats >= self._max_repeats:
            job = jobs.pop(0)
            failure = lost_failure(error, f"its worker died in each of {job.repeats + 1} attempts")
            self._arrived.append((job.call, failure))
        elif jobs:
            jobs[0].repeats += 1
        self._pending.extendleft(reversed(jobs))

    def _drop(self, slot: _Slot) -> None:
        if slot.actor is not None:
            ray.kill(slot.actor, no_restart=True)
        slot.actor = slot.starting = slot.pid = None
        slot.jobs = {}
