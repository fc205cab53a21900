"""The components of an inner loop as one: built for a network, and called one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metasearch.components import SLOTS, Component, Context
from metasearch.components.chosen import ChosenNumbers
from metasearch.core import seeds as seeding
from metasearch.core.config import validate
from metasearch.core.contracts import Model
from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.core.registry import build
from metasearch.core.space import Dimension, Space
from metasearch.core.values import Batch, Phi, Task, TaskSpec, Tensors

__all__ = ["Slots"]

State = dict[str, Any]
Seeds = NDArray[np.int64]


class Slots(Mapping[str, Component]):
    """Slots in the order of their hooks, and the network that they were built for.

    Each hook of :class:`~metasearch.components.Component` is a method here, which passes what it is given through all
    components, each with its part of phi (or the numbers that were chosen for it).

    Args:
        blocks: settings of each slot, by name.
        model: the network as the learner describes it.
        spec: shapes of the tasks.
        adapt: patterns of the names of the parameters that the inner loop changes.
        choices: values of the slots' own spaces, by ``slots.<slot>.<name>``.
        steps: inner steps in training.

    Raises:
        ConfigError: if a slot or a pattern cannot be used.
        UnsupportedError: if values would be learned for parameters that depend on what is chosen.
    """

    model: Model
    """The network as the slots make it."""
    shapes: dict[str, tuple[int, ...]]
    """Of its parameters, without the task axis."""
    buffers: Tensors
    """Its fresh buffers."""
    adapted: tuple[str, ...]
    """Names of the parameters that the inner loop changes."""

    def __init__(
        self,
        blocks: Mapping[str, Mapping[str, Any]],
        model: Model,
        spec: TaskSpec,
        *,
        adapt: tuple[str, ...],
        choices: Mapping[str, Any],
        steps: int,
    ) -> None:
        self._components: dict[str, Component] = {}
        self._chosen: dict[str, ChosenNumbers] = {}
        self._measure(model, adapt)
        for slot, settings in _ordered(blocks).items():
            prefix = f"slots.{slot}."
            own = {name.removeprefix(prefix): value for name, value in choices.items() if name.startswith(prefix)}
            context = Context(self.model, spec, self.shapes, self.adapted, own, max(steps, 1))
            block = {key: value for key, value in settings.items() if key != "chosen"}
            component = self._components[slot] = build(f"slot.{slot}", block, f"slots.{slot}", context=context)
            if settings.get("chosen") is not None:
                self._chosen[slot] = _chosen(slot, component, settings["chosen"], own)
            if slot == "architecture":  # everything else is built for the network that it makes
                self._measure(component.network(self.model), adapt)
        for slot, component in self.items():
            self.model = self.model if slot == "architecture" else component.network(self.model)
        self._check_shapes()
        self.draws = any(component.draws for component in self.values())
        self.constant_gradients = any(component.constant_gradients for component in self.values())
        self.penalizes = self.has("penalty")

    def __getitem__(self, slot: str) -> Component:
        return self._components[slot]

    def __iter__(self) -> Iterator[str]:
        return iter(self._components)

    def __len__(self) -> int:
        return len(self._components)

    def _measure(self, model: Model, adapt: tuple[str, ...]) -> None:
        self.model = model
        parameters, self.buffers = model.init(0)
        self.shapes = {name: tuple(value.shape) for name, value in parameters.items()}
        self.adapted = _matching(adapt, self.shapes)

    def _check_shapes(self) -> None:
        """Refuses to learn values for parameters that other choices do not have."""
        if not any(component.moves_shapes and component.space() for component in self.values()):
            return
        for slot, component in self.items():
            if set(component.init(0)[0]) & set(self.shapes):
                raise UnsupportedError(
                    f"slots.{slot}",
                    "learns values for parameters that depend on the architecture; use initialization: {type: random}, "
                    "or one supernet for all architectures: architecture: {type: chosen, weights: shared}",
                )

    def has(self, *hooks: str) -> bool:
        """Whether a component does something in one of these hooks."""
        return any(_overrides(component, hook) for component in self.values() for hook in hooks)

    @property
    def any_chosen(self) -> bool:
        """Whether learned numbers of a slot are choices."""
        return bool(self._chosen)

    def space(self) -> Space:
        """The choices that slots leave to a searcher, by ``slots.<slot>.<name>``."""
        return Space(
            {
                f"slots.{slot}.{name}": _below(dimension, f"slots.{slot}.")
                for slot, component in self.items()
                for part in (component, self._chosen.get(slot))
                if part is not None
                for name, dimension in part.space().dimensions.items()
            }
        )

    def init(self, seed: int) -> Phi:
        """A fresh phi: what each slot learns, under the slot's name."""
        tensors: Tensors = {}
        buffers: Tensors = {}
        for slot, component in self.items():
            own, state = component.init(seeding.derive(seed, "init", slot))
            if slot not in self._chosen:
                tensors |= {f"{slot}.{name}": value for name, value in own.items()}
            buffers |= {f"{slot}.{name}": value for name, value in state.items()}
        return Phi(tensors, buffers)

    def _each(self, phi: Phi, like: Tensor | None) -> Iterator[tuple[str, Component, Tensors]]:
        """Each component with its values: its part of phi, or what was chosen, in the dtype of ``like``."""
        for slot, component in self.items():
            chosen = self._chosen.get(slot)
            yield slot, component, phi.part(slot) if chosen is None else chosen.like(like)

    def theta(self, phi: Phi, task: Task, seed: int) -> Tensors:
        """The network's parameters before the first step."""
        theta: Tensors = {}
        for _, component, values in self._each(phi, task.support.x):
            theta = component.theta(values, theta, task, seed)
        return theta

    def begin_update(self, phi: Phi, theta: Tensors, like: Tensor, seeds: Callable[[str], Seeds]) -> State:
        """The state of each slot that has one along the steps; ``seeds(slot)`` are those ``[T]`` of a slot."""
        begun = (
            (slot, one.begin_update({**values, **phi.buffers_of(slot)}, theta, seeds(slot)))
            for slot, one, values in self._each(phi, like)
        )
        return {slot: state for slot, state in begun if state}

    def handed_on(self, state: State) -> Tensors:
        """Next values of phi's buffers ``[T, ...]``, from the state of each slot that has one at the end of a task."""
        return {
            f"{slot}.{name}": value
            for slot, component in self.items()
            if slot in state
            for name, value in component.handed_on(state[slot]).items()
        }

    def support(self, phi: Phi, batch: Batch, step: int, seeds: Callable[[str], Seeds]) -> Batch:
        """The examples of one inner step; ``seeds(slot)`` are those ``[T]`` of a slot."""
        for slot, component, values in self._each(phi, batch.x):
            batch = component.support(values, batch, step, seeds(slot))
        return batch

    def parameters(self, phi: Phi, theta: Tensors, step: int, like: Tensor) -> Tensors:
        """The parameters that the network is called with."""
        for _, component, values in self._each(phi, like):
            theta = component.parameters(values, theta, step)
        return theta

    def losses(self, phi: Phi, losses: Tensor, batch: Batch, step: int) -> Tensor:
        """Losses of single examples ``[T, n]``."""
        for _, component, values in self._each(phi, losses):
            losses = component.losses(values, losses, batch, step)
        return losses

    def penalized(self, phi: Phi, loss: Tensor, theta: Tensors, start: Tensors, *, train: bool) -> Tensor:
        """A support loss ``[T]`` with what components add to it."""
        for _, component, values in self._each(phi, loss):
            penalty = component.penalty(values, theta, start, train=train)
            loss = loss if penalty is None else loss + penalty
        return loss

    def rates(self, phi: Phi, step: int, like: Tensor | None = None) -> Tensors:
        """Learning rates by parameter name, broadcastable to ``[T, ...]``."""
        rates: Tensors = {}
        for _, component, values in self._each(phi, like):
            rates = component.rates(values, rates, step)
        return rates

    def update(
        self, phi: Phi, theta: Tensors, gradients: Tensors, loss: Tensor, state: State, step: int
    ) -> tuple[Tensors, State]:
        """The next parameters, and the next state of each slot that has one."""
        for _, component, values in self._each(phi, loss):
            gradients = component.gradients(values, gradients, theta, step)
        rates = self.rates(phi, step, loss)
        after = dict(state)
        for slot, component, values in self._each(phi, loss):
            known = component.observe(values, loss, state.get(slot, {}), step)
            moved = component.update(values, theta, gradients, rates, known, step)
            if moved is not None:
                theta, next_one = moved
                if next_one:
                    after[slot] = next_one
        return theta, after

    def moves_loss(self, phi: Phi) -> bool:
        """Whether phi moves the support loss on other ways than through theta and the update."""
        hooks = ("losses", "support", "parameters", "penalty")
        return any(
            value.requires_grad
            for slot, component in self.items()
            if any(_overrides(component, hook) for hook in hooks)
            for value in phi.part(slot).values()
        )


def _overrides(component: Component, hook: str) -> bool:
    return getattr(type(component), hook) is not getattr(Component, hook)


def _chosen(slot: str, component: Component, settings: Any, choices: Mapping[str, Any]) -> ChosenNumbers:
    path = f"slots.{slot}.chosen"
    config = validate(ChosenNumbers.Config, settings, path)
    others = component.space()
    own = {name: value for name, value in choices.items() if name not in others.dimensions}
    try:
        return ChosenNumbers(config, component.init(0)[0], own)
    except ConfigError as error:
        raise error.under(path) from None


def _below(dimension: Dimension, prefix: str) -> Dimension:
    """A dimension whose conditions name dimensions below a prefix."""
    if not dimension.when:
        return dimension
    return dataclasses.replace(dimension, when={prefix + name: values for name, values in dimension.when.items()})


def _matching(patterns: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Names that fit a pattern; the patterns apply in their order, those after ``!`` take names out."""
    chosen: set[str] = set()
    for pattern in patterns:
        fitting = {name for name in shapes if fnmatchcase(name, pattern.removeprefix("!"))}
        if not fitting:
            raise ConfigError("adapt", f"no parameter matches {pattern!r}; the model has: {', '.join(shapes)}")
        chosen = chosen - fitting if pattern.startswith("!") else chosen | fitting
    return tuple(name for name in shapes if name in chosen)


def _ordered(slots: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Slots in the order of their hooks: the known ones first, then others by name."""
    known = [name for name in SLOTS if name in slots]
    return {name: slots[name] for name in [*known, *sorted(set(slots) - set(known))]}
