"""Evaluations over episodes: how tasks are split into shards, and how the shards' answers are reduced.

A shard is the unit of work of one call; its size is fixed by the experiment and never by the number of workers, so the
floating-point sums are the same wherever they are computed.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor
from torch.utils._pytree import tree_map

from metasearch.core import seeds as seeding
from metasearch.core.config import Config as BaseConfig
from metasearch.core.contracts import Learner, TaskDistribution
from metasearch.core.values import Batch, Call, Estimate, Losses, Measurement, Phi, Task, Tensors
from metasearch.estimators.compile import CompileMode

__all__ = ["EpisodeEstimator", "Problem"]


@dataclass(frozen=True)
class Problem:
    """What an estimator measures: tasks, and the learner for given choices.

    Args:
        tasks: p(T).
        learner: ``learner(choices, split)``, the learner under the choices of a phi for the tasks of a split (built
            once for each, then kept).
        device: where the computation runs.
        dtype: of phi and of the tasks' floating-point arrays.
        compile: ``auto``, ``never`` or ``always`` (see :mod:`metasearch.estimators.compile`).
    """

    tasks: TaskDistribution
    learner: Callable[[Mapping[str, Any], str], Learner]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    compile: CompileMode = "never"

    def phi(self, phi: Phi) -> Phi:
        """Phi where and in the precision in which this problem computes."""
        return phi.to(self.device, self.dtype)

    def sample(self, split: str, seeds: Sequence[int]) -> Task:
        """Tasks of a split, in this problem's precision."""
        task = self.tasks.sample(split, np.asarray(seeds, dtype=np.int64))
        return Task(_cast(task.support, self), _cast(task.query, self), task.seeds, task.info)


class EpisodeEstimator(ABC):
    """An estimate over ``tasks`` episodes in calls of ``shard`` tasks; a subclass says what is computed on one shard.

    Args:
        config: its settings.
        problem: what it measures (on the driver, only its own settings are used).
        function: name under which workers find it.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            tasks: episodes in one evaluation (the meta-batch).
            shard: episodes in one call.
            reduction: how the tasks' gradients become one: their mean, or their sum (Eq. 1 of MAML). L is a mean.
            reward_split: split on which L is measured besides, as the metric ``reward``, for a searcher that must not
                see what the gradient saw.
        """

        tasks: PositiveInt = 32
        shard: PositiveInt = 8
        reduction: Literal["mean", "sum"] = "mean"
        reward_split: str | None = None

    gives_gradient: ClassVar[bool] = False
    carries: bool = False
    """Whether its calls hand a state on from one evaluation to the next."""

    def __init__(self, config: Any, problem: Problem, function: str = "train") -> None:
        self.config = config
        self.problem = problem
        self.function = function
        self.shard = int(config.shard)

    def check(self, learner: Learner, phi: Phi) -> None:
        """Called before anything starts: refuses what this estimator cannot work with.

        Args:
            learner: for the training split.
            phi: a fresh one of it.

        Raises:
            UnsupportedError: saying what it needs.
        """
        return

    @abstractmethod
    def shard_losses(self, call: Call, phi: Phi, task: Task, learner: Learner) -> tuple[Losses, Tensors | None, Any]:
        """Losses of a shard, the sum over its tasks of the gradient (or None), and the shard's carried state."""

    def calls(
        self, proposal: int, phi: Any, carried: Sequence[Any] | None, seed: int, split: str = "train"
    ) -> list[Call]:
        """One call a shard, in reduction order."""
        seeds = seeding.derive_many(seed, "task", np.arange(self.config.tasks))
        shards = [seeds[start : start + self.shard] for start in range(0, len(seeds), self.shard)]
        if carried is not None and len(carried) != len(shards):  # the shards were made smaller on the way
            carried = None
        return [
            Call(
                proposal=proposal,
                index=index,
                function=self.function,
                phi=phi,
                seeds=tuple(int(one) for one in shard),
                seed=seeding.derive(seed, "shard", index) if self.carries else seed,
                split=split,
                carried=None if carried is None else carried[index],
            )
            for index, shard in enumerate(shards)
        ]

    def task_seeds(self, call: Call) -> Sequence[int]:
        """Seeds of the tasks that a call is about; those of the tasks it carries on with, if it does."""
        return call.seeds

    def measure(self, call: Call) -> Measurement:
        """Losses (and gradient) of one shard."""
        start = time.perf_counter()
        phi = self.problem.phi(call.phi)
        task = self.problem.sample(call.split, self.task_seeds(call))
        learner = self.problem.learner(phi.choices, call.split)
        losses, gradient, carried = self.shard_losses(call, phi, task, learner)
        metrics = {name: _array(value) for name, value in losses.metrics.items()}
        if self.config.reward_split is not None:
            other = self.problem.sample(self.config.reward_split, call.seeds)
            with torch.no_grad():
                metrics["reward"] = _array(learner.evaluate(phi, other, call.seed, create_graph=False).query)
        return Measurement(
            objective=_array(losses.objective),
            query=_array(losses.query),
            metrics=metrics,
            gradient=None if gradient is None else {name: value.detach().cpu() for name, value in gradient.items()},
            updates={name: value.detach().cpu() for name, value in losses.updates.items()},
            carried=_settled(carried),
            seconds=time.perf_counter() - start,
        )

    def combine(self, measurements: Sequence[Measurement]) -> tuple[Estimate, list[Any] | None]:
        """Means over all tasks, the gradient by ``reduction``; sums run in call order, in float64 for losses and in the
        gradient's own precision.
        """
        query = np.concatenate([one.query for one in measurements])
        objective = np.concatenate([one.objective for one in measurements])
        metrics = {
            name: float(np.concatenate([one.metrics[name] for one in measurements]).mean())
            for name in measurements[0].metrics
        }
        scale = 1.0 if self.config.reduction == "sum" else 1.0 / len(query)
        gradient = _sum([one.gradient for one in measurements], scale)
        weights = [len(one.query) / len(query) for one in measurements]
        updates = {
            name: torch.stack([w * one.updates[name] for w, one in zip(weights, measurements, strict=True)]).sum(0)
            for name in measurements[0].updates
        }
        carried = [one.carried for one in measurements] if self.carries else None
        return (
            Estimate(
                value=float(query.mean()),
                objective=float(objective.mean()),
                metrics=metrics,
                per_task=query,
                gradient=gradient,
                updates=updates,
                diverged=self._diverged(measurements),
            ),
            carried,
        )

    def _diverged(self, measurements: Sequence[Measurement]) -> tuple[int, ...]:
        """Tasks with a non-finite loss; all tasks of a shard whose summed gradient is not finite."""
        found: list[int] = []
        start = 0
        for one in measurements:
            finite = np.isfinite(one.query) & np.isfinite(one.objective)
            if one.gradient is not None and finite.all():
                finite &= all(bool(torch.isfinite(value).all()) for value in one.gradient.values())
            found += [start + int(index) for index in np.flatnonzero(~finite)]
            start += len(one.query)
        return tuple(found)


def _sum(gradients: Sequence[Tensors | None], scale: float) -> Tensors | None:
    present = [one for one in gradients if one is not None]
    if not present:
        return None
    total: dict[str, Tensor] = {}
    for name in present[0]:
        accumulated = present[0][name].clone()
        for one in present[1:]:
            accumulated += one[name]
        total[name] = accumulated * scale
    return total


def _settled(carried: Any) -> Any:
    """A carried state in the layout that it has after any journey: the last bits of later sums depend on strides."""

    def settle(leaf: Any) -> Any:
        return (
            leaf.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            if isinstance(leaf, Tensor)
            else leaf
        )

    return tree_map(settle, carried)


def _array(values: Tensor) -> NDArray[np.float64]:
    return np.asarray(values.detach().to("cpu", torch.float64).numpy())


def _cast(batch: Batch, problem: Problem) -> Batch:
    def move(tensor: Tensor) -> Tensor:
        return tensor.to(problem.device, problem.dtype if tensor.is_floating_point() else None)

    return Batch(move(batch.x), move(batch.y))
