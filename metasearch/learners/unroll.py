"""The inner loop from its first step to its last, and the objective over its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def unroll(
    problem: InnerProblem,
    phi: Phi,
    task: Task,
    seed: int,
    *,
    train: bool = True,
    create_graph: bool = True,
    weights: tuple[float, ...] | Tensor = FINAL,
    recompute: bool = False,
) -> Losses:
    """Runs an inner loop and takes its objective.

    Args:
        problem: the inner loop.
        phi: point at which the loop runs.
        task: what it runs on.
        seed: of all that is drawn besides the tasks.
        train: whether this is meta-training.
        create_graph: whether gradients inside the loop are functions of phi; else they are constants.
        weights: of the query losses after the last ``len(weights)`` steps; numbers, or a tensor.
        recompute: keep nothing of a step but where it ends, and compute it again on the way back. Values and gradients
            stay the same, memory hardly grows with the number of steps, time by about a half.

    Returns:
        The weighted sum as ``objective``, all else of the state after the last step.
    """
    state = problem.begin(phi, task, seed, train=train)
    steps = problem.n_steps(train=train)

    def advance(state: Any) -> Any:
        return problem.step(phi, task, state, seed, create_graph=create_graph)

    def on_the_way(state: Any) -> Tensor:
        return problem.query_loss(phi, task, state, seed).objective

    along: list[Tensor] = []
    for number in range(1, steps + 1):
        state = _kept(advance, state, recompute=recompute)
        if steps - len(weights) < number < steps:
            along.append(_kept(on_the_way, state, recompute=recompute))
    last = problem.query_loss(phi, task, state, seed if train else None)
    if not steps or (not isinstance(weights, Tensor) and weights == FINAL):
        return last
    objective = torch.stack([weights[i] * loss for i, loss in enumerate([*along, last.objective])]).sum(0)
    return Losses(objective, last.query, last.metrics, last.updates)


def _kept(function: Callable[[Any], Any], state: Any, *, recompute: bool) -> Any:
    if not recompute or not torch.is_grad_enabled():
        return function(state)
    # What a step draws comes from its seeds, so the generators' states need not be kept.
    return checkpoint(function, state, use_reentrant=False, preserve_rng_state=False)
