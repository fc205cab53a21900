"""Nesterov's momentum divided by a learned power of the gradient's second moment, under a learned schedule."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from metasearch.components.rules.flat import Block, Features, FlatRule, State
from metasearch.components.rules.knots import Knots, log_rate, unscheduled
from metasearch.components.rules.momentum import logit_of, per_tensor
from metasearch.core.values import Tensors

__all__ = ["PadamRule"]

_TINY = 1e-24
"""Keeps roots and their derivatives, down to its power of -3/2, finite where gradients have been zero so far."""


class PadamRule(FlatRule):
    """Between momentum and Adam: ``v' = mu v + g``, ``s' = beta s + (1 - beta) g^2`` and

        theta' = theta - rate c(k) (g + mu v') / (s' / mean(s') + eps)^power

    with the mean of ``s'`` over the tensor, which makes a correction of ``s'`` for its start at zero needless. A power
    of 0 is Nesterov's momentum as torch has it; with 1/2 all coordinates of a tensor move about as far. Padam (Chen et
    al., arXiv:1806.06763) has the power; it divides by the largest ``s'`` so far itself, and looks not ahead. The
    factor c is learned at the steps ``knots``, counted from 0; between them its logarithm is linear in log(1 + step).

    phi holds ``log_rate``, ``logit_momentum``, ``logit_beta`` and ``power`` (one of each, or one for each tensor), and
    with knots ``schedule`` ``[knots]``, logarithms of c.
    """

    class Config(FlatRule.Config):
        """Settings.

        Args:
            rate: what learning starts from, in units of parameter per gradient.
            momentum: likewise, a step.
            beta: likewise, the decay of the second moment, a step.
            power: likewise.
            eps: least ``s' / mean(s')`` that is told from 0.
            knots: steps, counted from 0, at which a factor of the rate is learned; before the first and after the last
                it stays as there.
            constants: ``shared`` by all tensors, or one for each ``tensor``; the schedule is shared.
        """

        rate: float = Field(default=0.1, gt=0)
        momentum: float = Field(default=0.9, gt=0, lt=1)
        beta: float = Field(default=0.95, gt=0, lt=1)
        power: float = 0.0
        eps: float = Field(default=1e-3, gt=0)
        knots: Knots = ()
        constants: Literal["shared", "tensor"] = "shared"

    normalizes: ClassVar[bool] = True

    @property
    def tensors(self) -> tuple[str, ...] | None:
        return None if self.config.constants == "shared" else self.context.adapted

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        config = self.config
        constants = {
            "log_rate": math.log(config.rate),
            "logit_momentum": logit_of(config.momentum),
            "logit_beta": logit_of(config.beta),
            "power": config.power,
        }
        return per_tensor(constants, self.tensors) | unscheduled(config.knots), {}

    def start(self, values: Tensors, theta: Tensor) -> State:
        return {name: torch.zeros_like(theta) for name in ("velocity", "square")}

    def remember(self, values: Tensors, gradient: Tensor, state: State, step: int, block: Block) -> State:
        beta = torch.sigmoid(block.constants(values, "logit_beta"))
        return {
            "velocity": torch.sigmoid(block.constants(values, "logit_momentum")) * state["velocity"] + gradient,
            "square": beta * state["square"] + (1 - beta) * gradient.square(),
        }

    def features(self, values: Tensors, theta: Tensor, gradient: Tensor, state: State) -> tuple[Tensor, ...]:
        return gradient, state["velocity"], (state["square"] + _TINY).sqrt()

    def scale(self, mean_squares: Tensor) -> Tensor:
        """Only the last feature is divided: its square becomes ``s' / mean(s')``."""
        return torch.cat([torch.ones_like(mean_squares[:2]), torch.rsqrt(mean_squares[2:])])

    def decide(
        self, values: Tensors, features: Features, state: State, step: int, block: Block
    ) -> tuple[Tensor, State]:
        gradient, velocity, root = features
        ahead = gradient + torch.sigmoid(block.constants(values, "logit_momentum")) * velocity
        divisor = (root.square() + self.config.eps).pow(block.constants(values, "power"))
        return -torch.exp(log_rate(values, block, self.config.knots, step)) * ahead / divisor, state
