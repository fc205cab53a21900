"""Two levels at once: shared weights descend the support loss, and what governs them the query loss.

The lower level is never solved: its weights are part of phi and take one step an evaluation, by the gradient of the
loss on the support set; all other tensors take the gradient of the loss on the query set. This is DARTS (Liu, Simonyan,
Yang 2019, arXiv 1806.09055, Algorithm 1) for a learner of a mixed architecture, and the training of shared weights in
ENAS (Pham et al. 2018, arXiv 1802.03268, section 2.2) for one of a chosen architecture, whose searcher is told the
query loss. Deviation: all parts of phi move at the same time, where both papers let them take turns.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from metasearch.components.update_rule import Sgd
from metasearch.core.contracts import Learner
from metasearch.core.errors import UnsupportedError
from metasearch.core.values import Call, Losses, Phi, Task, Tensors
from metasearch.estimators.episodes import EpisodeEstimator
from metasearch.learners.inner_loop import InnerLoop

__all__ = ["Bilevel"]

State = dict[str, Any]


class Bilevel(EpisodeEstimator):
    """Gradients of two losses: of the support loss for the lower slots, of the query loss for all others.

    With no inner step in training the query loss is taken at the shared weights w (first order). With one, it is taken
    at w' = w - rate * grad_w L_support(w, a), and its gradient for the upper tensors a includes

        - (d/da grad_w L_support(w, a))^T (rate * grad_w' L_query(w', a)),

    exactly, or as a difference of two gradients at w +- e v with e = ``radius`` / |v|, v = rate * grad_w' L_query
    (equation 8 of DARTS, whose v is without the rate), which needs no second derivatives.

    Raises:
        UnsupportedError: by :meth:`check`, if the learner is no inner loop of at most one step, a lower slot is not
            learned, or finite differences meet another rule than gradient descent.
    """

    class Config(EpisodeEstimator.Config):
        """Settings.

        Args:
            lower: slots that descend the support loss.
            second: how the second derivative is taken, where there is an inner step.
            radius: of the finite difference.
        """

        lower: tuple[str, ...] = ("initialization",)
        second: Literal["exact", "finite_difference"] = "exact"
        radius: PositiveFloat = 0.01

    gives_gradient: ClassVar[bool] = True

    def check(self, learner: Learner, phi: Phi) -> None:
        if not isinstance(learner, InnerLoop) or learner.n_steps() > 1:
            raise UnsupportedError(
                "evaluation.estimator", "bilevel needs an inner loop of steps: {train: 0} (first order) or {train: 1}"
            )
        for slot in self.config.lower:
            if not phi.part(slot):
                raise UnsupportedError(f"learner.slots.{slot}", "is named in `lower`, and nothing in it is learned")
        rule = learner.slots["update_rule"]
        if self.config.second == "finite_difference" and (not isinstance(rule, Sgd) or rule.config.momentum):
            raise UnsupportedError("evaluation.estimator.second", "finite differences are for update_rule: {type: sgd}")

    def shard_losses(self, call: Call, phi: Phi, task: Task, learner: Learner) -> tuple[Losses, Tensors | None, Any]:
        assert isinstance(learner, InnerLoop)
        leaves = {name: value.detach().requires_grad_() for name, value in phi.tensors.items()}
        lower = [name for name in leaves if name.partition(".")[0] in self.config.lower]
        upper = [name for name in leaves if name not in lower]
        point = phi.replace(tensors=leaves)
        with torch.enable_grad():
            state = learner.begin(point, task, call.seed)
            support = learner.support_loss(point, task, state, call.seed)
            found = _gradients(support.sum(), [leaves[name] for name in lower])
            gradient = dict(zip(lower, found, strict=True))
            if not upper:
                with torch.no_grad():
                    losses = learner.evaluate(point, task, call.seed, create_graph=False)
            elif learner.n_steps() and self.config.second == "finite_difference":
                losses, found = self._differences(
                    learner, point, task, state, call.seed, [leaves[name] for name in upper]
                )
                gradient |= dict(zip(upper, found, strict=True))
            else:
                losses = learner.evaluate(point, task, call.seed)
                found = _gradients(losses.objective.sum(), [leaves[name] for name in upper])
                gradient |= dict(zip(upper, found, strict=True))
        metrics = {name: value.detach() for name, value in losses.metrics.items()}
        metrics["support"] = support.detach()
        return Losses(losses.objective.detach(), losses.query.detach(), metrics, losses.updates), gradient, None

    def _differences(
        self, learner: InnerLoop, phi: Phi, task: Task, start: State, seed: int, upper: list[Tensor]
    ) -> tuple[Losses, list[Tensor]]:
        """The losses after the inner step, and the gradients of the upper tensors."""
        names = list(learner.adapted)
        moved = learner.step(phi, task, start, seed, create_graph=False)
        theta = {**moved["theta"], **{name: moved["theta"][name].detach().requires_grad_() for name in names}}
        losses = learner.query_loss(phi, task, {**moved, "theta": theta}, seed)
        slopes = _gradients(losses.objective.sum(), [theta[name] for name in names] + upper)
        rates = learner.rates(phi, 0)
        v = {name: (rates[name] * slope).detach() for name, slope in zip(names, slopes, strict=False)}
        norm = torch.stack([one.flatten(1).square().sum(1) for one in v.values()]).sum(0).sqrt()
        step = self.config.radius / norm.clamp(min=torch.finfo(norm.dtype).tiny)
        sides = []
        for sign in (1.0, -1.0):
            beside = {name: start["theta"][name].detach() + sign * _along(step, one) * one for name, one in v.items()}
            loss = learner.support_loss(phi, task, {**start, "theta": {**start["theta"], **beside}}, seed)
            sides.append((sign * loss / (2 * step)).sum())
        mixed = _gradients(sides[0] + sides[1], upper)
        return losses, [direct - one for direct, one in zip(slopes[len(names) :], mixed, strict=True)]


def _gradients(value: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Gradients, zero for inputs that have no part in the value."""
    if not inputs:
        return []
    return list(torch.autograd.grad(value, inputs, materialize_grads=True, retain_graph=True))


def _along(factor: Tensor, like: Tensor) -> Tensor:
    return factor.reshape(-1, *(1,) * (like.dim() - 1))
