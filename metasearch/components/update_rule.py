"""How gradients become steps: the update-rule slot."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from metasearch.components.base import Component
from metasearch.core.config import Config as BaseConfig
from metasearch.core.values import Tensors

__all__ = ["Adam", "Sgd"]


class Sgd(Component):
    """Gradient descent, theta' = theta - rate * gradient (MAML, Eq. 1 of arXiv:1703.03400; any rates).

    With ``momentum`` m the gradient is replaced by v' = m v + gradient, v from zero, as in ``torch.optim.SGD``.
    """

    class Config(BaseConfig):
        """Settings; the rates are a slot of their own.

        Args:
            momentum: share of the last step's direction that the next one keeps.
        """

        momentum: float = Field(default=0.0, ge=0.0, lt=1.0)

    def begin_update(self, values: Tensors, theta: Tensors, seeds: NDArray[np.int64] | None = None) -> Any:
        if not self.config.momentum:
            return {}
        return {"velocity": {name: torch.zeros_like(theta[name]) for name in self.context.adapted}}

    def update(
        self, values: Tensors, theta: Tensors, gradients: Tensors, rates: Tensors, state: Any, step: int
    ) -> tuple[Tensors, Any]:
        if self.config.momentum:
            velocity = state["velocity"]
            gradients = {name: self.config.momentum * velocity[name] + one for name, one in gradients.items()}
            state = {"velocity": gradients}
        moved = {name: theta[name] - rates[name] * gradient for name, gradient in gradients.items()}
        return {**theta, **moved}, state


class Adam(Component):
    """Adam inside the inner loop (Kingma and Ba 2015, arXiv:1412.6980, Algorithm 1), with any rates.

    m' = b1 m + (1 - b1) g and v' = b2 v + (1 - b2) g^2, both from zero; theta' = theta - rate * m^ / (sqrt(v^) + eps),
    where m^ and v^ are divided by 1 - b^t. Reptile uses ``betas: [0, 0.999]``.

    A gradient through these steps is exact, except that sqrt has derivative 0 where a parameter never had a gradient.
    It is large where gradients are of the size of ``eps``: raise ``eps`` for second-order estimates.

    With ``carry``, phi has the moments as buffers, ``first.<parameter>`` and ``second.<parameter>``, and
    ``first_weight``, ``second_weight``, which are 1 - b^t. They move where a gradient searcher has this slot: one with
    ``parts`` must name it, else every task begins with zeros.
    """

    class Config(BaseConfig):
        """Settings; the rates are a slot of their own.

        Args:
            betas: decay of the two moments, a step.
            eps: added to the square root of the second moment.
            carry: whether moments go on from task to task: each begins with the mean of what the tasks of the outer
                step before ended with, in training, in validation, at test and wherever phi is used (as in the
                published code of Reptile, where one chain goes through all tasks). Else each begins with zeros.
        """

        betas: tuple[float, float] = (0.9, 0.999)
        eps: float = Field(default=1e-8, gt=0.0)
        carry: bool = False

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        if not self.config.carry:
            return {}, {}
        shapes = {name: self.context.shapes[name] for name in self.context.adapted}
        zeros = {f"{moment}.{name}": torch.zeros(shape) for moment in self._moments for name, shape in shapes.items()}
        return {}, {**zeros, **{f"{moment}_weight": torch.zeros(()) for moment in self._moments}}

    def begin_update(self, values: Tensors, theta: Tensors, seeds: NDArray[np.int64] | None = None) -> Any:
        like = next(iter(theta.values()))
        if self.config.carry:
            return {
                moment: {
                    "mean": {
                        name: values[f"{moment}.{name}"].to(like).expand_as(theta[name])
                        for name in self.context.adapted
                    },
                    "weight": values[f"{moment}_weight"].to(like),
                }
                for moment in self._moments
            }
        zeros = {name: torch.zeros_like(theta[name]) for name in self.context.adapted}
        return {moment: {"mean": zeros, "weight": like.new_zeros(())} for moment in self._moments}

    def handed_on(self, state: Any) -> Tensors:
        if not self.config.carry:
            return {}
        means = {f"{moment}.{name}": one for moment in state for name, one in state[moment]["mean"].items()}
        return {**means, **{f"{moment}_weight": state[moment]["weight"].reshape(1) for moment in state}}

    @property
    def _moments(self) -> list[str]:
        return [name for name, beta in zip(("first", "second"), self.config.betas, strict=True) if beta]

    def update(
        self, values: Tensors, theta: Tensors, gradients: Tensors, rates: Tensors, state: Any, step: int
    ) -> tuple[Tensors, Any]:
        squares = {name: one * one for name, one in gradients.items()}
        after = {
            name: _mixed(state[name], seen, beta)
            for name, seen, beta in zip(("first", "second"), (gradients, squares), self.config.betas, strict=True)
            if beta
        }
        first = _corrected(after["first"]) if "first" in after else gradients
        second = _corrected(after["second"]) if "second" in after else squares
        moved = {
            name: theta[name] - rates[name] * first[name] / (_root(second[name]) + self.config.eps)
            for name in gradients
        }
        return {**theta, **moved}, after


def _mixed(moment: Any, seen: Tensors, beta: float) -> Any:
    """A running mean one step on; its ``weight``, a number, is 1 - beta^t."""
    return {
        "mean": {name: beta * moment["mean"][name] + (1 - beta) * one for name, one in seen.items()},
        "weight": beta * moment["weight"] + (1 - beta),
    }


def _corrected(moment: Any) -> Tensors:
    """A running mean without what its start at zero makes of it."""
    return {name: value / moment["weight"] for name, value in moment["mean"].items()}


def _root(value: Tensor) -> Tensor:
    """The square root, with derivative 0 at 0 (nan stays)."""
    zero = value == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, value).sqrt())
