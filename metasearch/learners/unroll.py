"""Steps of an inner loop one after the other, and the objective over the states that they lead to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from metasearch.core.config import Config as BaseConfig
from metasearch.core.contracts import InnerProblem
from metasearch.core.values import Losses, Phi, Task

__all__ = ["FINAL", "Annealed", "unroll"]

FINAL = (1.0,)
"""Weights of an objective that is the query loss after the last step."""


class Annealed(BaseConfig):
    """Weights that go from all steps to the last one: the multi-step loss.

    MAML++ (Antoniou, Edwards, Storkey 2019, arXiv:1810.09502), as its published code has it: of S steps each weighs 1/S
    at first; the weights of all but the last fall in equal parts to ``floor`` / S while the last takes what they lose;
    from outer step ``until`` on, only the last counts.

    Args:
        until: outer steps that it takes.
        every: outer steps between two changes of the weights (an epoch of the published code).
        floor: what the weights of the earlier steps do not fall below, in units of 1/S.
    """

    until: PositiveInt
    every: PositiveInt = 1
    floor: NonNegativeFloat = 0.03

    def weights(self, steps: int, outer_step: int) -> tuple[float, ...]:
        """One weight for each inner step; :data:`FINAL` when it is over.

        >>> Annealed(until=10, every=5).weights(2, 0), Annealed(until=10, every=5).weights(2, 7)
        ((0.5, 0.5), (0.25, 0.75))
        """
        if outer_step >= self.until or steps < 2:
            return FINAL
        done = outer_step // self.every * self.every / self.until
        earlier = max(1.0 - done, self.floor) / steps
        last = min((1.0 + (steps - 1) * done) / steps, 1.0 - (steps - 1) * self.floor / steps)
        return (*(earlier,) * (steps - 1), last)


class Trajectory(InnerProblem, Protocol):
    """An inner problem whose states may be judged by the training loss that the next step computes anyway."""

    def coming_loss(self, phi: Phi, task: Task, state: Any, seed: int) -> Tensor:
        """``[T]``, the loss on the support examples of the step that comes next; after that step it is the entry
        ``loss`` of the state.
        """
        ...


def unroll(
    problem: Trajectory,
    phi: Phi,
    task: Task,
    state: Any,
    seed: int,
    steps: int,
    *,
    weights: Sequence[float] | Tensor = FINAL,
    along: Literal["query", "support"] = "query",
    train: bool = True,
    create_graph: bool = True,
    recompute: bool = False,
) -> tuple[Any, Losses]:
    """Takes inner steps and the objective of the states that they lead to.

    Args:
        problem: the inner loop.
        phi: point at which it runs.
        task: what it runs on.
        state: where the steps begin.
        seed: of all that is drawn besides the tasks.
        steps: how many.
        weights: of the losses of the last ``len(weights)`` states; numbers, of which those that are 0 cost nothing, or
            a tensor. Without a step the last one counts for the state at hand.
        along: whose losses these are, of the query set or of the support examples of the step that comes next.
        train: whether this is meta-training.
        create_graph: whether gradients inside the loop are functions of phi; else they are constants.
        recompute: keep nothing of a step but where it ends, and compute it again on the way back. Values and gradients
            stay the same, memory hardly grows with the number of steps, time by about a half.

    Returns:
        The last state, and its losses with the weighted sum as ``objective``.
    """

    def advance(state: Any) -> Any:
        return problem.step(phi, task, state, seed, create_graph=create_graph)

    def on_the_way(state: Any) -> Tensor:
        return problem.query_loss(phi, task, state, seed).objective

    counting = {
        number: weight
        for number, weight in enumerate(weights, start=max(steps, 1) - len(weights) + 1)
        if isinstance(weight, Tensor) or weight
    }
    last_one = counting.get(max(steps, 1))
    share: list[Tensor] = []
    for number in range(1, steps + 1):
        state = _kept(advance, state, recompute=recompute)
        if along == "support" and number - 1 in counting:
            share.append(counting[number - 1] * state["loss"])
        if along == "query" and number < steps and number in counting:
            share.append(counting[number] * _kept(on_the_way, state, recompute=recompute))
    if along == "support":
        with torch.no_grad():
            last = problem.query_loss(phi, task, state, seed)
        share += [] if last_one is None else [last_one * problem.coming_loss(phi, task, state, seed)]
    else:
        last = problem.query_loss(phi, task, state, seed if train else None)
        share += [] if last_one is None else [last_one * last.objective]
    objective = torch.stack(share).sum(0) if share else torch.zeros_like(last.query)
    return state, Losses(objective, last.query, last.metrics, last.updates)


def _kept(function: Callable[[Any], Any], state: Any, *, recompute: bool) -> Any:
    if not recompute or not torch.is_grad_enabled():
        return function(state)
    # What a step draws comes from its seeds, so the generators' states need not be kept.
    return checkpoint(function, state, use_reentrant=False, preserve_rng_state=False)
