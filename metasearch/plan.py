"""Evaluations as the record holds them, and what the loop is told and keeps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from metasearch.core.errors import ExecutionError, ResumeError
from metasearch.core.values import (
    Call,
    Change,
    Estimate,
    Evaluation,
    Failure,
    Measurement,
    Member,
    Proposal,
    Report,
    fingerprint,
)

__all__ = [
    "Ask",
    "Evaluator",
    "Journal",
    "Plan",
    "Record",
    "Store",
    "changes_of",
    "compare",
    "detail_of",
    "fields_of",
    "from_record",
    "merit",
]

Record = dict[str, Any]


class Evaluator(Protocol):
    """The estimator as the driver sees it."""

    gives_gradient: bool
    carries: bool
    shard: int

    def calls(self, proposal: int, phi: Any, carried: Sequence[Any] | None, seed: int) -> list[Call]: ...

    def combine(self, measurements: Sequence[Measurement]) -> tuple[Estimate, list[Any] | None]: ...


class Journal(Protocol):
    """Where the record goes; what has been appended outlives the process, and the machine after :meth:`sync`."""

    @property
    def elapsed(self) -> float: ...

    def append(self, type: str, /, **fields: Any) -> Record: ...

    def sync(self) -> None: ...


class Store(Protocol):
    """Where checkpoints go."""

    def save_checkpoint(self, step: int, tree: Any, *, best: bool = False) -> Path: ...


@dataclass(frozen=True)
class Plan:
    """What the loop is told.

    Args:
        seed: seed of the search; everything drawn derives from it.
        batch: proposals in one ask.
        in_flight: asks worked on at a time.
        steps, evaluations, seconds: the budget, whichever ends first.
        validate_every: outer steps between validations; None for no validation.
        select: ``L`` (lowest is best) or a metric (highest is best).
        checkpoint_every: outer steps between checkpoints.
        max_failures: failed proposals in a row that end a search over choices.
        population: whether training runs are members of a population, which go on together from its last change.
        interruptible: whether a stop leaves evaluations in flight to the next driver (long ones) instead of finishing
            them.
    """

    seed: int
    batch: int = 1
    in_flight: int = 1
    steps: int | None = None
    evaluations: int | None = None
    seconds: float | None = None
    validate_every: int | None = None
    select: str = "L"
    checkpoint_every: int = 100
    max_failures: int = 5
    interruptible: bool = False
    population: bool = False


@dataclass
class Ask:
    """Proposals that were asked for together and are told together, and what has arrived for them."""

    step: int
    proposals: list[Proposal]
    evaluations: dict[int, Evaluation] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.evaluations) == len(self.proposals)

    def in_order(self) -> list[Evaluation]:
        return [self.evaluations[proposal.id] for proposal in self.proposals]


def merit(validation: Mapping[str, Any], select: str) -> float:
    """What a validation is judged by, higher is better: minus ``L``, or a metric.

    Raises:
        ExecutionError: if the tasks do not measure the metric.
    """
    if select == "L":
        return -float(validation["L"])
    if select not in validation["metrics"]:
        raise ExecutionError(
            f"validation.select is {select!r}; the tasks measure: L, {', '.join(validation['metrics'])}"
        )
    return float(validation["metrics"][select])


def fields_of(evaluation: Evaluation) -> Record:
    """What the record keeps of an evaluation: of a gradient, its norm and its hash."""
    estimate, failure = evaluation.estimate, evaluation.failure
    gradient = None
    if estimate.gradient is not None:
        norm = math.sqrt(sum(float(value.double().square().sum()) for value in estimate.gradient.values()))
        gradient = {"norm": norm, "hash": fingerprint(estimate.gradient)}
    return {
        "id": evaluation.proposal.id,
        "status": evaluation.status,
        "L": estimate.value,
        "objective": estimate.objective,
        "metrics": dict(estimate.metrics),
        "tasks": int(estimate.per_task.size),
        "seconds": evaluation.seconds,
        "gradient": gradient,
        "diverged": list(estimate.diverged),
        "failure": None if failure is None else {"kind": failure.kind, "message": failure.message},
    }


def from_record(proposal: Proposal, record: Record, reports: Sequence[Report]) -> Evaluation:
    """A recorded evaluation; of a gradient, the record keeps no more than norm and hash, so it has none."""
    failure = record["failure"] and Failure(record["failure"]["kind"], record["failure"]["message"])
    estimate = Estimate(record["L"], record["objective"], record["metrics"], diverged=tuple(record["diverged"]))
    return Evaluation(proposal, record["status"], estimate, record["seconds"], tuple(reports), failure or None)


def changes_of(records: Iterable[Record]) -> list[Change]:
    """What the record says of a population, in order."""
    details = [one["detail"] for one in records if one["type"] == "event" and one["event"] == "population"]
    return [
        Change(
            detail["step"],
            {
                int(number): Member(one["source"], one["choices"], one["checkpoint"])
                for number, one in detail["members"].items()
            },
        )
        for detail in details
    ]


def detail_of(change: Change) -> Record:
    """What the record keeps of a change."""
    members = {
        str(number): {"source": one.source, "choices": dict(one.choices), "checkpoint": one.checkpoint}
        for number, one in change.members.items()
    }
    return {"step": change.step, "members": members}


def compare(record: Record, fields: Record) -> None:
    """Raises ResumeError if an evaluation computed again is not what the record says, bit for bit."""
    before, now = (repr((one["L"], one["objective"], one["gradient"])) for one in (record, fields))
    if before != now:
        raise ResumeError(
            f"evaluation {record['id']}, computed again, gives L = {fields['L']!r} (gradient {fields['gradient']}); "
            f"the record has L = {record['L']!r} (gradient {record['gradient']}). The hardware, the versions or the "
            f"configuration differ from the first start, so the search cannot be continued exactly"
        )
