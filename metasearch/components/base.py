"""What fills a slot: a component with a hook for each place of the inner loop that it may change.

The inner loop calls every hook of every slot, in the order of :data:`SLOTS` and then by name; a component overrides the
hooks that concern it and inherits the identity for the rest. A hook is a pure function: the component's learned tensors
come in as ``values`` (its part of phi), everything else as arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metasearch.core.config import Config as BaseConfig
from metasearch.core.contracts import Model
from metasearch.core.space import Space
from metasearch.core.values import Batch, Task, TaskSpec, Tensors

__all__ = ["SLOTS", "Component", "Context"]

SLOTS = (
    "architecture",
    "initialization",
    "embedding",
    "memory",
    "augmentation",
    "teacher",
    "example_weights",
    "norms",
    "regularizer",
    "learning_rates",
    "update_rule",
)
"""The slots the field has words for, in the order in which their hooks are called."""


@dataclass(frozen=True)
class Context:
    """What a component is built for.

    Args:
        model: the network that the inner loop trains.
        spec: shapes of the tasks.
        shapes: shape of each of the network's parameters, without the task axis.
        adapted: names of the parameters that the inner loop changes.
        choices: values of the slot's own space, named relative to the slot.
        steps: inner steps in training, at least one.
    """

    model: Model
    spec: TaskSpec
    shapes: Mapping[str, tuple[int, ...]]
    adapted: tuple[str, ...]
    choices: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 1


class Component:
    """A filled slot; a leaf class overrides what it changes.

    Args:
        config: its settings.
        context: what it is built for.
    """

    Config: ClassVar[type[BaseConfig]] = BaseConfig
    draws: bool = False
    """Whether a hook uses its seed; an inner loop that draws is not traced into a fixed graph."""

    def __init__(self, config: Any, context: Context) -> None:
        self.config = config
        self.context = context

    @property
    def moves_shapes(self) -> bool:
        """Whether its choices decide which parameters the network has."""
        return False

    @property
    def constant_gradients(self) -> bool:
        """Whether it takes the inner gradients as constants, so that no second derivatives are needed."""
        return False

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        """Fresh learned tensors and buffers, without the task axis; both empty for a fixed component."""
        return {}, {}

    def space(self) -> Space:
        """The choices it leaves to a searcher, named relative to the slot."""
        return Space({})

    def network(self, model: Model) -> Model:
        """The network as this component makes it (an architecture's choices, for example)."""
        return model

    def theta(self, values: Tensors, theta: Tensors, task: Task, seed: int) -> Tensors:
        """The network's parameters ``[T, ...]`` before the first step."""
        return theta

    def support(self, values: Tensors, batch: Batch, step: int, seeds: NDArray[np.int64]) -> Batch:
        """The examples of one inner step; ``seeds`` ``[T]``, one a task, are this slot's own at this step."""
        return batch

    def losses(self, values: Tensors, losses: Tensor, batch: Batch, step: int) -> Tensor:
        """Losses of single examples ``[T, n]``, before their mean is taken."""
        return losses

    def penalty(self, values: Tensors, theta: Tensors, start: Tensors, *, train: bool) -> Tensor | None:
        """``[T]``, what is added to the support loss for the parameters; ``start`` is theta before the first step."""
        return None

    def parameters(self, values: Tensors, theta: Tensors, step: int) -> Tensors:
        """The parameters that the network is called with at an inner step; theta itself goes on as it is."""
        return theta

    def gradients(self, values: Tensors, gradients: Tensors, theta: Tensors, step: int) -> Tensors:
        """The gradients ``[T, ...]`` that reach the update rule."""
        return gradients

    def rates(self, values: Tensors, rates: Tensors, step: int) -> Tensors:
        """Learning rates by parameter name, broadcastable to ``[T, ...]``."""
        return rates

    def begin_update(self, values: Tensors, theta: Tensors, seeds: NDArray[np.int64] | None = None) -> Any:
        """The update rule's state before the first step: a tree of tensors ``[T, ...]``; ``seeds`` ``[T]``, one a task,
        are this slot's own. Here ``values`` holds the slot's buffers, too.
        """
        return {}

    def handed_on(self, state: Any) -> Tensors:
        """Next values ``[T, ...]`` of the slot's buffers, where training on a task ends with a state."""
        return {}

    def observe(self, values: Tensors, loss: Tensor, state: Any, step: int) -> Any:
        """The update rule's state once the support loss ``[T]`` before a step is known."""
        return state

    def update(
        self, values: Tensors, theta: Tensors, gradients: Tensors, rates: Tensors, state: Any, step: int
    ) -> tuple[Tensors, Any] | None:
        """The next parameters and the rule's next state; None from a component that is no update rule."""
        return None
