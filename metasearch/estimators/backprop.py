"""The meta-gradient by backpropagation through the inner loop: exact (second order), or first order.

Exact: d/dphi of the mean objective, through every inner step (MAML, Eq. 1 of arXiv:1703.03400).
First order: inner gradients count as constants, which drops every term with a second derivative (Sec. 5.2 there).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import NonNegativeInt
from torch import Tensor

from metasearch.core.contracts import Learner, Unrollable
from metasearch.core.errors import UnsupportedError
from metasearch.core.values import Call, Losses, Phi, Task, Tensors
from metasearch.estimators.episodes import EpisodeEstimator, Problem
from metasearch.estimators.graphs import Graphs
from metasearch.estimators.packed import detached, packed, unpacked

__all__ = ["Backprop", "FirstOrder"]


class Backprop(EpisodeEstimator):
    """Exact gradient of the objective with respect to all tensors of phi.

    Raises:
        UnsupportedError: by :meth:`check`, if steps shall be computed again for a learner that does not open them.
    """

    class Config(EpisodeEstimator.Config):
        """Settings.

        Args:
            recompute: keep of each inner step only where it ends, and compute it again on the way back: memory hardly
                grows with the number of steps. Not compiled, since a compiler would merge the two computations.
            first_order_until: outer step from which on gradients are exact; those before it are first order (the
                derivative-order annealing of MAML++, arXiv:1810.09502).
        """

        recompute: bool = False
        first_order_until: NonNegativeInt = 0

    gives_gradient: ClassVar[bool] = True
    create_graph: ClassVar[bool] = True

    def __init__(self, config: Any, problem: Problem, function: str = "train") -> None:
        super().__init__(config, problem, function)
        self._graphs = Graphs(problem.compile)

    def check(self, learner: Learner, phi: Phi) -> None:
        if self.config.recompute and not isinstance(learner, Unrollable):
            raise UnsupportedError(
                "evaluation.estimator.recompute", f"needs an inner loop, which {type(learner).__name__} does not open"
            )

    def shard_losses(self, call: Call, phi: Phi, task: Task, learner: Learner) -> tuple[Losses, Tensors | None, Any]:
        create_graph = self.create_graph and call.step >= self.config.first_order_until
        weights = self._weights(learner, call.step)
        given = packed(phi, task, learner, call.seed)
        if weights is not None:
            given["weights"] = weights  # an input, so that other weights do not mean another program

        def gradients(given: dict[str, Any]) -> dict[str, Any]:
            leaves = {name: value.detach().requires_grad_() for name, value in given["tensors"].items()}
            point, episode = unpacked({**given, "tensors": leaves}, phi, task)
            with torch.enable_grad():
                if weights is None:
                    losses = learner.evaluate(point, episode, call.seed, train=True, create_graph=create_graph)
                else:
                    assert isinstance(learner, Unrollable)
                    losses = learner.unroll(
                        point,
                        episode,
                        learner.begin(point, episode, call.seed),
                        call.seed,
                        learner.n_steps(),
                        create_graph=create_graph,
                        weights=given["weights"],
                        recompute=self.config.recompute,
                    )[1]
                found = torch.autograd.grad(losses.objective.sum(), list(leaves.values()), materialize_grads=True)
            return {"losses": detached(losses), "gradient": dict(zip(leaves, found, strict=True))}

        if getattr(learner, "traceable", False) and not self.config.recompute:
            key = (create_graph, tuple(sorted(phi.choices.items(), key=str)))
            results = self._graphs.call(gradients, given, key)
        else:
            results = gradients(given)
        return Losses(**results["losses"]), results["gradient"], None

    def _weights(self, learner: Learner, step: int) -> Tensor | None:
        """Weights of the last inner steps where the loop must be opened for them; None leaves it to the learner."""
        if not isinstance(learner, Unrollable):
            return None
        weights = learner.objective_weights(step)
        if weights == learner.objective_weights() and not self.config.recompute:
            return None
        return torch.tensor(weights, dtype=self.problem.dtype, device=self.problem.device)


class FirstOrder(Backprop):
    """The gradient with inner gradients as constants; biased, and cheaper by the double backward pass."""

    create_graph: ClassVar[bool] = False
