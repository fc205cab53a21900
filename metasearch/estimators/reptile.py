"""Reptile: the way that training on a task takes the initialization, as a direction for the outer step."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from metasearch.core.contracts import InnerProblem, Learner
from metasearch.core.errors import UnsupportedError
from metasearch.core.values import Call, Losses, Phi, Task, Tensors
from metasearch.estimators.episodes import EpisodeEstimator, Problem
from metasearch.estimators.graphs import Graphs
from metasearch.estimators.packed import detached, packed, unpacked

__all__ = ["Reptile"]

_SLOT = "initialization."


class Reptile(EpisodeEstimator):
    """phi - theta_k, to be descended like a gradient: SGD with rate eps gives phi + eps * mean(theta_k - phi).

    Nichol, Achiam, Schulman 2018, arXiv:1803.02999, Algorithm 1 (batched). It has no query set; the query loss at
    theta_k is measured and reported all the same.

    Raises:
        UnsupportedError: by :meth:`check`, for a learner without an inner loop, or with learned tensors besides the
            initialization.
    """

    gives_gradient: ClassVar[bool] = True

    def __init__(self, config: Any, problem: Problem, function: str = "train") -> None:
        super().__init__(config, problem, function)
        self._graphs = Graphs(problem.compile)

    def check(self, learner: Learner, phi: Phi) -> None:
        if not isinstance(learner, InnerProblem):
            raise UnsupportedError(
                "evaluation.estimator", f"reptile needs an inner loop, which {type(learner).__name__} does not open"
            )
        if other := sorted(name for name in phi.tensors if not name.startswith(_SLOT)):
            raise UnsupportedError(
                "evaluation.estimator",
                f"reptile gives a direction for the initialization only, but {', '.join(other)} is learned, too; fix "
                "it, or use backprop",
            )

    def shard_losses(self, call: Call, phi: Phi, task: Task, learner: Learner) -> tuple[Losses, Tensors | None, Any]:
        assert isinstance(learner, InnerProblem)
        inner: InnerProblem = learner
        given = packed(phi, task, learner, call.seed)

        def way(given: dict[str, Any]) -> dict[str, Any]:
            with torch.no_grad():
                point, episode = unpacked(given, phi, task)
                state = inner.begin(point, episode, call.seed)
                for _ in range(inner.n_steps()):
                    state = inner.step(point, episode, state, call.seed, create_graph=False)
                losses = inner.query_loss(point, episode, state, call.seed)
                theta = state["theta"]
                direction = {
                    name: (value - theta[name.removeprefix(_SLOT)].detach()).sum(0)
                    for name, value in given["tensors"].items()
                }
            return {"losses": detached(losses), "direction": direction}

        if getattr(learner, "traceable", False):
            results = self._graphs.call(way, given, tuple(sorted(phi.choices.items(), key=str)))
        else:
            results = way(given)
        return Losses(**results["losses"]), results["direction"], None
