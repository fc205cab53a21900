"""What a learned phi has to beat, under the same episodes, inner loop and intervals.

A baseline prepares a phi on a worker, with a stated small budget, and names the learner that phi is evaluated with.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from metasearch.components.initialization import LearnedInitialization
from metasearch.core import seeds as seeding
from metasearch.core.config import Config as BaseConfig
from metasearch.core.contracts import Learner
from metasearch.core.errors import UnsupportedError
from metasearch.core.values import Batch, Phi, Tensors
from metasearch.estimators.episodes import Problem
from metasearch.learners.inner_loop import InnerLoop
from metasearch.learners.losses import cross_entropy
from metasearch.learners.nearest_neighbour import PixelNearestNeighbour
from metasearch.models import build_model

__all__ = ["Baseline", "Examples", "NearestNeighbour", "Pretrained", "RandomInitialization"]


class Baseline(Protocol):
    """Built as ``Baseline(config, problem, split)`` on a worker and on the driver; ``split`` is what is measured on."""

    learner: Learner

    def prepare(self, seed: int) -> Phi:
        """The phi to evaluate."""
        ...


@runtime_checkable
class Examples(Protocol):
    """A task distribution that also gives its labelled examples in the ordinary way, for pre-training."""

    def examples(self, split: str) -> tuple[Tensor, Tensor]:
        """All stored examples ``[N, ...]`` and their class indexes ``[N]``."""
        ...

    def decode(self, stored: Tensor) -> Tensor:
        """Stored examples as a network sees them, ``[n, *input_shape]``."""
        ...

    def n_classes(self, split: str) -> int:
        """Number of classes of a split."""
        ...


class RandomInitialization:
    """A fresh phi, fine-tuned by the same inner loop: what meta-learning adds to it is the search's own work."""

    class Config(BaseConfig):
        """No settings."""

    def __init__(self, config: Any, problem: Problem, split: str) -> None:
        self.learner = problem.learner({}, split)

    def prepare(self, seed: int) -> Phi:
        return self.learner.init(seed)


class NearestNeighbour:
    """The label of the nearest support example in input space; no network, no training."""

    class Config(BaseConfig):
        """No settings."""

    def __init__(self, config: Any, problem: Problem, split: str) -> None:
        self.learner = PixelNearestNeighbour(PixelNearestNeighbour.Config(), problem.tasks.spec(split))

    def prepare(self, seed: int) -> Phi:
        return self.learner.init(seed)


class Pretrained:
    """One network trained to tell all training classes apart, then fine-tuned by the same inner loop with a fresh head.

    Parameters whose shape depends on the number of classes (the head) start from the learner's own initializer.

    Raises:
        UnsupportedError: if the tasks give no plain labelled examples, or phi has no learned initialization.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            steps: gradient steps of pre-training.
            batch: examples a step.
            lr: Adam's learning rate.
        """

        steps: PositiveInt = 1000
        batch: PositiveInt = 128
        lr: PositiveFloat = 1e-3

    def __init__(self, config: Any, problem: Problem, split: str) -> None:
        self.config = config
        self._problem = problem
        self.learner = problem.learner({}, split)
        if not isinstance(problem.tasks, Examples):
            raise UnsupportedError(
                "test.baselines",
                "'pretrained' needs tasks with examples(split), decode(stored) and n_classes(split); leave it out",
            )
        if not isinstance(self.learner, InnerLoop) or not isinstance(
            self.learner.slots["initialization"], LearnedInitialization
        ):
            raise UnsupportedError("test.baselines", "'pretrained' needs an inner loop with a learned initialization")

    def prepare(self, seed: int) -> Phi:
        problem, learner, tasks = self._problem, self.learner, self._problem.tasks
        assert isinstance(learner, InnerLoop)
        assert isinstance(tasks, Examples)
        spec = dataclasses.replace(problem.tasks.spec("train"), outputs=tasks.n_classes("train"))
        model = build_model(learner.config.model, spec)
        parameters, buffers = model.init(seeding.derive(seed, "pretrained"))
        trained = self._train(model, parameters, buffers, seed)
        phi = learner.init(seed)
        here = phi.part("initialization")
        fitting = {
            f"initialization.{name}": value.to("cpu", here[name].dtype)
            for name, value in trained.items()
            if name in here and here[name].shape == value.shape
        }
        return phi.replace(tensors={**phi.tensors, **fitting})

    def _train(self, model: Any, parameters: Tensors, buffers: Tensors, seed: int) -> Tensors:
        problem, tasks = self._problem, self._problem.tasks
        assert isinstance(tasks, Examples)
        leaves = {name: value.to(problem.device, problem.dtype).requires_grad_() for name, value in parameters.items()}
        state = {name: value.to(problem.device)[None] for name, value in buffers.items()}
        optimizer = torch.optim.Adam(list(leaves.values()), lr=self.config.lr)
        x, y = tasks.examples("train")
        draws = seeding.Draws([seeding.derive(seed, "pretrained", "batches")])
        for _ in range(self.config.steps):
            index = torch.from_numpy(draws.integers(self.config.batch, len(y))[0]).to(x.device)
            batch = Batch(
                tasks.decode(x[index])[None].to(problem.device, problem.dtype), y[index][None].to(problem.device)
            )
            outputs, state = model({name: value[None] for name, value in leaves.items()}, state, batch.x)
            state = {name: value.detach() for name, value in state.items()}
            optimizer.zero_grad()
            cross_entropy(outputs, batch.y).mean().backward()
            optimizer.step()
        return {name: value.detach() for name, value in leaves.items()}
