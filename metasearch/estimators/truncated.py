"""The meta-gradient by backpropagation through a few inner steps at a time.

What a step owes to phi through the state it started from is left out where that state comes from an earlier evaluation:
cheap and short-sighted (Wu, Ren, Liao, Grosse 2018, arXiv:1803.02021, on the bias). This is how Andrychowicz et al.
2016, arXiv:1606.04474, train their optimizers: 20 steps at a time, of 100.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from metasearch.core.contracts import Learner
from metasearch.core.values import Call, Losses, Phi, Task, Tensors
from metasearch.estimators.trajectories import TruncatedEstimator, unrollable

__all__ = ["Truncated"]


class Truncated(TruncatedEstimator):
    """Exact gradient of what the objective is of the states within one truncation; biased for the whole of it."""

    def shard_losses(self, call: Call, phi: Phi, task: Task, learner: Learner) -> tuple[Losses, Tensors | None, Any]:
        inner = unrollable(learner, "evaluation.estimator")
        journey = self.journey(call, inner)
        leaves = {name: value.detach().requires_grad_() for name, value in phi.tensors.items()}
        point = phi.replace(tensors=leaves)
        with torch.enable_grad():
            state = journey.kept.get("state") or inner.begin(point, task, journey.seed)
            state, losses = inner.unroll(point, task, state, journey.seed, min(self.config.steps, journey.left))
            if losses.objective.requires_grad:
                found = torch.autograd.grad(losses.objective.sum(), list(leaves.values()), materialize_grads=True)
            else:
                found = tuple(torch.zeros_like(leaf) for leaf in leaves.values())
        gradient = dict(zip(leaves, found, strict=True))
        detached = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, state)
        return losses, gradient, self.onward(journey, {"state": detached}, [losses])
