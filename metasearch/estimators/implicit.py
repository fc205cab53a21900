"""The meta-gradient at the end of an inner loop that has converged, without a way back through its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from metasearch.core.contracts import InnerProblem, Learner
from metasearch.core.errors import UnsupportedError
from metasearch.core.values import Call, Losses, Phi, Task, Tensors
from metasearch.estimators.episodes import EpisodeEstimator

__all__ = ["Implicit", "conjugate_gradient", "neumann"]

Product = Callable[[Tensors], Tensors]


class Implicit(EpisodeEstimator):
    """Gradient by the implicit function theorem; memory does not grow with the number of inner steps.

    Let G(theta, phi) be the support loss with its penalties, A its Hessian for theta, l the query loss, and theta*
    where the inner loop ended. If dG/dtheta = 0 there, then

        dL/dphi = dl/dphi - (d^2 G / dphi dtheta) v,    A v = dl/dtheta.

    With the regularizer ``proximal`` of strength lambda, A = H + lambda I and the gradient for the initialization is
    lambda v = (I + H / lambda)^-1 dl/dtheta: iMAML (Rajeswaran, Finn, Kakade, Levine 2019, arXiv:1909.04630).
    Other tensors of phi on which G depends get their gradient by the same formula; those that act on the
    way only (learning rates) get none.

    Where the inner loop stops early, A and the other derivatives are those of where it stopped, and the gradient is off
    by what the steps still to come would have changed; for a quadratic G and rate a that is
    (I - a A)^k (I - lambda A^-1) dl/dtheta.

    The metric ``residual`` is |A v - dl/dtheta| / |dl/dtheta|: how far the linear system was solved.

    Raises:
        UnsupportedError: by :meth:`check`, for a learner without an inner loop or with an objective over several steps;
            in the first evaluation, if G does not depend on phi.
    """

    class Config(EpisodeEstimator.Config):
        """Settings.

        Args:
            solver: of the linear system: ``cg`` (conjugate gradient) or ``neumann`` (gradient descent on it, a
                truncated Neumann series).
            iterations: Hessian-vector products.
            damping: added to the diagonal of A in the system. The published code of iMAML states it as a multiple of
                lambda.
            rate: step of ``neumann``; below 2 over the largest eigenvalue of A.
        """

        solver: Literal["cg", "neumann"] = "cg"
        iterations: PositiveInt = 5
        damping: NonNegativeFloat = 0.0
        rate: PositiveFloat = 0.1

    gives_gradient: ClassVar[bool] = True

    def check(self, learner: Learner, phi: Phi) -> None:
        if not isinstance(learner, InnerProblem):
            raise UnsupportedError(
                "evaluation.estimator", f"implicit needs an inner loop, which {type(learner).__name__} does not open"
            )
        if any(len(learner.objective_weights(step)) > 1 for step in (None, 0)):
            raise UnsupportedError(
                "learner.objective", "implicit differentiates the end of the inner loop only; use objective: final"
            )

    def shard_losses(self, call: Call, phi: Phi, task: Task, learner: Learner) -> tuple[Losses, Tensors | None, Any]:
        assert isinstance(learner, InnerProblem)
        with torch.no_grad():
            end = learner.begin(phi, task, call.seed)
            for _ in range(learner.n_steps()):
                end = learner.step(phi, task, end, call.seed, create_graph=False)
        leaves = {name: value.detach().requires_grad_() for name, value in phi.tensors.items()}
        theta = {name: end["theta"][name].detach().requires_grad_() for name in learner.adapted}
        point = phi.replace(tensors=leaves)
        with torch.enable_grad():
            # All that the beginning makes of phi, parameters that are not adapted included, stays a function of it.
            begun = learner.begin(point, task, call.seed)
            at = {**end, **begun, "theta": {**begun["theta"], **theta}}
            at |= {name: end[name] for name in ("buffers", "rule", "step")}
            losses = learner.query_loss(point, task, at, call.seed)
            found = torch.autograd.grad(
                losses.objective.sum(), [*theta.values(), *leaves.values()], retain_graph=True, materialize_grads=True
            )
            right = dict(zip(theta, found[: len(theta)], strict=True))
            support = learner.support_loss(point, task, at, call.seed)
            slope = torch.autograd.grad(support.sum(), list(theta.values()), create_graph=True, materialize_grads=True)
            slopes = dict(zip(theta, slope, strict=True))

            def product(v: Tensors) -> Tensors:
                """(A + damping I) v, task by task."""
                return self._product(slopes, theta, v)

            if self.config.solver == "cg":
                v = conjugate_gradient(product, right, self.config.iterations)
            else:
                v = neumann(product, right, self.config.iterations, self.config.rate)
            residual = _norm({name: one - right[name] for name, one in product(v).items()}) / _norm(right)
            mixed = _along(slopes, list(leaves.values()), v)
        if all(one is None for one in mixed):
            raise UnsupportedError(
                "evaluation.estimator",
                "implicit needs a support loss that depends on phi, and this one does not; give the learner a slot "
                "regularizer: {type: proximal, strength: 2.0}",
            )
        gradient = {
            name: direct if one is None else direct - one
            for name, direct, one in zip(leaves, found[len(theta) :], mixed, strict=True)
        }
        metrics = {**losses.metrics, "residual": residual.detach()}
        return Losses(losses.objective, losses.query, metrics, losses.updates), gradient, None

    def _product(self, slopes: Tensors, theta: Tensors, v: Tensors) -> Tensors:
        found = _along(slopes, list(theta.values()), v)
        return {
            name: self.config.damping * v[name] if one is None else one + self.config.damping * v[name]
            for name, one in zip(theta, found, strict=True)
        }


def conjugate_gradient(product: Product, right: Tensors, iterations: int) -> Tensors:
    """An approximate solution of A x = right for each task, from x = 0, by Hestenes and Stiefel's method.

    Exact after as many iterations as A has different eigenvalues. A task whose residual has become 0 stays as it is.

    Args:
        product: x -> A x, A symmetric and positive definite; other A give whatever they give.
        right: tensors ``[T, ...]`` by name, one vector a task.
        iterations: products with A.
    """
    x = {name: torch.zeros_like(value) for name, value in right.items()}
    residual, direction = right, right
    squared = _dot(residual, residual)
    for _ in range(iterations):
        image = product(direction)
        going = squared != 0
        step = torch.where(going, squared / torch.where(going, _dot(direction, image), 1.0), 0.0)
        x = _plus(x, step, direction)
        residual = _plus(residual, -step, image)
        after = _dot(residual, residual)
        direction = _plus(residual, torch.where(going, after / torch.where(going, squared, 1.0), 0.0), direction)
        squared = after
    return x


def neumann(product: Product, right: Tensors, iterations: int, rate: float) -> Tensors:
    """rate * sum over j <= iterations of (I - rate A)^j right, which tends to A^-1 right."""
    term = {name: rate * value for name, value in right.items()}
    total = term
    for _ in range(iterations):
        image = product(term)
        term = {name: value - rate * image[name] for name, value in term.items()}
        total = {name: value + term[name] for name, value in total.items()}
    return total


def _along(slopes: Tensors, inputs: list[Tensor], v: Tensors) -> tuple[Tensor | None, ...]:
    """The derivative of <slopes, v> for each input, None for those that have no part in it."""
    names = [name for name, value in slopes.items() if value.requires_grad]
    if not names:
        return (None,) * len(inputs)
    outputs, weights = [slopes[name] for name in names], [v[name] for name in names]
    return torch.autograd.grad(outputs, inputs, weights, retain_graph=True, allow_unused=True)


def _dot(a: Tensors, b: Tensors) -> Tensor:
    """``[T]``, the inner product of each task's vectors."""
    products = [(a[name] * b[name]).flatten(1).sum(1) for name in a]
    return torch.stack(products).sum(0)


def _norm(a: Tensors) -> Tensor:
    return _dot(a, a).sqrt()


def _plus(a: Tensors, factor: Tensor, b: Tensors) -> Tensors:
    """a + factor * b, one factor a task."""
    return {name: value + factor.reshape(-1, *(1,) * (value.dim() - 1)) * b[name] for name, value in a.items()}
