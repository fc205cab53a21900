"""All answers of one evaluation, in call order: what a reduction that must not depend on arrival starts from."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from metasearch.core.errors import ExecutionError
from metasearch.core.values import Call, Change, Failure, Measurement, Report

if TYPE_CHECKING:
    from metasearch.core.contracts import Executor

__all__ = ["CallFailedError", "gather"]

_ADVICE = {
    "user_error": "repeating it will not help; mend what the traceback names",
    "out_of_memory": "use a smaller evaluation.shard, fewer workers per device, or a device with more memory",
    "lost": "see why its workers die (memory of the host, a crash in native code), then resume the run",
    "preempted": "its nodes were taken away; resume the run when there are nodes again",
}


class CallFailedError(ExecutionError):
    """A call ended without a measurement.

    Args:
        call: the call.
        failure: why; its ``kind`` tells a user's error, memory and lost workers apart.
    """

    def __init__(self, call: Call, failure: Failure) -> None:
        trace = f"\n\nOn the worker:\n{failure.traceback.rstrip()}" if failure.traceback else ""
        super().__init__(
            f"call {call.index} ({call.function!r}) of proposal {call.proposal} gave no measurement [{failure.kind}]: "
            f"{failure.message}; {_ADVICE[failure.kind]}{trace}"
        )
        self.call = call
        self.failure = failure


def gather(executor: Executor, calls: Sequence[Call]) -> list[Measurement]:
    """Submits calls and waits for all of them.

    Args:
        executor: where they run; nothing else may be in flight on it.
        calls: the calls; reports of training runs among them are passed over.

    Returns:
        One measurement a call, in the order of ``calls``.

    Raises:
        CallFailedError: once all calls have ended, for the first in call order that failed.
        ExecutionError: if the executor answers a call that was not submitted here, or stops answering.
    """
    places: defaultdict[int, deque[int]] = defaultdict(deque)
    for place, call in enumerate(calls):
        places[id(call)].append(place)
        executor.submit(call)
    outcomes: dict[int, Measurement | Failure] = {}
    while len(outcomes) < len(calls):
        arrived = executor.wait()
        if not arrived:
            raise ExecutionError(
                f"the executor answered {len(outcomes)} of {len(calls)} calls and is idle; was it closed?"
            )
        for call, outcome in arrived:
            if isinstance(outcome, Report | Change):
                continue
            if not places[id(call)]:
                raise ExecutionError(
                    f"got an answer for call {call.index} of proposal {call.proposal}, which was submitted elsewhere; "
                    "wait for that one first"
                )
            outcomes[places[id(call)].popleft()] = outcome
    measurements = []
    for place, call in enumerate(calls):
        outcome = outcomes[place]
        if isinstance(outcome, Failure):
            raise CallFailedError(call, outcome)
        measurements.append(outcome)
    return measurements
