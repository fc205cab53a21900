"""Gradient descent with momentum whose constants are learned, for all tensors together or for each."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from metasearch.components.rules.flat import Block, Features, FlatRule, State
from metasearch.core.errors import ConfigError
from metasearch.core.values import Tensors

__all__ = ["MomentumRule", "logit_of", "per_tensor"]


class MomentumRule(FlatRule):
    """``v' = mu v + g``, ``theta' = theta - rate v'``, or ``- rate (g + mu v')`` (Nesterov), as torch's SGD has it.

    phi holds ``log_rate`` and ``logit_momentum`` (one of each, or one for each tensor): rates stay positive and momenta
    between 0 and 1. A momentum of 0 is left out: plain gradient descent.
    """

    class Config(FlatRule.Config):
        """Settings.

        Args:
            rate: what learning starts from, in units of parameter per gradient.
            momentum: likewise, a step; 0 means none, then and later.
            nesterov: whether the step looks ahead.
            constants: ``shared`` by all tensors, or one for each ``tensor``.
        """

        rate: float = Field(default=0.1, gt=0)
        momentum: float = Field(default=0.9, ge=0, lt=1)
        nesterov: bool = False
        constants: Literal["shared", "tensor"] = "shared"

    @property
    def tensors(self) -> tuple[str, ...] | None:
        return None if self.config.constants == "shared" else self.context.adapted

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        constants = {"log_rate": math.log(self.config.rate)}
        if self.config.momentum:
            constants["logit_momentum"] = logit_of(self.config.momentum)
        elif self.config.nesterov:
            raise ConfigError("nesterov", "needs a momentum above 0")
        return per_tensor(constants, self.tensors), {}

    def start(self, values: Tensors, theta: Tensor) -> State:
        return {"velocity": torch.zeros_like(theta)} if self.config.momentum else {}

    def remember(self, values: Tensors, gradient: Tensor, state: State, step: int, block: Block) -> State:
        if not state:
            return state
        return {"velocity": torch.sigmoid(block.constants(values, "logit_momentum")) * state["velocity"] + gradient}

    def decide(
        self, values: Tensors, features: Features, state: State, step: int, block: Block
    ) -> tuple[Tensor, State]:
        move = state.get("velocity", features[0])
        if self.config.nesterov:
            move = features[0] + torch.sigmoid(block.constants(values, "logit_momentum")) * move
        return -torch.exp(block.constants(values, "log_rate")) * move, state


def logit_of(share: float) -> float:
    """The number whose logistic function is ``share``."""
    return math.log(share) - math.log1p(-share)


def per_tensor(constants: dict[str, float], tensors: tuple[str, ...] | None) -> Tensors:
    """Learned numbers by name, or one of each for every tensor as ``name.<tensor>``."""
    places = [""] if tensors is None else [f".{tensor}" for tensor in tensors]
    return {f"{name}{place}": torch.tensor(value) for name, value in constants.items() for place in places}
