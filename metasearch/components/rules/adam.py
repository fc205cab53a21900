"""Adam whose constants are learned, for all tensors together or for each."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from metasearch.components.rules.flat import Block, Features, FlatRule, State
from metasearch.components.rules.knots import Knots, log_rate, unscheduled
from metasearch.components.rules.momentum import logit_of, per_tensor
from metasearch.core.values import Tensors

__all__ = ["AdamRule"]

_TINY = 1e-30
"""Keeps the root's derivative finite where a gradient has been zero so far."""


class AdamRule(FlatRule):
    """``m' = b1 m + (1 - b1) g``, ``v' = b2 v + (1 - b2) g^2``, ``theta' = theta - rate m^ / (sqrt(v^) + eps)``.

    ``m^`` and ``v^`` are corrected for their start at zero. Kingma and Ba 2015, arXiv:1412.6980, algorithm 1; without
    ``b1`` and the correction it is RMSprop as torch has it. With ``weight_decay`` w, ``rate w theta`` is taken off
    besides (AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101), with ``horizon`` the rate falls to 0 along a cosine,
    and with ``knots`` it has a learned factor, whose logarithm between them is linear in log(1 + step). phi holds
    ``log_rate``, ``logit_beta1``, ``logit_beta2``, ``log_eps`` and, if there is a decay, ``weight_decay`` (one of each,
    or one for each tensor), and with knots ``schedule`` ``[knots]``, logarithms of the factor.
    """

    class Config(FlatRule.Config):
        """Settings.

        Args:
            rate: what learning starts from, in units of the parameter.
            betas: decays that learning starts from, a step; a first one of 0 means no running mean, then and later.
            eps: likewise, in units of the gradient.
            correct: whether moments are corrected for their start at zero.
            weight_decay: what learning starts from, in units of the rate; None means none, then and later.
            horizon: steps after which a cosine has taken the rate to 0; None keeps it.
            knots: steps, counted from 0, at which the factor is learned; before the first and after the last it stays
                as there.
            constants: ``shared`` by all tensors, or one for each ``tensor``; the schedule is shared.
        """

        rate: float = Field(default=1e-3, gt=0)
        betas: tuple[float, float] = (0.9, 0.999)
        eps: float = Field(default=1e-8, gt=0)
        correct: bool = True
        weight_decay: float | None = Field(default=None, ge=0)
        horizon: PositiveInt | None = None
        knots: Knots = ()
        constants: Literal["shared", "tensor"] = "shared"

    @property
    def tensors(self) -> tuple[str, ...] | None:
        return None if self.config.constants == "shared" else self.context.adapted

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        first, second = self.config.betas
        constants = {
            "log_rate": math.log(self.config.rate),
            "logit_beta2": logit_of(second),
            "log_eps": math.log(self.config.eps),
        }
        if self.config.weight_decay is not None:
            constants["weight_decay"] = self.config.weight_decay
        if first:
            constants["logit_beta1"] = logit_of(first)
        return per_tensor(constants, self.tensors) | unscheduled(self.config.knots), {}

    def start(self, values: Tensors, theta: Tensor) -> State:
        names = ("mean", "square") if self.config.betas[0] else ("square",)
        return {name: torch.zeros_like(theta) for name in names}

    def remember(self, values: Tensors, gradient: Tensor, state: State, step: int, block: Block) -> State:
        after = {"square": _mixed(state["square"], gradient.square(), block.constants(values, "logit_beta2"))}
        if "mean" in state:
            after = {"mean": _mixed(state["mean"], gradient, block.constants(values, "logit_beta1")), **after}
        return after

    def features(self, values: Tensors, theta: Tensor, gradient: Tensor, state: State) -> tuple[Tensor, ...]:
        return (gradient, theta) if self.config.weight_decay is not None else (gradient,)

    def decide(
        self, values: Tensors, features: Features, state: State, step: int, block: Block
    ) -> tuple[Tensor, State]:
        mean, square = state.get("mean", features[0]), state["square"]
        if self.config.correct:
            square = square / _seen(block.constants(values, "logit_beta2"), step + 1)
            if "mean" in state:
                mean = mean / _seen(block.constants(values, "logit_beta1"), step + 1)
        divisor = (square + _TINY).sqrt() + torch.exp(block.constants(values, "log_eps"))
        rate = torch.exp(log_rate(values, block, self.config.knots, step)) * self._share(step)
        moved = -rate * mean / divisor
        if self.config.weight_decay is not None:
            moved = moved - rate * block.constants(values, "weight_decay") * features[1]
        return moved, state

    def _share(self, step: int) -> float:
        """What is left of the rate, as ``torch.optim.lr_scheduler.CosineAnnealingLR`` has it."""
        horizon = self.config.horizon
        return 1.0 if horizon is None else 0.5 * (1 + math.cos(math.pi * min(step, horizon) / horizon))


def _mixed(before: Tensor, now: Tensor, logit: Tensor) -> Tensor:
    """``b before + (1 - b) now``; 1 - b comes from the logit, since in float32 it would lose digits next to b = 1."""
    return torch.sigmoid(logit) * before + torch.sigmoid(-logit) * now


def _seen(logit: Tensor, steps: int) -> Tensor:
    """``1 - b^steps``: how much weight a running mean has given away by then."""
    return -torch.expm1(steps * torch.nn.functional.logsigmoid(logit))
