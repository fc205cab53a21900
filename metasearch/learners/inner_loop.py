"""F_phi as an inner loop: gradient steps on the support set, with slots for everything about them that can be learned.

    theta_0 = initialization
    theta_{k+1} = update_rule(theta_k, gradient of the support loss, rates)
    l = query loss at theta_K

MAML (Finn, Abbeel, Levine 2017, arXiv:1703.03400) is the case of a learned initialization under plain gradient descent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator
from torch import Tensor

from metasearch.components import SLOTS, Component, Context
from metasearch.core import seeds as seeding
from metasearch.core.config import Config as BaseConfig
from metasearch.core.contracts import Model
from metasearch.core.errors import ConfigError
from metasearch.core.registry import build
from metasearch.core.space import Dimension, Space
from metasearch.core.values import Batch, Losses, Phi, Task, TaskSpec, Tensors
from metasearch.learners.losses import loss_for, metrics_for
from metasearch.models import build_model
from metasearch.tasks.sampling import distinct

__all__ = ["InnerLoop", "Steps"]

State = dict[str, Any]
DEFAULT_SLOTS: Mapping[str, Mapping[str, Any]] = {
    "initialization": {"type": "tensors"},
    "learning_rates": {"type": "fixed", "value": 0.1},
    "update_rule": {"type": "sgd"},
}


class Steps(BaseConfig):
    """Numbers of inner steps.

    Args:
        train: in meta-training.
        test: in validation, test and adaptation.
    """

    train: NonNegativeInt
    test: NonNegativeInt


class InnerLoop:
    """Slots put together: trains theta of a network on the support set and judges it on the query set.

    Args:
        config: its settings.
        spec: shapes of the tasks.
        choices: values of the slots' own spaces, by ``slots.<slot>.<name>``.

    Raises:
        ConfigError: if a slot, the model or a pattern of ``adapt`` cannot be used.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            model: the network: ``type`` and its settings, a name, or an ``nn.Module`` class or object of your own.
            steps: inner steps in training and at test; one number means both.
            reduction: how the losses of the support examples become one: their mean, or their sum. A rate acts on the
                result, so one rate serves any number of classes under ``sum`` (as in the published code of MAML).
            batch: support examples of one inner step, drawn without replacement from each task's seed for each step
                (all of them where the support set is not larger); by default every step sees the whole support set.
            objective: what phi descends: the loss after the last step, its sum over all steps, or a weighted sum with
                one weight for each step from 1 on.
            along: whose loss that is: on the query set, or on the ``support`` examples (with ``batch``, those of the
                step that comes next), which costs nothing further: the trajectory of the training loss.
            adapt: patterns of the parameter names that the inner loop changes (all by default).
            slots: what fills each slot; what is not named is a learned initialization, a rate of 0.1, and gradient
                descent.
        """

        model: Any
        steps: Steps = Steps(train=1, test=1)
        reduction: Literal["mean", "sum"] = "mean"
        batch: PositiveInt | None = None
        objective: Literal["final", "sum"] | tuple[float, ...] = "final"
        along: Literal["query", "support"] = "query"
        adapt: tuple[str, ...] = ("*",)
        slots: dict[str, dict[str, Any]] = Field(default_factory=dict)

        @field_validator("steps", mode="before")
        @classmethod
        def _both(cls, value: Any) -> Any:
            return {"train": value, "test": value} if isinstance(value, int) else value

    def __init__(self, config: Any, spec: TaskSpec, choices: Mapping[str, Any] | None = None) -> None:
        self.config = config
        self.spec = spec
        self.model: Model = build_model(config.model, spec)
        self._loss = loss_for(spec)
        parameters, _ = self.model.init(0)
        shapes = {name: tuple(value.shape) for name, value in parameters.items()}
        self._adapted = _matching(config.adapt, shapes)
        self.slots: dict[str, Component] = {}
        for slot, settings in _ordered({**DEFAULT_SLOTS, **config.slots}).items():
            prefix = f"slots.{slot}."
            own = {
                name.removeprefix(prefix): value for name, value in (choices or {}).items() if name.startswith(prefix)
            }
            context = Context(self.model, spec, shapes, self._adapted, own)
            self.slots[slot] = build(f"slot.{slot}", settings, f"slots.{slot}", context=context)
        for component in self.slots.values():
            self.model = component.network(self.model)
        self._constant = any(component.constant_gradients for component in self.slots.values())
        weights = config.objective
        if not isinstance(weights, str) and len(weights) != config.steps.train:
            raise ConfigError(
                "objective", f"needs one weight a training step: {config.steps.train}, got {len(weights)}"
            )

    def space(self) -> Space:
        """The choices that slots leave to a searcher, by ``slots.<slot>.<name>``."""
        return Space(
            {
                f"slots.{slot}.{name}": _below(dimension, f"slots.{slot}.")
                for slot, component in self.slots.items()
                for name, dimension in component.space().dimensions.items()
            }
        )

    @property
    def traceable(self) -> bool:
        """Whether ``evaluate`` is a fixed function of its tensors, so that it may be traced once and compiled."""
        draws = self.config.batch is not None or any(slot.draws for slot in self.slots.values())
        return getattr(self.model, "traceable", False) and not draws

    def init(self, seed: int) -> Phi:
        """A fresh phi: what each slot learns, under the slot's name."""
        tensors: Tensors = {}
        buffers: Tensors = {}
        for slot, component in self.slots.items():
            own, state = component.init(seeding.derive(seed, "init", slot))
            tensors |= {f"{slot}.{name}": value for name, value in own.items()}
            buffers |= {f"{slot}.{name}": value for name, value in state.items()}
        return Phi(tensors, buffers)

    def n_steps(self, *, train: bool = True) -> int:
        """Length of the inner loop in training or at test."""
        return int(self.config.steps.train if train else self.config.steps.test)

    def begin(self, phi: Phi, task: Task, seed: int) -> State:
        """The state before the first step.

        It holds ``theta`` and ``buffers`` ``[T, ...]``, the update rule's state and the step count.
        """
        theta: Tensors = {}
        rule: State = {}
        for slot, component in self.slots.items():
            theta = component.theta(phi.part(slot), theta, task, seed)
        for slot, component in self.slots.items():
            if state := component.begin_update(phi.part(slot), theta):
                rule[slot] = state
        buffers = {
            name: value.expand(len(task), *value.shape) for name, value in phi.buffers_of("initialization").items()
        }
        return {"theta": theta, "buffers": buffers, "rule": rule, "step": 0}

    def step(self, phi: Phi, task: Task, state: State, seed: int, *, create_graph: bool = True) -> State:
        """One inner step on the support set; without ``create_graph`` its gradient is a constant."""
        return self._step(phi, task, state, seed, create_graph=create_graph)[0]

    def weights(self, *, train: bool = True) -> tuple[float, ...]:
        """What the loss after each step counts for in the objective."""
        steps, objective = self.n_steps(train=train), self.config.objective
        if objective == "final" or not train:
            return (0.0,) * (steps - 1) + (1.0,) * min(steps, 1)
        return (1.0,) * steps if objective == "sum" else tuple(objective)

    def unroll(
        self,
        phi: Phi,
        task: Task,
        state: State,
        seed: int,
        steps: int,
        *,
        train: bool = True,
        create_graph: bool = True,
    ) -> tuple[State, Losses]:
        """Several steps from any state, and what the objective is of the states that they lead to.

        Unrolls that follow each other have objectives that add up to that of :meth:`evaluate`.
        """
        weights = self.weights(train=train)
        on_support = train and self.config.along == "support"
        share: list[Tensor] = []
        for taken in range(steps):
            number = state["step"]
            state, before = self._step(phi, task, state, seed, create_graph=create_graph)
            if on_support and taken and weights[number - 1]:
                share.append(weights[number - 1] * before)
            if not on_support and taken + 1 < steps and weights[number]:
                share.append(weights[number] * self.query_loss(phi, task, state, seed).query)
        weight = weights[state["step"] - 1] if state["step"] else 1.0
        if on_support:
            with torch.no_grad():
                last = self.query_loss(phi, task, state, seed)
            share += [weight * self.support_loss(phi, task, state, seed)] if weight else []
        else:
            last = self.query_loss(phi, task, state, seed if train else None)
            if weight == 1.0 and not share:
                return state, last
            share += [weight * last.query] if weight else []
        objective = torch.stack(share).sum(0) if share else torch.zeros_like(last.query)
        return state, Losses(objective, last.query, last.metrics, last.updates)

    def support_loss(self, phi: Phi, task: Task, state: State, seed: int) -> Tensor:
        """``[T]``, the training loss at a state."""
        return self._support(phi, task, state["theta"], state["buffers"], state["step"], seed)[0]

    def query_loss(self, phi: Phi, task: Task, state: State, seed: int | None) -> Losses:
        """Losses and metrics on the query set at a state, and the buffers' next values.

        Without a seed, layers that draw (dropout) are off, as they are in what :meth:`adapt` returns.
        """
        seeds = None if seed is None else _seeds(task, seed, "query", state["step"])
        outputs, buffers = self.model(state["theta"], state["buffers"], task.query.x, seeds=seeds)
        loss = self._loss(outputs, task.query.y).mean(-1)
        with torch.no_grad():
            metrics = metrics_for(self.spec, outputs, task.query.y)
            updates = {f"initialization.{name}": value.to(torch.float64).mean(0) for name, value in buffers.items()}
        return Losses(loss, loss, metrics, updates)

    def evaluate(self, phi: Phi, task: Task, seed: int, *, train: bool = True, create_graph: bool = True) -> Losses:
        """Runs the inner loop and takes the query loss; shapes as in :class:`~metasearch.core.contracts.Learner`."""
        state, steps = self.begin(phi, task, seed), self.n_steps(train=train)
        return self.unroll(phi, task, state, seed, steps, train=train, create_graph=create_graph)[1]

    def adapt(self, phi: Phi, support: Batch, seed: int, steps: int | None = None) -> Adapted:
        """Runs the inner loop on support sets ``[T, n, ...]`` and returns the networks it ends with."""
        seeds = seeding.derive_many(seed, "adapt", np.arange(support.x.shape[0]))
        task = Task(support, support, seeds)
        state = self.begin(phi, task, seed)
        for _ in range(self.n_steps(train=False) if steps is None else steps):
            state = self.step(phi, task, state, seed, create_graph=False)
        return Adapted(self.model, state["theta"], state["buffers"])

    def _step(self, phi: Phi, task: Task, state: State, seed: int, *, create_graph: bool) -> tuple[State, Tensor]:
        """The next state, and the support loss ``[T]`` at the state before, with its derivatives along the way."""
        theta, number = state["theta"], state["step"]
        create_graph = create_graph and not self._constant
        # Shared initial weights arrive as views of phi; their per-task gradients need per-task leaves of the graph.
        adapted = {name: theta[name] for name in self._adapted}
        if not create_graph:
            adapted = {name: value.detach().requires_grad_() for name, value in adapted.items()}
        else:
            adapted = {
                name: value if value.requires_grad else value.requires_grad_() for name, value in adapted.items()
            }
        others = not create_graph and self._moves_otherwise(phi, theta)
        with torch.enable_grad():
            loss, buffers = self._support(phi, task, {**theta, **adapted}, state["buffers"], number, seed)
            found = torch.autograd.grad(
                loss.sum(),
                list(adapted.values()),
                create_graph=create_graph,
                retain_graph=create_graph or others,
                allow_unused=True,
            )
        gradients = {
            name: torch.zeros_like(value) if gradient is None else gradient
            for (name, value), gradient in zip(adapted.items(), found, strict=True)
        }
        if not create_graph:
            loss = _attached(loss if others else loss.detach(), theta, gradients)
        theta, rule = self._update(phi, theta, gradients, state["rule"], number)
        return {"theta": theta, "buffers": buffers, "rule": rule, "step": number + 1}, loss

    def _moves_otherwise(self, phi: Phi, theta: Tensors) -> bool:
        """Whether phi moves the support loss on other ways than through the parameters that are adapted."""
        learned = (
            value.requires_grad
            for slot, component in self.slots.items()
            if type(component).losses is not Component.losses or type(component).support is not Component.support
            for value in phi.part(slot).values()
        )
        fixed = (value.requires_grad for name, value in theta.items() if name not in self._adapted)
        return any(learned) or any(fixed)

    def _support(
        self, phi: Phi, task: Task, theta: Tensors, buffers: Tensors, number: int, seed: int
    ) -> tuple[Tensor, Tensors]:
        batch = self._drawn(task, seed, number)
        for slot, component in self.slots.items():
            batch = component.support(phi.part(slot), batch, number, seed)
        outputs, buffers = self.model(theta, buffers, batch.x, seeds=_seeds(task, seed, "support", number))
        losses = self._loss(outputs, batch.y)
        for slot, component in self.slots.items():
            losses = component.losses(phi.part(slot), losses, batch, number)
        reduced = losses.mean(-1) if self.config.reduction == "mean" else losses.sum(-1)
        return reduced, {name: value.detach() for name, value in buffers.items()}

    def _drawn(self, task: Task, seed: int, number: int) -> Batch:
        """The support examples of one step."""
        support, size = task.support, self.config.batch
        if size is None or size >= support.x.shape[1]:
            return support
        words = seeding.Draws(_seeds(task, seed, "batch", number)).bits(2 * size)
        index = torch.from_numpy(distinct(words, support.x.shape[1])).to(support.x.device)
        tasks = torch.arange(len(task), device=index.device).unsqueeze(1)
        return Batch(support.x[tasks, index], support.y[tasks, index])

    def _update(self, phi: Phi, theta: Tensors, gradients: Tensors, rule: State, number: int) -> tuple[Tensors, State]:
        rates: Tensors = {}
        for slot, component in self.slots.items():
            gradients = component.gradients(phi.part(slot), gradients, theta, number)
            rates = component.rates(phi.part(slot), rates, number)
        after = dict(rule)
        for slot, component in self.slots.items():
            moved = component.update(phi.part(slot), theta, gradients, rates, rule.get(slot, {}), number)
            if moved is not None:
                theta, state = moved
                if state:
                    after[slot] = state
        return theta, after


class Adapted:
    """Networks that an inner loop ended with; call it on ``x [T, n, ...]`` for outputs ``[T, n, outputs]``.

    Args:
        model: the network.
        theta: its adapted parameters ``[T, ...]``.
        buffers: its buffers ``[T, ...]``.
    """

    def __init__(self, model: Model, theta: Tensors, buffers: Tensors) -> None:
        self.model, self.theta, self.buffers = model, theta, buffers

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return self.model(self.theta, self.buffers, x)[0]


def _attached(loss: Tensor, theta: Tensors, gradients: Tensors) -> Tensor:
    """A loss ``[T]`` whose derivative in theta is known: its value stays, its graph leads through theta."""
    for name, gradient in gradients.items():
        if theta[name].requires_grad:
            along = gradient * (theta[name] - theta[name].detach())
            loss = loss + along.flatten(1).sum(1) if along.dim() > 1 else loss + along
    return loss


def _below(dimension: Dimension, prefix: str) -> Dimension:
    """A dimension whose conditions name dimensions below a prefix."""
    if not dimension.when:
        return dimension
    return dataclasses.replace(dimension, when={prefix + name: values for name, values in dimension.when.items()})


def _matching(patterns: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in shapes):
            raise ConfigError("adapt", f"no parameter matches {pattern!r}; the model has: {', '.join(shapes)}")
    return tuple(name for name in shapes if any(fnmatchcase(name, pattern) for pattern in patterns))


def _ordered(slots: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Slots in the order of their hooks: the known ones first, then others by name."""
    known = [name for name in SLOTS if name in slots]
    return {name: slots[name] for name in [*known, *sorted(set(slots) - set(known))]}


def _seeds(task: Task, seed: int, purpose: str, step: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Seeds ``[T]`` for layers that draw: from each task's own seed, so that grouping changes nothing."""
    key = np.int64(seeding.derive(seed, purpose, step))
    return np.asarray(np.bitwise_xor(task.seeds, key), dtype=np.int64)
