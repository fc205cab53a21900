"""F_phi as an inner loop: gradient steps on the support set, with slots for everything about them that can be learned.

    theta_0 = initialization
    theta_{k+1} = update_rule(theta_k, gradient of the support loss, rates)
    l = query loss at theta_K

MAML (Finn, Abbeel, Levine 2017, arXiv:1703.03400) is the case of a learned initialization under plain gradient descent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator
from torch import Tensor

from metasearch.core import seeds as seeding
from metasearch.core.config import Config as BaseConfig
from metasearch.core.contracts import Model
from metasearch.core.errors import ConfigError
from metasearch.core.space import Space
from metasearch.core.values import Batch, Losses, Phi, Task, TaskSpec, Tensors
from metasearch.learners.adapted import Adapted, Mode, predictions
from metasearch.learners.losses import loss_for, metrics_for
from metasearch.learners.minibatch import minibatch, minibatches, taken
from metasearch.learners.slots import Slots
from metasearch.learners.unroll import FINAL, Annealed, unroll
from metasearch.models import build_model
from metasearch.models.shared import compilable

__all__ = ["Batches", "InnerLoop", "Steps", "layer_seeds"]

State = dict[str, Any]
MINIBATCHES = "minibatches"
TRACED_STEPS = 32
"""Most steps on minibatches that are unrolled into a compiled graph; longer training takes minutes to compile."""
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
                with one weight for each step from 1 on or with the weights of the steps that count
                (``{100: 0.5, 200: 0.5}``), or weights that change on the way
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
        objective: Literal["final", "sum"] | tuple[float, ...] | dict[int, float] | Annealed = "final"
        along: Literal["query", "support"] = "query"
        predict: Literal["together", "alone", "both", "nil"] = "together"
        adapt: tuple[str, ...] = ("*",)
        slots: dict[str, dict[str, Any]] = Field(default_factory=dict)

        @field_validator("objective", mode="before")
        @classmethod
        def _by_step(cls, value: Any) -> Any:
            """Steps become numbers, which they are not in JSON."""
            if not isinstance(value, Mapping) or value.keys() & Annealed.model_fields.keys():
                return value
            try:
                return {int(str(step)): float(weight) for step, weight in value.items()}
            except (TypeError, ValueError):
                expected = "weights by step, such as {100: 0.5, 200: 0.5}, or until, every and floor"
                raise ValueError(f"expected {expected}, got {dict(value)}") from None

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
        self.slots = Slots(
            {**DEFAULT_SLOTS, **config.slots},
            self.build_network(),
            spec,
            adapt=config.adapt,
            choices=choices or {},
            steps=config.steps.train,
        )
        self.model: Model = self.slots.model
        self.adapted = self.slots.adapted
        if config.predict == "nil" and (
            spec.kind != "classification"
            or not hasattr(self.model, "represent")
            or "head.bias" not in self.slots.shapes
        ):
            raise ConfigError(
                "predict", "nil needs classification, and a network that gives the features below its head: conv4, mlp"
            )
        self._head_only = self._moves_head_only()
        weights = config.objective
        if isinstance(weights, Annealed) and config.along == "support":
            raise ConfigError("objective", "weights that change on the way are for query losses; leave `along` out")
        if isinstance(weights, tuple) and len(weights) != config.steps.train:
            raise ConfigError(
                "objective", f"needs one weight a training step: {config.steps.train}, got {len(weights)}"
            )
        if isinstance(weights, dict) and not (weights and 1 <= min(weights) <= max(weights) <= config.steps.train):
            raise ConfigError(
                "objective", f"needs weights for some of the steps 1 to {config.steps.train}, got {[*weights]}"
            )

    def _moves_head_only(self) -> bool:
        """Whether what lies below the head is the same for all tasks and steps, so that support features are computed
        once and with the kernels of shared weights.
        """
        config, below_head = self.config, set(self.adapted) <= {"head.weight", "head.bias"}
        whole = config.batch.train is None and config.batch.test is None and not self.slots.buffers
        return (
            below_head
            and whole
            and hasattr(self.model, "conclude")
            and not self.slots.draws
            and not self.slots.has("support", "parameters", "network")
        )

    def with_rule(self, rule: Mapping[str, Any]) -> InnerLoop:
        """The same inner loop under another update rule, ``type`` and its settings.

        Raises:
            ConfigError: if there is no such rule.
        """
        slots = {**self.config.slots, "update_rule": dict(rule)}
        return InnerLoop(self.config.model_copy(update={"slots": slots}), self.spec)

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
        return self.slots.space()

    @property
    def traceable(self) -> bool:
        """Whether ``evaluate`` is a fixed function of its tensors, so that it may be traced once and compiled."""
        few = self.config.batch.train is None or self.n_steps() <= TRACED_STEPS
        fixed = few and not self.slots.any_chosen and not self.slots.draws
        ready = compilable(self.model) if self._head_only else getattr(self.model, "traceable", False)
        return fixed and ready

    def init(self, seed: int) -> Phi:
        """A fresh phi: what each slot learns, under the slot's name."""
        return self.slots.init(seed)

    def drawn(self, task: Task, seed: int) -> Tensors:
        """``minibatches [T, steps, size]``: the numbers of the support examples of each training step, where a step
        takes a part of them.
        """
        size = self.config.batch.train
        if size is None:
            return {}
        steps = self.n_steps() + (self.config.along == "support")  # the loss at the end is that of a further step
        return {MINIBATCHES: minibatches(task.support, size, steps, layer_seeds(task, seed, "batch"))} if steps else {}

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
        if isinstance(given, dict):
            return tuple(given.get(step, 0.0) for step in range(min(given), steps + 1))
        return given or FINAL

    def rates(self, phi: Phi, step: int) -> Tensors:
        """Learning rates of one inner step by parameter name, broadcastable to ``[T, ...]``."""
        return self.slots.rates(phi, step)

    def begin(self, phi: Phi, task: Task, seed: int, *, train: bool = True) -> State:
        """The state before the first step.

        It holds ``theta`` and ``buffers`` ``[T, ...]``, the update rule's state, the step count and whether this is
        training; where a slot penalizes the way from the start, also ``start``. Where steps move the head only, other
        parameters are ``[1, ...]``, and ``features`` are those of the support examples, ``[T, n, features]``.
        """
        x, learned = task.support.x, phi.buffers_of("initialization")
        theta = self.slots.theta(phi, task, seed)
        rule = self.slots.begin_update(phi, theta, x, lambda slot: layer_seeds(task, seed, slot))
        fresh = {  # buffers that are no part of phi start anew in each task
            name: value.to(x.device, x.dtype if value.is_floating_point() else None)
            for name, value in self.slots.buffers.items()
        }
        buffers = {name: learned.get(name, value).expand(len(task), *value.shape) for name, value in fresh.items()}
        state = {"theta": theta, "buffers": buffers, "rule": rule, "step": 0, "train": train}
        if self._head_only:
            theta = {name: value if name in self.adapted else value[:1] for name, value in theta.items()}
            network: Any = self.model
            features = network.represent(theta, buffers, x, seeds=layer_seeds(task, seed, "support", 0))[0]
            state |= {"theta": theta, "features": features}
        return {**state, "start": theta} if self.slots.penalizes else state

    def step(self, phi: Phi, task: Task, state: State, seed: int, *, create_graph: bool = True) -> State:
        """One inner step on the support set; without ``create_graph`` its gradient is a constant.

        Where the objective is of the support examples, the state's ``loss`` ``[T]`` is the one that the step began
        with, and has derivatives in phi.
        """
        loss, gradients, buffers = self.gradients(phi, task, state, seed, create_graph=create_graph)
        theta, rule = self.slots.update(phi, state["theta"], gradients, loss, state["rule"], state["step"])
        after = {**state, "theta": theta, "buffers": buffers, "rule": rule, "step": state["step"] + 1}
        return {**after, "loss": loss} if self.config.along == "support" else after

    def gradients(
        self, phi: Phi, task: Task, state: State, seed: int, *, create_graph: bool = True
    ) -> tuple[Tensor, Tensors, Tensors]:
        """What the next step goes by: the training loss ``[T]`` at a state, its gradient by adapted parameter
        ``[T, ...]``, and the network's next buffers. Derivatives in phi are those of :meth:`step`.
        """
        theta = state["theta"]
        create_graph = create_graph and not self.slots.constant_gradients
        # Shared initial weights arrive as views of phi; their per-task gradients need per-task leaves of the graph.
        adapted = {name: theta[name] for name in self.adapted}
        if not create_graph:
            adapted = {name: value.detach().requires_grad_() for name, value in adapted.items()}
        else:
            adapted = {
                name: value if value.requires_grad else value.requires_grad_() for name, value in adapted.items()
            }
        fixed = any(value.requires_grad for name, value in theta.items() if name not in self.adapted)
        others = not create_graph and self.config.along == "support" and (fixed or self.slots.moves_loss(phi))
        with torch.enable_grad():
            at = {**state, "theta": {**theta, **adapted}}
            loss, buffers = self._support(phi, at, task, seed)
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
        return loss, gradients, buffers

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
        return self._support(phi, state, task, seed, whole=True)[0]

    def coming_loss(self, phi: Phi, task: Task, state: State, seed: int) -> Tensor:
        """``[T]``, the loss that the next step would begin with: on its support examples, penalties included."""
        return self._support(phi, state, task, seed)[0]

    def query_loss(self, phi: Phi, task: Task, state: State, seed: int | None) -> Losses:
        """Losses and metrics on the query set at a state, and the buffers' next values.

        Without a seed, layers that draw (dropout) are off, as they are in what :meth:`adapt` returns.
        """
        theta, buffers = self._network(phi, state, task.query.x), state["buffers"]
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
            if state["train"]:
                ends = self.slots.handed_on(state["rule"])
                updates |= {name: value.detach().to(torch.float64).mean(0) for name, value in ends.items()}
        return Losses(loss, loss, metrics, updates)

    def evaluate(self, phi: Phi, task: Task, seed: int, *, train: bool = True, create_graph: bool = True) -> Losses:
        """Runs the inner loop and takes the query loss; shapes as in :class:`~metasearch.core.contracts.Learner`."""
        state, steps = self.begin(phi, task, seed, train=train), self.n_steps(train=train)
        return self.unroll(phi, task, state, seed, steps, train=train, create_graph=create_graph)[1]

    def adapt(
        self, phi: Phi, support: Batch, seed: int, steps: int | None = None, *, seeds: NDArray[np.int64] | None = None
    ) -> Adapted:
        """Runs the inner loop on support sets ``[T, n, ...]`` and returns the networks it ends with; ``seeds`` as in
        :class:`~metasearch.core.contracts.Learner`.
        """
        if seeds is None:
            seeds = seeding.derive_many(seed, "adapt", np.arange(support.x.shape[0]))
        task = Task(support, support, seeds)
        state = self.begin(phi, task, seed, train=False)
        for _ in range(self.n_steps(train=False) if steps is None else steps):
            state = self.step(phi, task, state, seed, create_graph=False)
        found = self._network(phi, state, support.x)
        theta = {name: value.expand(len(task), *value.shape[1:]) for name, value in found.items()}
        return Adapted(self.model, theta, state["buffers"], support, self._modes()[0])

    def _modes(self) -> tuple[Mode, ...]:
        """How queries are predicted outside of training; L is measured by the first mode."""
        given: Any = self.config.predict
        return ("together", "alone") if given == "both" else (given,)

    def _examples(self, task: Task, state: State, seed: int) -> Batch:
        """The support examples of the next step."""
        size = self.config.batch.train if state["train"] else self.config.batch.test
        if size is None:
            return task.support
        if state["train"] and MINIBATCHES in task.info:
            return taken(task.support, task.info[MINIBATCHES][:, state["step"]])
        return minibatch(task.support, size, state["step"], layer_seeds(task, seed, "batch"))

    def _network(self, phi: Phi, state: State, like: Tensor) -> Tensors:
        """The parameters of the network after the steps so far; what belongs to a step is that of the last one."""
        return self.slots.parameters(phi, state["theta"], max(state["step"] - 1, 0), like)

    def _support(self, phi: Phi, state: State, task: Task, seed: int, *, whole: bool = False) -> tuple[Tensor, Tensors]:
        """Loss ``[T]`` before the next step, on its support examples or on all of them, and the buffers after it."""
        theta, number, buffers = state["theta"], state["step"], state["buffers"]
        batch = task.support if whole else self._examples(task, state, seed)
        if "features" in state:
            network: Any = self.model
            losses = loss_for(self.spec)(network.conclude(theta, state["features"]), batch.y)
        else:
            batch = self.slots.support(phi, batch, number, lambda slot: layer_seeds(task, seed, slot, number))
            called_with = self.slots.parameters(phi, theta, number, batch.x)
            seeds = layer_seeds(task, seed, "support", number)
            losses, buffers = self.example_losses(called_with, buffers, batch, seeds)
        losses = self.slots.losses(phi, losses, batch, number)
        loss = losses.mean(-1) if self.config.reduction == "mean" else losses.sum(-1)
        loss = self.slots.penalized(phi, loss, theta, state.get("start", {}), train=state["train"])
        return loss, {name: value.detach() for name, value in buffers.items()}


def _attached(loss: Tensor, theta: Tensors, gradients: Tensors) -> Tensor:
    """A loss ``[T]`` whose derivative in theta is known: its value stays, its graph leads through theta."""
    for name, gradient in gradients.items():
        if theta[name].requires_grad:
            along = gradient * (theta[name] - theta[name].detach())
            loss = loss + along.flatten(1).sum(1) if along.dim() > 1 else loss + along
    return loss


def layer_seeds(task: Task, seed: int, *purpose: str | int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Seeds ``[T]`` for what is drawn: from each task's own seed, so that grouping changes nothing."""
    key = np.int64(seeding.derive(seed, *purpose))
    return np.asarray(np.bitwise_xor(task.seeds, key), dtype=np.int64)
