"""The protocols that hold the parts together: who calls what, when, and what it may assume.

A part is a class with a nested ``Config`` (see :mod:`metasearch.core.config`), found by name through a registry and
built as ``Part(config, **context)``, on the driver by ``experiment.py`` and on workers by ``program.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metasearch.core.space import Space
from metasearch.core.values import (
    Batch,
    Call,
    Change,
    Estimate,
    Evaluation,
    Failure,
    Losses,
    Measurement,
    Phi,
    Report,
    Task,
    TaskSpec,
    Tensors,
)

__all__ = [
    "Drawing",
    "Environment",
    "Estimator",
    "Executor",
    "InnerProblem",
    "Learner",
    "Model",
    "Predictor",
    "Program",
    "Searcher",
    "TaskDistribution",
    "Trial",
    "TrialFunction",
    "Unrollable",
]


class TaskDistribution(Protocol):
    """p(T). Built once a worker; its data live on the worker's device.

    A distribution with a split that is a list of tasks may have ``n_tasks(split) -> int | None``: seeds 0, 1 ... are
    then these tasks, and held-out evaluations take each once.
    """

    def spec(self, split: str) -> TaskSpec:
        """Shapes of a split's tasks.

        Raises:
            ConfigError: if the split does not exist.
        """
        ...

    def sample(self, split: str, seeds: NDArray[np.int64]) -> Task:
        """One task a seed, stacked; the same seed gives the same task whatever its neighbours are."""
        ...


class Environment(Protocol):
    """A world to act in, for all trajectories of all tasks at once. A part with a ``Config``, kept as ``config``."""

    config: Any
    actions: int
    """Numbers in an action."""
    horizon: int
    """Steps of a trajectory."""

    def step(self, state: Tensor, action: Tensor, goal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next states ``[T, n, ...]``, rewards ``[T, n]`` and ends ``[T, n]`` (bool), for actions ``[T, n,
        actions]`` and what the tasks' ``y`` holds. States are observed as they are.
        """
        ...


@runtime_checkable
class Model(Protocol):
    """A network as a pure function of its parameters, with a leading task axis on all of them."""

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        """Fresh parameters and buffers, without the task axis."""
        ...

    def __call__(
        self, parameters: Tensors, buffers: Tensors, x: Tensor, *, seeds: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensors]:
        """Outputs ``[T, n, outputs]`` for ``x [T, n, ...]`` and parameters ``[T, ...]``, and the next buffers
        ``[T, ...]``. Parameters and buffers ``[1, ...]`` are shared by all tasks.

        ``seeds`` ``[T]`` are for layers that draw (dropout) and say that this is training; None is evaluation: such
        layers are off, and layers that keep moving averages use them.
        """
        ...


class Predictor(Protocol):
    """What :meth:`Learner.adapt` returns: an adapted network for each task."""

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs ``[T, n, outputs]`` for ``x [T, n, ...]``."""
        ...


class Learner(Protocol):
    """F_phi and the loss it is judged by. Everything it draws comes from the seeds it is given."""

    def init(self, seed: int) -> Phi:
        """A fresh phi: the tensors and buffers of all learned parts (choices are the searcher's)."""
        ...

    def evaluate(self, phi: Phi, task: Task, seed: int, *, train: bool = True, create_graph: bool = True) -> Losses:
        """Losses of a group of tasks. ``train`` tells meta-training from validation and test (inner step counts may
        differ); without ``create_graph`` the gradients inside F_phi are constants (first order, and all that a value
        needs).
        """
        ...

    def adapt(
        self,
        phi: Phi,
        support: Batch,
        seed: int,
        steps: int | None = None,
        *,
        seeds: NDArray[np.int64] | None = None,
    ) -> Predictor:
        """Runs F_phi on support sets; ``steps`` overrides the number of inner steps at test. What is drawn comes from
        the ``seeds`` ``[T]`` of the tasks, as in ``evaluate``; support sets of a user's own have none, and get some
        that derive from ``seed``.
        """
        ...


@runtime_checkable
class Drawing(Protocol):
    """A learner that draws in training and may be traced all the same: its draws are tensors beside the task's own."""

    def drawn(self, task: Task, seed: int) -> Tensors:
        """All that ``evaluate`` draws for these tasks in training, by name, each ``[T, ...]``. Where ``task.info``
        holds these names, ``evaluate`` and the steps of an inner loop take them from there and draw nothing.
        """
        ...


@runtime_checkable
class InnerProblem(Protocol):
    """A learner with an inner loop, opened.

    Truncation, checkpointing, Reptile, implicit gradients and PES build on it. The parameters of the network in a
    state are its entry ``theta``, tensors ``[T, ...]`` by name.
    """

    @property
    def adapted(self) -> tuple[str, ...]:
        """Names of the parameters in ``theta`` that steps change."""
        ...

    def objective_weights(self, outer_step: int | None = None) -> tuple[float, ...]:
        """What phi descends in training: weights of the query losses after the last so many inner steps. They may
        depend on the outer step; None asks for those that ``evaluate`` goes by, which are constant.
        """
        ...

    def n_steps(self, *, train: bool = True) -> int:
        """Length of the inner loop."""
        ...

    def begin(self, phi: Phi, task: Task, seed: int, *, train: bool = True) -> Any:
        """The inner state before the first step: a tree (dicts, tuples) of tensors with a leading task axis. ``train``
        is as for ``evaluate``, and part of the state.
        """
        ...

    def step(self, phi: Phi, task: Task, state: Any, seed: int, *, create_graph: bool = True) -> Any:
        """The state after one inner step. Which step it is, is part of the state."""
        ...

    def support_loss(self, phi: Phi, task: Task, state: Any, seed: int) -> Tensor:
        """``[T]``, the training loss at a state."""
        ...

    def query_loss(self, phi: Phi, task: Task, state: Any, seed: int | None) -> Losses:
        """The losses on the query set at a state (``objective`` and ``query`` are the same there); without a seed,
        layers that draw are off.
        """
        ...


@runtime_checkable
class Unrollable(InnerProblem, Protocol):
    """An inner problem whose objective is a sum over the states of its trajectory, so that it can be taken in parts.

    Truncated estimators need it, as do objectives that change on the way and steps that are computed again.
    """

    def unroll(
        self,
        phi: Phi,
        task: Task,
        state: Any,
        seed: int,
        steps: int,
        *,
        train: bool = True,
        create_graph: bool = True,
        weights: Tensor | None = None,
        recompute: bool = False,
    ) -> tuple[Any, Losses]:
        """The state after further steps, and what the objective is of the states that they lead to; ``query`` is that
        of the last one. ``seed`` is the same along one trajectory. ``weights`` are of the last ``len(weights)``
        states, in place of the learner's own; with ``recompute`` a step is computed again on the way back, so that
        memory hardly grows with their number.
        """
        ...


class Estimator(Protocol):
    """What one evaluation computes about L: a value, a gradient, a direction.

    Pure on the worker, ordered on the driver.
    """

    gives_gradient: bool
    """Whether ``combine`` returns a gradient, which gradient searchers need."""

    def calls(self, proposal: int, phi: Any, carried: Sequence[Any] | None, seed: int) -> list[Call]:
        """The calls of one evaluation, in reduction order. ``phi`` is phi or the executor's reference to it;
        ``carried`` has one entry a call, from the evaluation before, or is None at the start.
        """
        ...

    def measure(self, call: Call) -> Measurement:
        """Answers one call (on a worker). Repeating it gives the same answer, bit for bit."""
        ...

    def combine(self, measurements: Sequence[Measurement]) -> tuple[Estimate, list[Any] | None]:
        """Reduces the answers in call order; also the carried state, one entry a call."""
        ...


class Searcher(Protocol):
    """An outer decision by ask and tell. Knows numbers and spaces, not learning; never runs anything."""

    needs_gradient: bool
    """Whether ``tell`` needs evaluations with a gradient."""

    stationary: bool
    """Whether it assumes that equal proposals have equal values (then it must not be joined with a moving phi)."""

    def setup(self, phi: Phi, space: Space, seed: int) -> None:
        """Called once, before all else: the part of phi it owns, the space of the choices it owns, and its seed."""
        ...

    def ask(self, n: int) -> list[Mapping[str, Any]]:
        """The choices of the next ``n`` proposals (empty mappings for a searcher without choices)."""
        ...

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """The evaluations of one ask, in its order. States in its docstring what it does with a diverged one."""
        ...

    def replay(self, evaluations: Sequence[Evaluation]) -> None:
        """Like ``tell``, on the way to a checkpoint: a searcher that is rebuilt by asking and telling again learns from
        the recorded values; one whose state the checkpoint holds does nothing.
        """
        ...

    def phi(self) -> Phi:
        """The tensors and buffers it now stands at (empty for a searcher of choices). Validation and the end of the
        search take ``averaged()`` instead from a searcher that has such a method.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold to continue: a tree of tensors and plain values. A searcher that is rebuilt by
        asking and telling again returns an empty one.
        """
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Program(Protocol):
    """What a worker holds: everything built once from the resolved experiment.

    That is data on the device, networks and estimators.
    """

    def measure(self, call: Call) -> Measurement:
        """Answers a function call; pure."""
        ...

    def run(self, call: Call, trial: Trial) -> Measurement:
        """Carries out a training run, reporting through ``trial``."""
        ...


class Executor(Protocol):
    """Where calls run. Built from ``setup``, a picklable function without arguments that makes a worker's
    :class:`Program`.

    A lost worker is replaced and its calls are repeated; a call ends in exactly one measurement or failure.
    """

    workers: int

    def put(self, value: Any) -> Any:
        """A reference to a value that many calls share (phi: one put a step)."""
        ...

    def submit(self, call: Call) -> None:
        """Queues a call; never blocks."""
        ...

    def wait(self, timeout_s: float | None = None) -> Sequence[tuple[Call, Report | Change | Measurement | Failure]]:
        """What has arrived since, in order of arrival; blocks until there is something or the time is over (then
        empty). A change concerns a whole population, whichever of its calls it comes with.
        """
        ...

    def close(self) -> None:
        """Ends the workers; calls in flight are dropped."""
        ...


class Trial(Protocol):
    """What a training run is given: its seed and budget, and a way to report, checkpoint and restore."""

    id: int
    seed: int
    restored: Path | None
    """Folder of the newest checkpoint of this trial, or None at its first start."""

    def report(self, step: int, **metrics: float) -> None:
        """Reports metrics after ``step`` units of budget; a scheduler may stop the run here (by an exception that the
        training function must let pass).
        """
        ...

    def checkpoint(self) -> Path:
        """An empty folder to write a checkpoint into; it counts from the next report on."""
        ...


class TrialFunction(Protocol):
    """A training run as users write it: ``train(config, trial) -> L`` (or metrics with ``L`` among them)."""

    def __call__(self, config: Mapping[str, Any], trial: Trial) -> float | Mapping[str, float]: ...
