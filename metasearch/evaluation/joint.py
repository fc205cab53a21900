"""Baselines that learn from many tasks at once without learning to learn: ordinary training on the tasks' examples.

Support and query examples of a training task are training examples alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from metasearch.core import seeds as seeding
from metasearch.core.contracts import Model
from metasearch.core.errors import UnsupportedError
from metasearch.core.values import Batch, Phi, Tensors
from metasearch.estimators.episodes import Problem
from metasearch.evaluation.fine_tuned import FineTuned, learned_start, with_start
from metasearch.learners.losses import loss_for
from metasearch.models import build_model

__all__ = ["Averaged", "Multitask", "examples_of", "train"]


class Multitask(FineTuned):
    """Joint training on a fixed set of tasks: one network, with a last layer for each task; then fine-tuned.

    Fine-tuning starts from the shared layers and from the mean of the last layers.

    Raises:
        UnsupportedError: if phi has no learned initialization, or the network no layer whose size is the number of
            outputs.
    """

    class Config(FineTuned.Config):
        """Settings.

        Args:
            tasks: training tasks.
            batch: of these, how many a step.
            steps: gradient steps.
            lr: Adam's learning rate.
        """

        tasks: PositiveInt = 500
        batch: PositiveInt = 25
        steps: PositiveInt = 5000
        lr: PositiveFloat = 1e-3

    name: ClassVar[str] = "multitask"

    def __init__(self, config: Any, problem: Problem, split: str) -> None:
        super().__init__(config, problem, split)
        loop = learned_start(self.learner, self.name)
        spec = problem.tasks.spec("train")
        self._model = build_model(loop.config.model, spec)
        here, there = (
            build_model(loop.config.model, dataclasses.replace(spec, outputs=spec.outputs + more)).init(0)[0]
            for more in (0, 1)
        )
        self._head = [name for name in here if here[name].shape != there[name].shape]
        if not self._head:
            raise UnsupportedError(
                "test.baselines", "'multitask' needs a network whose last layer has the number of outputs; leave it out"
            )

    def start(self, seed: int) -> Phi:
        config, head = self.config, self._head
        own = seeding.derive(seed, self.name)
        parameters, buffers = self._model.init(seeding.derive(own, "network"))
        leaves = {
            name: value.expand(config.tasks if name in head else 1, *value.shape).clone()
            for name, value in parameters.items()
        }
        pool = examples_of(self._problem, seeding.derive_many(own, "task", np.arange(config.tasks)))
        draws = seeding.Draws([seeding.derive(own, "batches")])
        batch = min(config.batch, config.tasks)

        def batches() -> Iterator[tuple[Tensors, Batch]]:
            for _ in range(config.steps):
                rows = torch.from_numpy(draws.choose(config.tasks, batch)[0])
                chosen = {name: leaf[rows] if name in head else leaf for name, leaf in leaves.items()}
                yield chosen, Batch(pool.x[rows], pool.y[rows])

        buffers = train(
            self._problem, self._model, leaves, buffers, batches, config.lr, loss_for(self._problem.tasks.spec("train"))
        )
        return with_start(self.learner.init(seed), _means(leaves), buffers)


class Averaged(FineTuned):
    """Networks trained on one task each, from the same random start, and the mean of their parameters; then fine-tuned.

    The multi-task baseline of Finn, Abbeel, Levine 2017, arXiv:1703.03400, Table 2 (there 4.19, 3.85, 3.69 after 1, 5
    and 10 steps without a penalty).

    Raises:
        UnsupportedError: if phi has no learned initialization.
    """

    class Config(FineTuned.Config):
        """Settings.

        Args:
            tasks: networks, and training tasks.
            steps: gradient steps of each.
            lr: Adam's learning rate.
        """

        tasks: PositiveInt = 500
        steps: PositiveInt = 1000
        lr: PositiveFloat = 1e-3

    name: ClassVar[str] = "averaged"

    def __init__(self, config: Any, problem: Problem, split: str) -> None:
        super().__init__(config, problem, split)
        self._model = build_model(learned_start(self.learner, self.name).config.model, problem.tasks.spec("train"))

    def start(self, seed: int) -> Phi:
        config = self.config
        own = seeding.derive(seed, self.name)
        parameters, buffers = self._model.init(seeding.derive(own, "network"))
        leaves = {name: value.expand(config.tasks, *value.shape).clone() for name, value in parameters.items()}
        pool = examples_of(self._problem, seeding.derive_many(own, "task", np.arange(config.tasks)))

        def batches() -> Iterator[tuple[Tensors, Batch]]:
            for _ in range(config.steps):
                yield leaves, pool

        buffers = train(
            self._problem, self._model, leaves, buffers, batches, config.lr, loss_for(self._problem.tasks.spec("train"))
        )
        return with_start(self.learner.init(seed), _means(leaves), buffers)


def examples_of(problem: Problem, seeds: NDArray[np.int64]) -> Batch:
    """All examples of training tasks, ``[T, support + query, ...]``."""
    task = problem.sample("train", [int(seed) for seed in seeds])
    return Batch(torch.cat([task.support.x, task.query.x], 1), torch.cat([task.support.y, task.query.y], 1))


def train(
    problem: Problem,
    model: Model,
    leaves: Tensors,
    buffers: Tensors,
    batches: Callable[[], Iterator[tuple[Tensors, Batch]]],
    lr: float,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Tensors:
    """Adam on the sum over tasks of the mean loss of their examples.

    Args:
        problem: where and in which precision to compute.
        model: the network.
        leaves: parameters; exchanged for trained ones.
        buffers: of the network, without the task axis.
        batches: makes the steps' parameters ``[T, ...]`` or ``[1, ...]``, as functions of ``leaves``, and examples.
        lr: Adam's learning rate.
        loss: of single examples, ``[T, n]``.

    Returns:
        The buffers after training, averaged over tasks.
    """
    for name, value in leaves.items():
        leaves[name] = value.detach().to(problem.device, problem.dtype).requires_grad_()
    state = {
        name: value.to(problem.device, problem.dtype if value.is_floating_point() else None)[None]
        for name, value in buffers.items()
    }
    optimizer = torch.optim.Adam(list(leaves.values()), lr=lr)
    for step, (parameters, batch) in enumerate(batches()):
        seeds = seeding.derive_many(step, "layers", np.arange(len(batch.x)))
        outputs, after = model(parameters, state, batch.x, seeds=seeds)
        state = {name: _mean_buffer(value) for name, value in after.items()}
        optimizer.zero_grad()
        loss(outputs, batch.y).mean(-1).sum().backward()
        optimizer.step()
    return {name: value[0] for name, value in state.items()}


def _means(leaves: Tensors) -> Tensors:
    return {name: value.detach().mean(0) for name, value in leaves.items()}


def _mean_buffer(value: Tensor) -> Tensor:
    mean = value.detach().to(torch.float64).mean(0, keepdim=True)
    return (mean if value.is_floating_point() else mean.round()).to(value.dtype)
