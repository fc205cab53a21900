"""The meta-gradient by backpropagation through the inner loop: exact (second order), or first order.

Exact: d/dphi of the mean objective, through every inner step (MAML, Eq. 1 of arXiv:1703.03400).
First order: inner gradients count as constants, which drops every term with a second derivative (Sec. 5.2 there).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from metasearch.core.contracts import Drawing, Learner
from metasearch.core.values import Batch, Call, Losses, Phi, Task, Tensors
from metasearch.estimators.episodes import EpisodeEstimator, Problem
from metasearch.estimators.graphs import Graphs

__all__ = ["Backprop", "FirstOrder"]


class Backprop(EpisodeEstimator):
    """Exact gradient of the objective with respect to all tensors of phi."""

    gives_gradient: ClassVar[bool] = True
    create_graph: ClassVar[bool] = True

    def __init__(self, config: Any, problem: Problem, function: str = "train") -> None:
        super().__init__(config, problem, function)
        self._graphs = Graphs(problem.compile)

    def shard_losses(self, call: Call, phi: Phi, task: Task, learner: Learner) -> tuple[Losses, Tensors | None, Any]:
        names = sorted(phi.tensors)
        buffers = sorted(phi.buffers)
        drawn = learner.drawn(task, call.seed) if isinstance(learner, Drawing) else {}
        arrays = [task.support.x, task.support.y, task.query.x, task.query.y, *drawn.values()]
        layout: dict[str, list[str]] = {}

        def gradients(flat: list[Tensor]) -> tuple[Tensor, ...]:
            """(tensors, buffers, support x, y, query x, y, draws) -> (objective, query, metrics, updates, gradient)."""
            given = flat[len(flat) - len(arrays) :]
            leaves = [value.detach().requires_grad_() for value in flat[: len(names)]]
            point = phi.replace(
                tensors=dict(zip(names, leaves, strict=True)),
                buffers=dict(zip(buffers, flat[len(names) : len(flat) - len(arrays)], strict=True)),
            )
            info = {**task.info, **dict(zip(drawn, given[4:], strict=True))}
            episode = Task(Batch(*given[:2]), Batch(*given[2:4]), task.seeds, info)
            with torch.enable_grad():
                losses = learner.evaluate(point, episode, call.seed, train=True, create_graph=self.create_graph)
                found = torch.autograd.grad(losses.objective.sum(), leaves, allow_unused=True)
            layout["metrics"], layout["updates"] = sorted(losses.metrics), sorted(losses.updates)
            filled = [torch.zeros_like(leaf) if one is None else one for leaf, one in zip(leaves, found, strict=True)]
            return (
                losses.objective.detach(),
                losses.query.detach(),
                *(losses.metrics[name].detach() for name in layout["metrics"]),
                *(losses.updates[name].detach() for name in layout["updates"]),
                *filled,
            )

        flat = [phi.tensors[name] for name in names] + [phi.buffers[name] for name in buffers] + arrays
        if getattr(learner, "traceable", False):
            key = (self.create_graph, tuple(sorted(phi.choices.items(), key=str)))
            (objective, query, *rest), layout = self._graphs.call(gradients, flat, key, layout)
        else:
            objective, query, *rest = gradients(flat)
        metrics = dict(zip(layout["metrics"], rest, strict=False))
        rest = rest[len(metrics) :]
        updates = dict(zip(layout["updates"], rest, strict=False))
        found = dict(zip(names, rest[len(updates) :], strict=True))
        return Losses(objective, query, metrics, updates), found, None


class FirstOrder(Backprop):
    """The gradient with inner gradients as constants; biased, and cheaper by the double backward pass."""

    create_graph: ClassVar[bool] = False
