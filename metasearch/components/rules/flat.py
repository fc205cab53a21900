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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasearch.components.base import Component, Context
from metasearch.components.rules.sample import Sample
from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import ConfigError
from metasearch.core.values import Tensors

__all__ = ["Block", "Features", "FlatRule", "State", "joined", "multiplied", "stacked"]

State = dict[str, Tensor]
"""What coordinates remember, by name: ``[T, n, ...]`` each."""

Features = tuple[Tensor, ...] | Tensor
"""F features of coordinates: ``[T, n]`` each, or one tensor ``[F, T, n]`` once they have been divided."""


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

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.draws = self.through is not None
        if self.draws and (self.normalizes or not self.constant_gradients):
            raise ConfigError("through", "needs a rule that takes gradients as constants and does not normalize")

    @property
    def through(self) -> int | None:
        """How many coordinates of a tensor, drawn for each inner loop, phi's gradient goes through; None means all.

        For rules that take gradients as constants and do not normalize.
        """
        return None

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

    def features(self, values: Tensors, theta: Tensor, gradient: Tensor, state: State) -> tuple[Tensor, ...]:
        """What the decision is taken on, F times ``[T, n]``."""
        return (gradient,)

    @abstractmethod
    def decide(
        self, values: Tensors, features: Features, state: State, step: int, block: Block
    ) -> tuple[Tensor, State]:
        """What is added to theta, ``[T, n]``, and what is remembered from now on.

        Features are those of :meth:`features`, or one tensor of them where the rule ``normalizes``.
        """

    def scale(self, mean_squares: Tensor) -> Tensor:
        """Factors ``[F, T, tensors]`` that give features the mean square 1."""
        return torch.rsqrt(mean_squares)

    def advance(
        self, values: Tensors, theta: Tensor, gradient: Tensor, state: State, step: int, block: Block
    ) -> tuple[Tensor, State]:
        """One step of whole tensors: what is added to theta ``[T, n]``, and the next state."""
        state = self.remember(values, gradient, state, step, block)
        features: Features = self.features(values, theta, gradient, state)
        if self.normalizes:
            sizes = torch.tensor(block.sizes, dtype=gradient.dtype, device=gradient.device)
            factors = self.scale(torch.stack([block.sums(one.square()) for one in features]) / sizes)
            features = multiplied(features, block.spread(factors))
        return self.decide(values, features, state, step, block)

    def begin_update(self, values: Tensors, theta: Tensors, seeds: NDArray[np.int64] | None = None) -> Any:
        flat = joined([theta[name] for name in self.context.adapted])
        state = self.start(values, flat)
        learning = torch.is_grad_enabled() and any(value.requires_grad for value in values.values())
        if self.through is None or seeds is None or not learning:
            return state
        sample = Sample.draw(seeds, tuple(theta[name][0].numel() for name in self.context.adapted), self.through, flat)
        part = self.start(values, sample.of(flat))
        return {"all": state, "part": part, "places": sample.places, "counts": sample.counts}

    def update(
        self, values: Tensors, theta: Tensors, gradients: Tensors, rates: Tensors, state: Any, step: int
    ) -> tuple[Tensors, Any]:
        names = tuple(gradients)
        block = Block(names, tuple(gradients[name][0].numel() for name in names))
        gradient = joined([gradients[name] for name in names])
        if self.constant_gradients:
            gradient = gradient.detach()
        flat = joined([theta[name] for name in names])
        if "places" in state:
            moved, state = self._sampled(values, flat, gradient, state, step, block)
        else:
            moved, state = self.advance(values, flat, gradient, state, step, block)
        parts = zip(names, moved.split(block.sizes, 1), strict=True)
        return {**theta, **{name: theta[name] + part.view(theta[name].shape) for name, part in parts}}, state

    def _sampled(
        self, values: Tensors, theta: Tensor, gradient: Tensor, state: Any, step: int, block: Block
    ) -> tuple[Tensor, Any]:
        """All coordinates' step, and that of the sample once more, with a graph."""
        assert self.through is not None
        sizes = tuple(min(size, self.through) for size in block.sizes)
        sample = Sample(state["places"], state["counts"], sizes)
        with torch.no_grad():
            moved, whole = self.advance(values, theta, gradient, state["all"], step, block)
        piece = Block(block.names, sizes)
        own, part = self.advance(values, sample.of(theta), sample.of(gradient), state["part"], step, piece)
        return sample.attached(moved, own), {**state, "all": whole, "part": part}


def stacked(features: Features) -> Tensor:
    """Features as one tensor ``[F, T, n]``."""
    return features if isinstance(features, Tensor) else torch.stack(features)


def multiplied(features: Features, factors: Tensor) -> Tensor:
    """Each feature times its factors, which are ``[F, T, n]`` or ``[F, T, 1]``; as one tensor ``[F, T, n]``."""
    if torch.is_grad_enabled():
        return torch.stack([feature * factor for feature, factor in zip(features, factors, strict=True)])
    found = features[0].new_empty(len(features), *features[0].shape)
    for row, feature, factor in zip(found, features, factors, strict=True):
        torch.mul(feature, factor, out=row)
    return found


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors ``[T, ...]`` side by side, ``[T, n]``."""
    flat = [tensor.flatten(1) if tensor.dim() > 1 else tensor.unsqueeze(1) for tensor in tensors]
    return flat[0] if len(flat) == 1 else torch.cat(flat, 1)
