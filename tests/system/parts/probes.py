"""Methods that the package does not have (yet), built on its contracts alone: do the contracts carry them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from metasearch.components import Component
from metasearch.core import seeds as seeding
from metasearch.core.config import Config as BaseConfig
from metasearch.core.registry import register
from metasearch.core.space import Choice, Space
from metasearch.core.values import Call, Losses, Phi, Task, Tensors
from metasearch.estimators.episodes import EpisodeEstimator
from metasearch.learners.inner_loop import InnerLoop


class Truncated(EpisodeEstimator):
    """Backprop through ``steps`` inner steps at a time.

    The inner state goes on in the next outer step, up to ``horizon``.
    """

    class Config(EpisodeEstimator.Config):
        steps: PositiveInt = 2
        horizon: PositiveInt = 6

    gives_gradient: ClassVar[bool] = True
    carries: ClassVar[bool] = True

    def shard_losses(self, call: Call, phi: Phi, task: Task, learner: Any) -> tuple[Losses, Tensors | None, Any]:
        carried = call.carried or {"seeds": [int(one) for one in call.seeds], "state": None}
        task = self.problem.sample(call.split, carried["seeds"])
        leaves = {name: value.detach().requires_grad_() for name, value in phi.tensors.items()}
        point = phi.replace(tensors=leaves)
        state = carried["state"] or learner.begin(point, task, call.seed)
        for _ in range(self.config.steps):
            state = learner.step(point, task, state, call.seed)
        losses = learner.query_loss(point, task, state, call.seed)
        found = torch.autograd.grad(losses.objective.sum(), list(leaves.values()), allow_unused=True)
        gradient = {
            name: torch.zeros_like(leaf) if one is None else one
            for (name, leaf), one in zip(leaves.items(), found, strict=True)
        }
        state = {**state, "theta": {name: value.detach() for name, value in state["theta"].items()}}
        return losses, gradient, None if state["step"] >= self.config.horizon else {**carried, "state": state}


class AntitheticES(EpisodeEstimator):
    """(L(phi + s e) - L(phi - s e)) e / 2s, one pair a shard; a perturbation travels as its seed and is drawn again."""

    class Config(EpisodeEstimator.Config):
        sigma: PositiveFloat = 0.05

    gives_gradient: ClassVar[bool] = True
    carries: ClassVar[bool] = False

    def shard_losses(self, call: Call, phi: Phi, task: Task, learner: Any) -> tuple[Losses, Tensors | None, Any]:
        noise = self.noise(phi, seeding.derive(call.seed, "noise", call.index))
        sides = []
        for sign in (1.0, -1.0):
            moved = {name: value + sign * self.config.sigma * noise[name] for name, value in phi.tensors.items()}
            with torch.no_grad():
                sides.append(learner.evaluate(phi.replace(tensors=moved), task, call.seed, create_graph=False).query)
        slope = float((sides[0] - sides[1]).sum()) / (2 * self.config.sigma)
        value = (sides[0] + sides[1]) / 2
        return Losses(value, value), {name: slope * one for name, one in noise.items()}, None

    @staticmethod
    def noise(phi: Phi, seed: int) -> Tensors:
        draws = seeding.Draws([seed], "noise")
        return {
            name: torch.from_numpy(draws.normal(value.numel())[0]).reshape(value.shape).to(value.dtype)
            for name, value in sorted(phi.tensors.items())
        }


class RunningMean(InnerLoop):
    """A learner with a buffer.

    It follows the mean of the query inputs, without a gradient, and centres inputs by it.
    """

    def init(self, seed: int) -> Phi:
        return super().init(seed).replace(buffers={"statistics.mean": torch.zeros(1)})

    def evaluate(self, phi: Phi, task: Task, seed: int, *, train: bool = True, create_graph: bool = True) -> Losses:
        mean = phi.buffers["statistics.mean"]
        losses = super().evaluate(phi.replace(buffers={}), task, seed, train=train, create_graph=create_graph)
        seen = task.query.x.mean(dim=(0, 1))
        return Losses(
            losses.objective + 0 * mean, losses.query, losses.metrics, {"statistics.mean": 0.9 * mean + 0.1 * seen}
        )


def train(config: Mapping[str, Any], trial: Any) -> Mapping[str, float]:
    """A training run on a conditional space: gradient descent on a parabola, checkpointed, three reports."""
    rule = config["rule"]
    place, start = 4.0, 0
    if trial.restored is not None:
        place, start = np.load(trial.restored / "place.npy")
    for step in range(int(start), 3):
        rate = rule["lr"] * (1.0 if rule["type"] == "sgd" else 1 - rule["beta"])
        place -= rate * 2 * place
        np.save(trial.checkpoint() / "place.npy", np.array([place, step + 1]))
        trial.report(step + 1, L=place**2)
    return {"L": place**2, "place": place}


SPACE = {
    "rule": {
        "choice": [
            {"type": "sgd", "lr": {"float": [0.01, 0.9], "log": True}},
            {"type": "momentum", "lr": {"float": [0.01, 0.9], "log": True}, "beta": {"float": [0.0, 0.9]}},
        ]
    }
}


class Supernet:
    """Two layers that each offer an identity, a tanh and a sine of shared weights; a choice picks one each."""

    class Config(BaseConfig):
        width: PositiveInt = 6

    OPERATIONS: ClassVar[Mapping[str, Any]] = {"identity": lambda x: x, "tanh": torch.tanh, "sine": torch.sin}
    traceable = False
    derives = True

    def __init__(self, config: Any, spec: Any, path: Sequence[str] = ("tanh", "tanh")) -> None:
        self.config, self.path = config, path

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        draw = torch.Generator().manual_seed(seed)
        width = self.config.width
        shapes = {"a": (width, 1), "b": (width, width), "out": (1, width)}
        return {name: torch.randn(shape, generator=draw) / shape[1] ** 0.5 for name, shape in shapes.items()}, {}

    def __call__(
        self, parameters: Tensors, buffers: Tensors, x: Tensor, *, seeds: Any = None
    ) -> tuple[Tensor, Tensors]:
        for name, choice in zip(("a", "b"), self.path, strict=True):
            x = self.OPERATIONS[choice](x @ parameters[name].transpose(-1, -2))
        return x @ parameters["out"].transpose(-1, -2), buffers


@register("slot.architecture", "one_path")
class OnePath(Component):
    """An operation a layer, chosen by a searcher."""

    class Config(BaseConfig):
        pass

    def space(self) -> Space:
        return Space({f"layer{index}": Choice(tuple(Supernet.OPERATIONS)) for index in range(2)})

    def network(self, model: Any) -> Any:
        chosen = [self.context.choices.get(f"layer{index}", "tanh") for index in range(2)]
        return Supernet(model.config, self.context.spec, chosen)


@register("slot.gradient_noise", "normal")
class GradientNoise(Component):
    """A slot that nobody used before: noise on the inner gradients, of a learned size."""

    class Config(BaseConfig):
        size: PositiveFloat = 0.1

    draws: ClassVar[bool] = True

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        return {"size": torch.tensor(float(self.config.size))}, {}

    def gradients(self, values: Tensors, gradients: Tensors, theta: Tensors, step: int) -> Tensors:
        return {name: one * (1 + values["size"]) for name, one in gradients.items()}
