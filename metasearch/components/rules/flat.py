"""Update rules that treat the coordinates of theta alike: all of them lie side by side on one long axis.

A rule is four pure functions of ``values`` (its part of phi) and of coordinates ``[T, n]``. The inner loop gives it all
coordinates of all tasks at once; the optimizer that a user takes away gives it the same functions ``T = 1`` and pieces
of tensors that fit the cache. So there is one implementation of every rule.

To add one, subclass :class:`FlatRule`, say what a coordinate remembers and what becomes of its features, and register
the class under ``slot.update_rule``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metasearch.components.base import Component
from metasearch.core.config import Config as BaseConfig
from metasearch.core.values import Tensors

__all__ = ["Block", "FlatRule", "State", "joined"]

State = dict[str, Tensor]
"""What coordinates remember, by name: ``[T, n, ...]`` each."""


@dataclass(frozen=True)
class Block:
    """Coordinates ``n`` of one or several tensors, side by side.

    Args:
        names: the tensors.
        sizes: how many coordinates of each.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    def spread(self, constants: Tensor) -> Tensor:
        """One number a coordinate, ``[..., n]``, from one number a tensor, ``[..., tensors]``."""
        if len(self.sizes) == 1:
            return constants
        return torch.cat(
            [constants[..., i : i + 1].expand(*constants.shape[:-1], n) for i, n in enumerate(self.sizes)], -1
        )

    def sums(self, x: Tensor) -> Tensor:
        """Sums over each tensor's coordinates, ``[..., tensors]``, of ``x`` ``[..., n]``."""
        return torch.stack([part.sum(-1) for part in x.split(self.sizes, -1)], -1)

    def constants(self, values: Tensors, name: str) -> Tensor:
        """A learned number for each coordinate, ``[n]`` or one for all: ``values[name]``, or a ``name.<tensor>`` for
        each tensor.
        """
        if name in values:
            return values[name]
        return self.spread(torch.stack([values[f"{name}.{tensor}"] for tensor in self.names]))


class FlatRule(Component, ABC):
    """An update rule on a flat axis of coordinates; a leaf class says what is remembered and decided.

    One step is ``remember``, then ``features``, then (where ``normalizes``) a division of each feature by its root mean
    square over the tensor, then ``decide``. All of them act on each coordinate for itself.
    """

    class Config(BaseConfig):
        """Settings that all of these rules have.

        Args:
            second_order: whether phi's gradient also flows through the gradients that the rule is given. By default
                they are constants, which needs no second derivatives of the network.
        """

        second_order: bool = False

    normalizes: ClassVar[bool] = False

    @property
    def constant_gradients(self) -> bool:
        return not self.config.second_order

    @property
    def tensors(self) -> tuple[str, ...] | None:
        """Names of the tensors that it knows a number for; None if it takes any tensor."""
        return None

    def start(self, values: Tensors, theta: Tensor) -> State:
        """What coordinates ``theta`` ``[T, n]`` remember before the first step."""
        return {}

    def remember(self, values: Tensors, gradient: Tensor, state: State, step: int, block: Block) -> State:
        """What they remember once ``gradient`` ``[T, n]`` is known."""
        return state

    def features(self, values: Tensors, theta: Tensor, gradient: Tensor, state: State) -> Tensor:
        """What the decision is taken on, ``[F, T, n]``."""
        return gradient.unsqueeze(0)

    @abstractmethod
    def decide(self, values: Tensors, features: Tensor, state: State, step: int, block: Block) -> tuple[Tensor, State]:
        """What is added to theta, ``[T, n]``, and what is remembered from now on."""

    def scale(self, mean_squares: Tensor) -> Tensor:
        """Factors ``[F, T, tensors]`` that give features the mean square 1."""
        return torch.rsqrt(mean_squares)

    def advance(
        self, values: Tensors, theta: Tensor, gradient: Tensor, state: State, step: int, block: Block
    ) -> tuple[Tensor, State]:
        """One step of whole tensors: what is added to theta ``[T, n]``, and the next state."""
        state = self.remember(values, gradient, state, step, block)
        features = self.features(values, theta, gradient, state)
        if self.normalizes:
            sizes = torch.tensor(block.sizes, dtype=features.dtype, device=features.device)
            features = features * block.spread(self.scale(block.sums(features.square()) / sizes))
        return self.decide(values, features, state, step, block)

    def begin_update(self, values: Tensors, theta: Tensors) -> State:
        return self.start(values, joined([theta[name] for name in self.context.adapted]))

    def update(
        self, values: Tensors, theta: Tensors, gradients: Tensors, rates: Tensors, state: Any, step: int
    ) -> tuple[Tensors, Any]:
        names = tuple(gradients)
        block = Block(names, tuple(gradients[name][0].numel() for name in names))
        gradient = joined([gradients[name] for name in names])
        if self.constant_gradients:
            gradient = gradient.detach()
        moved, state = self.advance(values, joined([theta[name] for name in names]), gradient, state, step, block)
        parts = zip(names, moved.split(block.sizes, 1), strict=True)
        return {**theta, **{name: theta[name] + part.view(theta[name].shape) for name, part in parts}}, state


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors ``[T, ...]`` side by side, ``[T, n]``."""
    flat = [tensor.flatten(1) if tensor.dim() > 1 else tensor.unsqueeze(1) for tensor in tensors]
    return flat[0] if len(flat) == 1 else torch.cat(flat, 1)
