"""What a shard is computed from as one tree of tensors, and back: the arguments of a function that may be traced."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metasearch.core.contracts import Drawing, Learner
from metasearch.core.values import Batch, Losses, Phi, Task, Tensors

__all__ = ["detached", "packed", "unpacked"]

Tree = dict[str, Any]


def packed(phi: Phi, task: Task, learner: Learner, seed: int) -> Tree:
    """The tensors and buffers of phi, the tasks' examples, and what the learner would draw for them in training."""
    return {
        "tensors": dict(sorted(phi.tensors.items())),
        "buffers": dict(sorted(phi.buffers.items())),
        "support": [task.support.x, task.support.y],
        "query": [task.query.x, task.query.y],
        "drawn": learner.drawn(task, seed) if isinstance(learner, Drawing) else {},
    }


def unpacked(given: Tree, phi: Phi, task: Task) -> tuple[Phi, Task]:
    """``phi`` and ``task`` with the values of a tree that :func:`packed` made; all else is as it was there."""
    point = phi.replace(tensors=given["tensors"], buffers=given["buffers"])
    info = {**task.info, **given["drawn"]}
    return point, Task(Batch(*given["support"]), Batch(*given["query"]), task.seeds, info)


def detached(losses: Losses) -> Tree:
    """Losses as a tree of values: ``Losses(**tree)`` has them back."""

    def values(tensors: Tensors) -> Tensors:
        return {name: value.detach() for name, value in tensors.items()}

    objective: Tensor = losses.objective.detach()
    return {
        "objective": objective,
        "query": losses.query.detach(),
        "metrics": values(losses.metrics),
        "updates": values(losses.updates),
    }
