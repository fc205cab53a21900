"""What a learned phi has to beat, under the same episodes, inner loop and intervals.

A baseline prepares a phi on a worker, with a stated small budget, and names the learner that phi is evaluated with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from metasearch.core import seeds as seeding
from metasearch.core.config import Config as BaseConfig
from metasearch.core.contracts import Learner
from metasearch.core.errors import UnsupportedError
from metasearch.core.values import Batch, Phi, Tensors
from metasearch.estimators.episodes import Problem
from metasearch.evaluation.fine_tuned import FineTuned, learned_start, with_start
from metasearch.evaluation.joint import examples_of, train
from metasearch.learners.losses import loss_for
from metasearch.learners.nearest_neighbour import PixelNearestNeighbour
from metasearch.models import build_model

__all__ = ["Baseline", "Examples", "NearestNeighbour", "Pretrained", "RandomInitialization", "Tuned"]


class Baseline(Protocol):
    """Built as ``Baseline(config, problem, split)`` on a worker and on the driver; ``split`` is what is measured on."""

    learner: Learner

    def prepare(self, seed: int) -> Phi:
        """The phi to evaluate."""
        ...


@runtime_checkable
class Tuned(Baseline, Protocol):
    """A baseline that chooses something (its rate) for the number of inner steps; what it starts from serves any."""

    def start(self, seed: int) -> Phi:
        """The phi before the choice."""
        ...

    def tuned(self, phi: Phi, seed: int) -> Phi:
        """A phi with the best choice, for a start."""
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


class RandomInitialization(FineTuned):
    """A fresh phi, fine-tuned by the same inner loop: what meta-learning adds to it is the search's own work."""

    name: ClassVar[str] = "random"

    def start(self, seed: int) -> Phi:
        return self.learner.init(seed)


class NearestNeighbour:
    """The label of the nearest support example in input space; no network, no training."""

    class Config(BaseConfig):
        """No settings."""

    def __init__(self, config: Any, problem: Problem, split: str) -> None:
        self.learner = PixelNearestNeighbour(PixelNearestNeighbour.Config(), problem.tasks.spec(split))

    def prepare(self, seed: int) -> Phi:
        return self.learner.init(seed)


class Pretrained(FineTuned):
    """One network trained on all training tasks in the ordinary way, then fine-tuned by the same inner loop.

    Where tasks give their labelled examples, it learns to tell all training classes apart; parameters whose shape
    depends on the number of classes (the head) then start from the learner's own initializer. Otherwise it learns the
    examples of sampled tasks together, as if all were one task: the network that knows the mean of all tasks.

    Raises:
        UnsupportedError: if these are classification tasks without labelled examples (labels of a task mean nothing
            beyond it), or phi has no learned initialization.
    """

    class Config(FineTuned.Config):
        """Settings.

        Args:
            steps: gradient steps of pre-training.
            batch: examples a step (of whole tasks, where these are sampled).
            lr: Adam's learning rate.
        """

        steps: PositiveInt = 1000
        batch: PositiveInt = 128
        lr: PositiveFloat = 1e-3

    name: ClassVar[str] = "pretrained"

    def __init__(self, config: Any, problem: Problem, split: str) -> None:
        super().__init__(config, problem, split)
        self._loop = learned_start(self.learner, self.name)
        if not isinstance(problem.tasks, Examples) and problem.tasks.spec("train").kind == "classification":
            raise UnsupportedError(
                "test.baselines",
                "'pretrained' needs tasks with examples(split), decode(stored) and n_classes(split); leave it out",
            )

    def start(self, seed: int) -> Phi:
        problem, spec = self._problem, self._problem.tasks.spec("train")
        batches = self._sampled
        if isinstance(problem.tasks, Examples):
            spec = dataclasses.replace(spec, outputs=problem.tasks.n_classes("train"))
            batches = self._labelled
        model = build_model(self._loop.config.model, spec)
        parameters, buffers = model.init(seeding.derive(seed, "pretrained"))
        leaves = {name: value[None] for name, value in parameters.items()}
        loss = loss_for(spec)
        buffers = train(problem, model, leaves, buffers, lambda: batches(leaves, seed), self.config.lr, loss)
        return with_start(self.learner.init(seed), {name: value[0] for name, value in leaves.items()}, buffers)

    def _labelled(self, leaves: Tensors, seed: int) -> Iterator[tuple[Tensors, Batch]]:
        problem, tasks = self._problem, self._problem.tasks
        assert isinstance(tasks, Examples)
        x, y = tasks.examples("train")
        draws = seeding.Draws([seeding.derive(seed, "pretrained", "batches")])
        for _ in range(self.config.steps):
            index = torch.from_numpy(draws.integers(self.config.batch, len(y))[0]).to(x.device)
            shown = tasks.decode(x[index])[None].to(problem.device, problem.dtype)
            yield leaves, Batch(shown, y[index][None].to(problem.device))

    def _sampled(self, leaves: Tensors, seed: int) -> Iterator[tuple[Tensors, Batch]]:
        spec = self._problem.tasks.spec("train")
        tasks = np.arange(-(-self.config.batch // (spec.support + spec.query)))
        for step in range(self.config.steps):
            own = seeding.derive(seed, "pretrained", "tasks", step)
            drawn = examples_of(self._problem, seeding.derive_many(own, "task", tasks))
            yield leaves, Batch(drawn.x.flatten(0, 1)[None], drawn.y.flatten(0, 1)[None])
