"""Fine-tuning opened: where it starts, and what is found at each of its steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from metasearch.assembly import initial_phi
from metasearch.core import seeds as seeding
from metasearch.core.files import write_file
from metasearch.core.values import Losses, Phi, Task, Tensors
from metasearch.learners.inner_loop import InnerLoop
from metasearch.program import ExperimentProgram
from metasearch.resolution import resolve

from ..common.jobs import Store
from ..common.setting import changed

__all__ = ["Loop", "opened"]

SHARD = 25
Values = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Loop:
    """An experiment's inner loop at a phi.

    Args:
        program: has its learner and its tasks.
        phi: where it starts.
    """

    program: ExperimentProgram
    phi: Phi

    @property
    def better(self) -> int:
        """1 where larger figures are better (accuracies), -1 where smaller ones are (losses)."""
        return 1 if self.program.tasks.spec("test").kind == "classification" else -1

    @torch.no_grad()
    def course(
        self, split: str, episodes: int, after: Sequence[int], on: str = "query", *, loss: bool = False
    ) -> Values:
        """Accuracy (or the loss, where there is none) after numbers of inner steps, ``[len(after), episodes]``.

        Episodes are those of an experiment's own validation and test.

        Args:
            split: where tasks come from.
            episodes: tasks.
            after: numbers of inner steps, in increasing order.
            on: whether the figure is of ``query`` or of ``support`` examples.
            loss: whether it is the loss in any case.
        """
        found = []
        for learner, task, seed in self._tasks(split, episodes):
            state = learner.begin(self.phi, task, seed, train=False)
            judged = task if on == "query" else dataclasses.replace(task, query=task.support)
            along = []
            for number in after:
                while state["step"] < number:
                    state = learner.step(self.phi, task, state, seed, create_graph=False)
                along.append(_figure(learner.query_loss(self.phi, judged, state, None), loss))
            found.append(np.stack(along))
        return np.concatenate(found, 1)

    @torch.no_grad()
    def descent(self, split: str, episodes: int, lengths: Sequence[float]) -> tuple[Values, Values]:
        """Query losses after one step of given lengths along the normalized gradient of the support loss
        ``[len(lengths), episodes]``, and the lengths of the steps that the inner loop itself would take ``[episodes]``.
        """
        found, own = [], []
        for learner, task, seed in self._tasks(split, episodes):
            state = learner.begin(self.phi, task, seed, train=False)
            theta = {name: state["theta"][name].detach().requires_grad_() for name in learner.adapted}
            with torch.enable_grad():
                at = {**state, "theta": {**state["theta"], **theta}}
                loss = learner.support_loss(self.phi, task, at, seed).sum()
                gradient = dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))
            norm, rates = _norm(gradient), learner.rates(self.phi, 0)
            own.append(_norm({name: rates[name] * one for name, one in gradient.items()}).double().numpy())
            along = []
            for length in lengths:
                moved = {
                    name: theta[name].detach() - (length / norm).reshape(-1, *[1] * (one.dim() - 1)) * one
                    for name, one in gradient.items()
                }
                there = {**state, "theta": {**state["theta"], **moved}}
                along.append(learner.query_loss(self.phi, task, there, None).query.double().numpy())
            found.append(np.stack(along))
        return np.concatenate(found, 1), np.concatenate(own)

    def _tasks(self, split: str, episodes: int) -> Iterator[tuple[InnerLoop, Task, int]]:
        purpose = "validation" if split == "validation" else "test"
        seed = seeding.derive(self.program.file.seed, purpose, split)
        numbers = seeding.derive_many(seed, "task", np.arange(episodes))
        learner = self.program.learner({}, split)
        assert isinstance(learner, InnerLoop)
        for start in range(0, episodes, SHARD):
            yield learner, self.program.problem.sample(split, numbers[start : start + SHARD].tolist()), seed


def opened(store: Store, tree: Mapping[str, Any], start: Mapping[str, Any], **changes: Any) -> Loop:
    """The inner loop of an experiment, with changes, at a start.

    Args:
        store: has what was searched and trained before.
        tree: the experiment.
        start: ``{"searched": TREE}``, what another search (or the same) has learned; ``{"pretrained": SETTINGS}``, what
            the baseline of that name learns on the experiment's tasks; or ``{}``, random weights.
        changes: of the experiment, ``__`` standing for the dots of a key.
    """
    source: str | None = None
    if "searched" in start:
        source = str(store.searched(start["searched"]) / "phi")
    elif "pretrained" in start:
        source = str(_pretrained(store, tree, start["pretrained"]))
    plain = changed(tree, validation=None, test=None, learner__slots__initialization__from=source, **changes)
    program = resolve(plain).program
    return Loop(program, initial_phi(program, program.file.seed))


def _pretrained(store: Store, tree: Mapping[str, Any], settings: Mapping[str, Any]) -> Path:
    """Weights of the baseline ``pretrained`` of an experiment; made if they are not there."""
    given = {"tasks": tree["tasks"], "model": tree["learner"]["model"], "seed": tree["seed"], **settings}
    path = store.kept("pretrained", given, "safetensors")
    if not path.exists():
        program = resolve(changed(tree, validation=None, test={"baselines": [{"pretrained": dict(settings)}]})).program
        with program.numerics():
            phi = program.function("baseline:pretrained").prepare(
                seeding.derive(program.file.seed, "baseline", "pretrained")
            )
        write_file(path, save(phi.part("initialization")))
    return path


def _figure(losses: Losses, loss: bool) -> Values:
    found = losses.query if loss else losses.metrics.get("accuracy", losses.query)
    return np.asarray(found.double().numpy())


def _norm(tensors: Tensors) -> Tensor:
    """``[T]``, over all numbers of a task."""
    return torch.stack([value.flatten(1).square().sum(1) for value in tensors.values()]).sum(0).sqrt().clamp_min(1e-12)
