"""The values that travel between the parts: tasks, phi, proposals, calls, measurements, estimates, evaluations.

Shapes are written with ``T`` for the leading task axis; every array of a :class:`Task` has it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "Batch",
    "Call",
    "Change",
    "Estimate",
    "Evaluation",
    "Failure",
    "Losses",
    "Measurement",
    "Member",
    "Phi",
    "Proposal",
    "Report",
    "Task",
    "TaskSpec",
    "Tensors",
    "fingerprint",
]

Tensors = dict[str, Tensor]
"""Tensors by dotted name."""

Purpose = Literal["train", "validation", "test"]
Status = Literal["ok", "diverged", "failed"]
FailureKind = Literal["user_error", "out_of_memory", "lost", "preempted"]


@dataclass(frozen=True)
class TaskSpec:
    """What all tasks of one split look like, without the leading task axis.

    Args:
        kind: ``classification`` (``y`` holds int64 class indexes below ``outputs``), ``regression`` (``y`` holds floats
            ``[outputs]``) or any other word, for which the distribution brings its own ``loss``.
        input_shape: shape of one example.
        outputs: number of classes ("ways"), or of regressed values.
        support: support examples a task.
        query: query examples a task.
        loss: ``loss(predictions [T, n, ...], targets [T, n, ...]) -> [T, n]``; None picks cross-entropy or squared
            error by ``kind``.
        environment: the world that trajectories are made in (:class:`~metasearch.core.contracts.Environment`), for
            tasks whose examples are trajectories; None for all others.
    """

    kind: str
    input_shape: tuple[int, ...]
    outputs: int
    support: int
    query: int
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    environment: Any = None


@dataclass(frozen=True)
class Batch:
    """Examples of a group of tasks.

    ``x`` is ``[T, n, *input_shape]``, ``y`` is ``[T, n]`` (int64) or ``[T, n, outputs]``.
    """

    x: Tensor
    y: Tensor

    def to(self, device: torch.device | str) -> Batch:
        return Batch(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Task:
    """A group of tasks, stacked: what the inner loop learns from, and what it is judged on.

    Args:
        support: what F_phi trains on.
        query: what L(phi) is measured on; shares no example with ``support``.
        seeds: ``[T]`` int64, the seeds these tasks were sampled from: the same seed gives the same task, anywhere.
        info: further arrays ``[T, ...]``: what describes the tasks (class numbers, amplitudes ...), for reports; and
            ``unlabelled`` ``[T, u, *input_shape]``, examples without a label, for learners that use them.
    """

    support: Batch
    query: Batch
    seeds: NDArray[np.int64]
    info: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.seeds.shape[0])


@dataclass(frozen=True)
class Phi:
    """The meta-parameters: everything about learning that is not fixed.

    Args:
        tensors: what a gradient may lower L with respect to, named ``slot.name`` (``initialization.conv1.weight``).
        buffers: state that is learned without a gradient (running statistics), named likewise; an evaluation returns
            their next values as ``updates``.
        choices: values of a :class:`~metasearch.core.space.Space`, by dotted path.
    """

    tensors: Tensors = field(default_factory=dict)
    buffers: Tensors = field(default_factory=dict)
    choices: Mapping[str, Any] = field(default_factory=dict)

    def part(self, slot: str) -> Tensors:
        """The tensors of one slot, their names without the slot."""
        return _part(self.tensors, slot)

    def buffers_of(self, slot: str) -> Tensors:
        """The buffers of one slot, their names without the slot."""
        return _part(self.buffers, slot)

    def replace(self, **changes: Any) -> Phi:
        """A copy with some fields exchanged."""
        return dataclasses.replace(self, **changes)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Phi:
        """A copy on another device; floating tensors also change to ``dtype`` if one is given."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if dtype is not None and tensor.is_floating_point() else None)

        return Phi(
            {name: move(value) for name, value in self.tensors.items()},
            {name: move(value) for name, value in self.buffers.items()},
            self.choices,
        )


@dataclass(frozen=True)
class Losses:
    """What a learner says about a group of tasks under phi.

    Args:
        objective: ``[T]``, what phi descends.
        query: ``[T]``, l(T; F_phi(support)): what is reported as L.
        metrics: ``[T]`` each, for example ``accuracy``.
        updates: next values of phi's buffers, averaged over the tasks.
    """

    objective: Tensor
    query: Tensor
    metrics: Tensors = field(default_factory=dict)
    updates: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class Proposal:
    """A point at which a searcher wants L to be known.

    Args:
        id: number within the run, counted from 0.
        choices: values of the space (empty for a pure gradient step, whose point is the current phi).
        seed: seed of this evaluation; it fixes the tasks and all that happens on them.
    """

    id: int
    seed: int
    choices: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One piece of work for a worker; it carries all it needs, so it may be repeated anywhere.

    Args:
        proposal: the proposal (or validation, or test evaluation) it belongs to.
        index: place among the calls of its evaluation; reductions run in this order.
        function: which function of the worker's program measures it (an estimator's name).
        phi: phi or an executor's reference to it.
        seeds: task seeds, one a task of this shard.
        seed: seed for what is drawn besides the tasks.
        split: split that tasks come from.
        step: outer step of the search, for what changes on its way; 0 outside of a search.
        carried: estimator state of this shard from the step before, or a reference.
        extra: what an estimator adds (a perturbation's seed and sign, a step count ...): plain values only.
    """

    proposal: int
    index: int
    function: str
    phi: Any
    seeds: tuple[int, ...]
    seed: int
    split: str = "train"
    step: int = 0
    carried: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """A worker's answer to one call.

    Args:
        objective: ``[T]`` float64, one entry a task of the shard.
        query: ``[T]`` float64.
        metrics: ``[T]`` float64 each.
        gradient: sum over the shard's tasks of the gradient (or update direction) of the objective, or None.
        updates: the shard's mean of the buffer updates.
        carried: estimator state of this shard for the next step.
        seconds: time the worker spent.
        extra: what the estimator's own reduction needs besides (the seeds of perturbations ...): plain values only.
    """

    objective: NDArray[np.float64]
    query: NDArray[np.float64]
    metrics: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    gradient: Tensors | None = None
    updates: Tensors = field(default_factory=dict)
    carried: Any = None
    seconds: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """Why a call has no measurement.

    Args:
        kind: ``user_error`` (the code raised; repeating it will not help), ``out_of_memory``, ``lost`` (the worker or
            node died) or ``preempted``.
        message: one line for a person.
        traceback: the worker's traceback, if there is one.
    """

    kind: FailureKind
    message: str
    traceback: str = ""


@dataclass(frozen=True)
class Report:
    """An intermediate result of a training run: its metrics after ``step`` units of budget."""

    step: int
    metrics: Mapping[str, float]
    checkpoint: str | None = None


@dataclass(frozen=True)
class Member:
    """How a training run of a population goes on.

    Args:
        source: the proposal whose state it takes over; its own number if it keeps its own.
        choices: under which it goes on.
        checkpoint: where it goes on from, relative to the folder of all checkpoints.
    """

    source: int
    choices: Mapping[str, Any]
    checkpoint: str


@dataclass(frozen=True)
class Change:
    """What happened to a population after ``step`` units of budget: its members by proposal, all of them."""

    step: int
    members: Mapping[int, Member]


@dataclass(frozen=True)
class Estimate:
    """What one evaluation found out about L at one point.

    Args:
        value: L(phi), the mean of ``query`` over tasks; nan or inf are kept.
        objective: mean of what phi descends.
        metrics: means over tasks.
        per_task: query losses ``[tasks]``.
        gradient: mean gradient or direction over tasks, or None.
        updates: next values of phi's buffers.
        diverged: indexes of tasks whose loss or gradient is not finite.
    """

    value: float
    objective: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    per_task: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    gradient: Tensors | None = None
    updates: Tensors = field(default_factory=dict)
    diverged: tuple[int, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """A proposal and what became of it; the record's unit."""

    proposal: Proposal
    status: Status
    estimate: Estimate
    seconds: float = 0.0
    reports: tuple[Report, ...] = ()
    failure: Failure | None = None

    @property
    def value(self) -> float:
        """L(phi); nan where the evaluation failed."""
        return self.estimate.value

    @property
    def finite(self) -> bool:
        return self.status == "ok" and math.isfinite(self.estimate.value)


def fingerprint(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> str:
    """A hash of names, dtypes, shapes and bytes: equal exactly when the tensors are equal bit for bit.

    >>> fingerprint({"a": torch.zeros(2)}) == fingerprint({"a": torch.zeros(2)})
    True
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(dict(tensors).items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{array.dtype}|{tuple(array.shape)}|".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _part(tensors: Mapping[str, Tensor], slot: str) -> Tensors:
    prefix = slot + "."
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
