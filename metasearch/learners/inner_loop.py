"""F_phi as an inner loop: gradient steps on the support set, with slots for everything about them that can be learned.

    theta_0 = initialization
    theta_{k+1} = update_rule(theta_k, gradient of the support loss, rates)
    l = query loss at theta_K

MAML (Finn, Abbeel, Levine 2017, arXiv:1703.03400) is the case of a learned initialization under plain gradient descent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator
from torch import Tensor

from metasearch.components import SLOTS, Component, Context
from metasearch.components.chosen import ChosenNumbers
from metasearch.core import seeds as seeding
from metasearch.core.config import Config as BaseConfig
from metasearch.core.config import validate
from metasearch.core.contracts import Model
from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.core.registry import build
from metasearch.core.space import Dimension, Space
from metasearch.core.values import Batch, Losses, Phi, Task, TaskSpec, Tensors
from metasearch.learners.adapted import Adapted, Mode, predictions
from metasearch.learners.losses import loss_for, metrics_for
from metasearch.learners.minibatch import minibatch
from metasearch.learners.unroll import FINAL, Annealed, unroll
from metasearch.models import build_model

__all__ = ["Batches", "InnerLoop", "Steps", "layer_seeds"]

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


class Batches(BaseConfig):
    """Support examples of one inner step; None means all of them.

    Args:
        train: in meta-training.
        test: in validation, test and adaptation.
    """

    train: PositiveInt | None = None
    test: PositiveInt | None = None


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
            batch: support examples of one inner step, shuffled by each task's seed; None means all of them, one number
                means training and test.
            objective: what phi descends: the query loss after the last step, its sum over all steps, a weighted sum
                with one weight for each step from 1 on, or weights that change on the way
                (:class:`~metasearch.learners.unroll.Annealed`: ``{until: 5000, every: 500}``).
            along: whose loss that is: on the query set, or on the ``support`` examples (with ``batch``, those of the
                step that comes next), which costs nothing further: the trajectory of the training loss.
            predict: how query examples are predicted in validation, test and adaptation: ``together`` as one batch,
                which is transductive with batch norm; ``alone``, one at a time in a batch with the support set;
                ``both``, where L is measured together; or ``nil``, without the head, by the support example with the
                nearest features (see :func:`~metasearch.learners.adapted.predictions`). Figures that are not measured
                together are named so: ``accuracy_alone``, ``accuracy_nil``.
            adapt: patterns of the parameter names that the inner loop changes (all by default); a pattern after ``!``
                takes names out again.
            slots: what fills each slot; what is not named is a learned initialization, a rate of 0.1, and gradient
                descent. With ``chosen: {within: [low, high]}`` a slot's learned numbers are no tensors of phi but its
                choices (see :class:`~metasearch.components.chosen.ChosenNumbers`).
        """

        model: Any
        steps: Steps = Steps(train=1, test=1)
        reduction: Literal["mean", "sum"] = "mean"
        batch: Batches = Batches()
        objective: Literal["final", "sum"] | tuple[float, ...] | Annealed = "final"
        along: Literal["query", "support"] = "query"
        predict: Literal["together", "alone", "both", "nil"] = "together"
        adapt: tuple[str, ...] = ("*",)
        slots: dict[str, dict[str, Any]] = Field(default_factory=dict)

        @field_validator("steps", mode="before")
        @classmethod
        def _both(cls, value: Any) -> Any:
            return {"train": value, "test": value} if isinstance(value, int) else value

        @field_validator("batch", mode="before")
        @classmethod
        def _all_or_both(cls, value: Any) -> Any:
            return {"train": value, "test": value} if value is None or isinstance(value, int) else value

    def __init__(self, config: Any, spec: TaskSpec, choices: Mapping[str, Any] | None = None) -> None:
        self.config = config
        self.spec = spec
        self.model: Model = self.build_network()
        self.slots: dict[str, Component] = {}
        self.chosen: dict[str, ChosenNumbers] = {}
        self._measure(config)
        for slot, settings in _ordered({**DEFAULT_SLOTS, **config.slots}).items():
            prefix = f"slots.{slot}."
            own = {
                name.removeprefix(prefix): value for name, value in (choices or {}).items() if name.startswith(prefix)
            }
            context = Context(self.model, spec, self._shapes, self.adapted, own, max(config.steps.train, 1))
            block = {key: value for key, value in settings.items() if key != "chosen"}
            self.slots[slot] = build(f"slot.{slot}", block, f"slots.{slot}", context=context)
            if settings.get("chosen") is not None:
                self.chosen[slot] = self._chosen(slot, settings["chosen"], own)
            if slot == "architecture":  # everything else is built for the network that it makes
                self.model = self.slots[slot].network(self.model)
                self._measure(config)
        for slot, component in self.slots.items():
            self.model = self.model if slot == "architecture" else component.network(self.model)
        self._check_shapes()
        self._constant = any(component.constant_gradients for component in self.slots.values())
        if config.predict == "nil" and (
            spec.kind != "classification" or not hasattr(self.model, "represent") or "head.bias" not in self._shapes
        ):
            raise ConfigError(
                "predict", "nil needs classification, and a network that gives the features below its head: conv4, mlp"
            )
        self._penalized = any(type(one).penalty is not Component.penalty for one in self.slots.values())
        weights = config.objective
        if isinstance(weights, Annealed) and config.along == "support":
            raise ConfigError("objective", "weights that change on the way are for query losses; leave `along` out")
        if isinstance(weights, tuple) and len(weights) != config.steps.train:
            raise ConfigError(
                "objective", f"needs one weight a training step: {config.steps.train}, got {len(weights)}"
            )

    def _chosen(self, slot: str, settings: Any, choices: Mapping[str, Any]) -> ChosenNumbers:
        path = f"slots.{slot}.chosen"
        config = validate(ChosenNumbers.Config, settings, path)
        others = self.slots[slot].space()
        own = {name: value for name, value in choices.items() if name not in others.dimensions}
        try:
            return ChosenNumbers(config, self.slots[slot].init(0)[0], own)
        except ConfigError as error:
            raise error.under(path) from None

    def _measure(self, config: Any) -> None:
        """Notes the shapes of the network's parameters, its fresh buffers, and what the inner loop changes."""
        parameters, self._buffers = self.model.init(0)
        self._shapes = {name: tuple(value.shape) for name, value in parameters.items()}
        self.adapted = _matching(config.adapt, self._shapes)

    def _check_shapes(self) -> None:
        """Refuses to learn values for parameters that other choices do not have."""
        if not any(component.moves_shapes and component.space() for component in self.slots.values()):
            return
        for slot, component in self.slots.items():
            if set(component.init(0)[0]) & set(self._shapes):
                raise UnsupportedError(
                    f"slots.{slot}",
                    "learns values for parameters that depend on the architecture; use initialization: {type: random}, "
                    "or one supernet for all architectures: architecture: {type: chosen, weights: shared}",
                )

    def build_network(self) -> Model:
        """The network that is trained.

        Raises:
            UnsupportedError: if the tasks have no loss.
        """
        loss_for(self.spec)
        return build_model(self.config.model, self.spec)

    def example_losses(
        self, theta: Tensors, buffers: Tensors, batch: Batch, seeds: NDArray[np.int64]
    ) -> tuple[Tensor, Tensors]:
        """Training losses of single examples ``[T, n]`` at ``theta [T, ...]``, and the network's next buffers."""
        outputs, buffers = self.model(theta, buffers, batch.x, seeds=seeds)
        return loss_for(self.spec)(outputs, batch.y), buffers

    def space(self) -> Space:
        """The choices that slots leave to a searcher, by ``slots.<slot>.<name>``."""
        return Space(
            {
                f"slots.{slot}.{name}": _below(dimension, f"slots.{slot}.")
                for slot, component in self.slots.items()
                for part in (component, self.chosen.get(slot))
                if part is not None
                for name, dimension in part.space().dimensions.items()
            }
        )

    def filled(self, phi: Phi, like: Tensor | None = None) -> Phi:
        """Phi with the numbers that were chosen among its tensors.

        Args:
            phi: one of this learner's; one that has them already is returned as it is.
            like: a tensor whose dtype and device they get; None means the default ones.
        """
        own = {
            f"{slot}.{name}": value
            for slot, numbers in self.chosen.items()
            if f"{slot}.{next(iter(numbers.tensors))}" not in phi.tensors
            for name, value in numbers.like(like).items()
        }
        return phi.replace(tensors={**phi.tensors, **own}) if own else phi

    @property
    def traceable(self) -> bool:
        """Whether ``evaluate`` is a fixed function of its tensors, so that it may be traced once and compiled."""
        whole = self.config.batch.train is None and not self.chosen
        return whole and getattr(self.model, "traceable", False) and not any(one.draws for one in self.slots.values())

    def init(self, seed: int) -> Phi:
        """A fresh phi: what each slot learns, under the slot's name."""
        tensors: Tensors = {}
        buffers: Tensors = {}
        for slot, component in self.slots.items():
            own, state = component.init(seeding.derive(seed, "init", slot))
            if slot not in self.chosen:
                tensors |= {f"{slot}.{name}": value for name, value in own.items()}
            buffers |= {f"{slot}.{name}": value for name, value in state.items()}
        return Phi(tensors, buffers)

    def n_steps(self, *, train: bool = True) -> int:
        """Length of the inner loop in training or at test."""
        return int(self.config.steps.train if train else self.config.steps.test)

    def objective_weights(self, outer_step: int | None = None) -> tuple[float, ...]:
        """Weights of the query losses after the last inner steps of training, at an outer step; None is the end."""
        given, steps = self.config.objective, self.n_steps()
        if isinstance(given, Annealed):
            return FINAL if outer_step is None else given.weights(steps, outer_step)
        if isinstance(given, str):
            return FINAL if given == "final" or not steps else (1.0,) * steps
        return given or FINAL

    def rates(self, phi: Phi, step: int) -> Tensors:
        """Learning rates of one inner step by parameter name, broadcastable to ``[T, ...]``."""
        rates: Tensors = {}
        phi = self.filled(phi)
        for slot, component in self.slots.items():
            rates = component.rates(phi.part(slot), rates, step)
        return rates

    def begin(self, phi: Phi, task: Task, seed: int, *, train: bool = True) -> State:
        """The state before the first step.

        It holds ``theta`` and ``buffers`` ``[T, ...]``, the update rule's state, the step count and whether this is
        training; where a slot penalizes the way from the start, also ``start``.
        """
        theta: Tensors = {}
        rule: State = {}
        phi = self.filled(phi, task.support.x)
        for slot, component in self.slots.items():
            theta = component.theta(phi.part(slot), theta, task, seed)
        for slot, component in self.slots.items():
            if state := component.begin_update(phi.part(slot), theta):
                rule[slot] = state
        like, learned = task.support.x, phi.buffers_of("initialization")
        fresh = {  # buffers that are no part of phi start anew in each task
            name: value.to(like.device, like.dtype if value.is_floating_point() else None)
            for name, value in self._buffers.items()
        }
        buffers = {name: learned.get(name, value).expand(len(task), *value.shape) for name, value in fresh.items()}
        state = {"theta": theta, "buffers": buffers, "rule": rule, "step": 0, "train": train}
        return {**state, "start": theta} if self._penalized else state

    def step(self, phi: Phi, task: Task, state: State, seed: int, *, create_graph: bool = True) -> State:
        """One inner step on the support set; without ``create_graph`` its gradient is a constant.

        Where the objective is of the support examples, the state's ``loss`` ``[T]`` is the one that the step began
        with, and has derivatives in phi.
        """
        phi = self.filled(phi, task.support.x)
        theta, number = state["theta"], state["step"]
        create_graph = create_graph and not self._constant
        # Shared initial weights arrive as views of phi; their per-task gradients need per-task leaves of the graph.
        adapted = {name: theta[name] for name in self.adapted}
        if not create_graph:
            adapted = {name: value.detach().requires_grad_() for name, value in adapted.items()}
        else:
            adapted = {
                name: value if value.requires_grad else value.requires_grad_() for name, value in adapted.items()
            }
        others = not create_graph and self.config.along == "support" and self._moves_otherwise(phi, theta)
        with torch.enable_grad():
            at = {**state, "theta": {**theta, **adapted}}
            loss, buffers = self._support(phi, self._examples(task, state, seed), at, task, seed)
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
        theta, rule = self._update(phi, theta, gradients, loss, state["rule"], number)
        after = {**state, "theta": theta, "buffers": buffers, "rule": rule, "step": number + 1}
        return {**after, "loss": loss} if self.config.along == "support" else after

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
        weights: Tensor | Sequence[float] | None = None,
        recompute: bool = False,
    ) -> tuple[State, Losses]:
        """Several steps from any state, and what the objective is of the states that they lead to.

        Unrolls that follow each other have objectives that add up to that of :meth:`evaluate`; see
        :func:`~metasearch.learners.unroll.unroll` for ``weights`` (the learner's own by default) and ``recompute``.
        """
        phi = self.filled(phi, task.support.x)
        if weights is None:
            last_ones = self.objective_weights() if train else FINAL
            whole = (0.0,) * (self.n_steps(train=train) - len(last_ones)) + last_ones
            weights = whole[state["step"] : state["step"] + steps] if steps else FINAL
        return unroll(
            self,
            phi,
            task,
            state,
            seed,
            steps,
            weights=weights,
            along=self.config.along if train else "query",
            train=train,
            create_graph=create_graph,
            recompute=recompute,
        )

    def support_loss(self, phi: Phi, task: Task, state: State, seed: int) -> Tensor:
        """``[T]``, the training loss at a state: over the whole support set, penalties included."""
        return self._support(self.filled(phi, task.support.x), task.support, state, task, seed)[0]

    def coming_loss(self, phi: Phi, task: Task, state: State, seed: int) -> Tensor:
        """``[T]``, the loss that the next step would begin with: on its support examples, penalties included."""
        return self._support(self.filled(phi, task.support.x), self._examples(task, state, seed), state, task, seed)[0]

    def query_loss(self, phi: Phi, task: Task, state: State, seed: int | None) -> Losses:
        """Losses and metrics on the query set at a state, and the buffers' next values.

        Without a seed, layers that draw (dropout) are off, as they are in what :meth:`adapt` returns.
        """
        phi = self.filled(phi, task.query.x)
        theta, buffers = self._network(phi, state), state["buffers"]
        seeds = None if seed is None else layer_seeds(task, seed, "query", state["step"])
        outputs, after = self.model(theta, buffers, task.query.x, seeds=seeds)
        measured = {"together": outputs}
        if seed is None:
            modes = self._modes()
            others: dict[Mode, Tensor] = {
                mode: predictions(mode, self.model, theta, buffers, task.query.x, task.support)
                for mode in modes
                if mode != "together"
            }
            measured = {mode: others.get(mode, outputs) for mode in modes}
            outputs = measured[modes[0]]
        loss = loss_for(self.spec)(outputs, task.query.y).mean(-1)
        with torch.no_grad():
            metrics = {
                name if mode == "together" else f"{name}_{mode}": value
                for mode, one in measured.items()
                for name, value in metrics_for(self.spec, one, task.query.y).items()
            }
            updates = {
                f"initialization.{name}": value.to(torch.float64).mean(0)
                for name, value in after.items()
                if f"initialization.{name}" in phi.buffers
            }
        return Losses(loss, loss, metrics, updates)

    def evaluate(self, phi: Phi, task: Task, seed: int, *, train: bool = True, create_graph: bool = True) -> Losses:
        """Runs the inner loop and takes the query loss; shapes as in :class:`~metasearch.core.contracts.Learner`."""
        state, steps = self.begin(phi, task, seed, train=train), self.n_steps(train=train)
        return self.unroll(phi, task, state, seed, steps, train=train, create_graph=create_graph)[1]

    def adapt(self, phi: Phi, support: Batch, seed: int, steps: int | None = None) -> Adapted:
        """Runs the inner loop on support sets ``[T, n, ...]`` and returns the networks it ends with."""
        seeds = seeding.derive_many(seed, "adapt", np.arange(support.x.shape[0]))
        task = Task(support, support, seeds)
        phi = self.filled(phi, support.x)
        state = self.begin(phi, task, seed, train=False)
        for _ in range(self.n_steps(train=False) if steps is None else steps):
            state = self.step(phi, task, state, seed, create_graph=False)
        return Adapted(self.model, self._network(phi, state), state["buffers"], support, self._modes()[0])

    def _modes(self) -> tuple[Mode, ...]:
        """How queries are predicted outside of training; L is measured by the first mode."""
        given: Any = self.config.predict
        return ("together", "alone") if given == "both" else (given,)

    def _moves_otherwise(self, phi: Phi, theta: Tensors) -> bool:
        """Whether phi moves the support loss on other ways than through the parameters that are adapted."""
        hooks = ("losses", "support", "parameters", "penalty")
        learned = (
            value.requires_grad
            for slot, component in self.slots.items()
            if any(getattr(type(component), hook) is not getattr(Component, hook) for hook in hooks)
            for value in phi.part(slot).values()
        )
        fixed = (value.requires_grad for name, value in theta.items() if name not in self.adapted)
        return any(learned) or any(fixed)

    def _examples(self, task: Task, state: State, seed: int) -> Batch:
        """The support examples of the next step."""
        size = self.config.batch.train if state["train"] else self.config.batch.test
        if size is None:
            return task.support
        return minibatch(task.support, size, state["step"], layer_seeds(task, seed, "batch"))

    def _network(self, phi: Phi, state: State) -> Tensors:
        """The parameters of the network after the steps so far; what belongs to a step is that of the last one."""
        theta: Tensors = state["theta"]
        for slot, component in self.slots.items():
            theta = component.parameters(phi.part(slot), theta, max(state["step"] - 1, 0))
        return theta

    def _support(self, phi: Phi, batch: Batch, state: State, task: Task, seed: int) -> tuple[Tensor, Tensors]:
        """Loss ``[T]`` on support examples before the next step, and the buffers after it."""
        theta, number = state["theta"], state["step"]
        for slot, component in self.slots.items():
            batch = component.support(phi.part(slot), batch, number, layer_seeds(task, seed, slot, number))
            theta = component.parameters(phi.part(slot), theta, number)
        seeds = layer_seeds(task, seed, "support", number)
        losses, buffers = self.example_losses(theta, state["buffers"], batch, seeds)
        for slot, component in self.slots.items():
            losses = component.losses(phi.part(slot), losses, batch, number)
        loss = losses.mean(-1) if self.config.reduction == "mean" else losses.sum(-1)
        for slot, component in self.slots.items():
            penalty = component.penalty(
                phi.part(slot), state["theta"], state["start"] if self._penalized else {}, train=state["train"]
            )
            loss = loss if penalty is None else loss + penalty
        return loss, {name: value.detach() for name, value in buffers.items()}

    def _update(
        self, phi: Phi, theta: Tensors, gradients: Tensors, loss: Tensor, rule: State, number: int
    ) -> tuple[Tensors, State]:
        for slot, component in self.slots.items():
            gradients = component.gradients(phi.part(slot), gradients, theta, number)
        rates = self.rates(phi, number)
        after = dict(rule)
        for slot, component in self.slots.items():
            known = component.observe(phi.part(slot), loss, rule.get(slot, {}), number)
            moved = component.update(phi.part(slot), theta, gradients, rates, known, number)
            if moved is not None:
                theta, state = moved
                if state:
                    after[slot] = state
        return theta, after


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


def layer_seeds(task: Task, seed: int, *purpose: str | int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Seeds ``[T]`` for what is drawn: from each task's own seed, so that grouping changes nothing."""
    key = np.int64(seeding.derive(seed, *purpose))
    return np.asarray(np.bitwise_xor(task.seeds, key), dtype=np.int64)
