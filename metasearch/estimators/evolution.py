"""Gradients of L from its values at perturbed points: nothing is differentiated, so inner loops may be long and rough.

A perturbation is never sent: it is drawn again from its seed, on the worker and where the estimates are put together.
All tasks of a shard share one pair of perturbations, so ``shard: 1`` gives the most of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

from metasearch.core import seeds as seeding
from metasearch.core.contracts import Learner
from metasearch.core.errors import UnsupportedError
from metasearch.core.values import Call, Estimate, Losses, Measurement, Phi, Task, Tensors
from metasearch.estimators.episodes import EpisodeEstimator, Problem
from metasearch.estimators.trajectories import TruncatedEstimator, unrollable

__all__ = ["ES", "PES", "TruncatedES", "perturbation"]

_SIDES = {"plus": 1.0, "minus": -1.0}


class _Perturbed(EpisodeEstimator):
    """What both estimators share: the sides of a pair, and the reduction from losses and seeds to a gradient.

    L, the objective and all metrics are means over the sides; the metrics ``plus`` and ``minus`` are the objective on
    each side.
    """

    class Config(EpisodeEstimator.Config):
        """Settings.

        Args:
            sigma: standard deviation of the perturbation of each number in phi.
            antithetic: whether each perturbation is also taken with the opposite sign, which lowers the variance.
        """

        sigma: PositiveFloat = 0.01
        antithetic: bool = True

    gives_gradient: ClassVar[bool] = True

    def __init__(self, config: Any, problem: Problem, function: str = "train") -> None:
        super().__init__(config, problem, function)
        if config.reward_split is not None:
            raise UnsupportedError("reward_split", "is measured at phi itself, where this estimator takes no value")

    def sides(self) -> dict[str, float]:
        """The signs that a perturbation is taken with."""
        return _SIDES if self.config.antithetic else {"plus": 1.0}

    def moved(self, phi: Phi, seed: int, sign: float) -> Phi:
        """Phi beside itself."""
        noise = perturbation(phi.tensors, seed)
        return phi.replace(
            tensors={name: value + sign * self.config.sigma * noise[name] for name, value in phi.tensors.items()}
        )

    def mean(self, losses: dict[str, Losses]) -> Losses:
        """The losses of both sides as one."""
        first = next(iter(losses.values()))

        def over(values: Sequence[Tensor]) -> Tensor:
            return torch.stack(tuple(values)).mean(0)

        metrics = {name: over([one.metrics[name] for one in losses.values()]) for name in first.metrics}
        updates = {name: over([one.updates[name] for one in losses.values()]) for name in first.updates}
        sides = {name: one.objective for name, one in losses.items()}
        return Losses(
            over([one.objective for one in losses.values()]),
            over([one.query for one in losses.values()]),
            {**metrics, **sides},
            updates,
        )

    def noises(self, call: Call) -> list[int]:
        """Seeds of the perturbations that a call's losses are credited to."""
        return [_noise(call)]

    def measure(self, call: Call) -> Measurement:
        return dataclasses.replace(super().measure(call), extra={"noises": self.noises(call)})

    def combine(self, measurements: Sequence[Measurement]) -> tuple[Estimate, list[Any] | None]:
        """``sum over sides of sign * loss * perturbation / (sides * sigma)``, a mean over tasks."""
        estimate, carried = super().combine(measurements)
        shapes = self.problem.learner({}, "train").init(0).tensors
        total = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in shapes.items()}
        sides = self.sides()
        for one in measurements:
            slope = sum(sign * float(one.metrics[name].sum()) for name, sign in sides.items())
            for seed in one.extra["noises"]:
                for name, noise in perturbation(shapes, seed, torch.float64).items():
                    total[name] += slope * noise
        count = len(sides) * self.config.sigma * len(estimate.per_task)
        gradient = {name: (value / count).to(self.problem.dtype) for name, value in total.items()}
        return dataclasses.replace(estimate, gradient=gradient), carried


class ES(_Perturbed):
    """Evolution strategies on the whole inner loop: ``(f(phi + s e) - f(phi - s e)) e / 2 s`` with normal e.

    Unbiased for the gradient of L smoothed by a normal distribution of deviation s, at any length of the inner loop;
    its variance grows with it. Salimans et al. 2017, arXiv:1703.03864, Sec. 2.
    """

    def shard_losses(self, call: Call, phi: Phi, task: Task, learner: Learner) -> tuple[Losses, Tensors | None, Any]:
        found: dict[str, Losses] = {}
        with torch.no_grad():
            for name, sign in self.sides().items():
                point = self.moved(phi, _noise(call), sign)
                found[name] = learner.evaluate(point, task, call.seed, train=True, create_graph=False)
        return self.mean(found), None, None


class TruncatedES(_Perturbed, TruncatedEstimator):
    """Evolution strategies on a few inner steps at a time, as short-sighted as truncated backpropagation.

    Both sides start from the state that the trajectory has reached, which then goes on at phi itself: the baseline of
    Vicol, Metz, Sohl-Dickstein 2021, arXiv:2112.13835, algorithm 1.
    """

    class Config(_Perturbed.Config, TruncatedEstimator.Config):
        """Settings: those of both."""

    def shard_losses(self, call: Call, phi: Phi, task: Task, learner: Learner) -> tuple[Losses, Tensors | None, Any]:
        inner = unrollable(learner, "evaluation.estimator")
        journey = self.journey(call, inner)
        steps = min(self.config.steps, journey.left)
        found: dict[str, Losses] = {}
        with torch.no_grad():
            state = journey.kept.get("state")
            for name, sign in self.sides().items():
                point = self.moved(phi, _noise(call), sign)
                before = inner.begin(point, task, journey.seed) if state is None else state
                found[name] = inner.unroll(point, task, before, journey.seed, steps, create_graph=False)[1]
            state = inner.begin(phi, task, journey.seed) if state is None else state
            state, at_phi = inner.unroll(phi, task, state, journey.seed, steps, create_graph=False)
        return self.mean(found), None, self.onward(journey, {"state": state}, [*found.values(), at_phi])


class PES(_Perturbed, TruncatedEstimator):
    """Persistent evolution strategies: a few inner steps at a time, without the bias of truncation.

    Each truncation has a perturbation of its own, and its loss is credited to the sum of all perturbations since the
    trajectory began: Vicol, Metz, Sohl-Dickstein 2021, arXiv:2112.13835, algorithm 2. Both sides keep their inner
    states; of the perturbations only the seeds are kept. Unbiased for the gradient of the objective when phi of each
    truncation is smoothed for itself.
    """

    class Config(_Perturbed.Config, TruncatedEstimator.Config):
        """Settings: those of both."""

    def noises(self, call: Call) -> list[int]:
        kept = call.carried["kept"] if call.carried else {}
        return [*kept.get("noises", []), _noise(call)]

    def shard_losses(self, call: Call, phi: Phi, task: Task, learner: Learner) -> tuple[Losses, Tensors | None, Any]:
        inner = unrollable(learner, "evaluation.estimator")
        journey = self.journey(call, inner)
        states: dict[str, Any] = {}
        found: dict[str, Losses] = {}
        with torch.no_grad():
            for name, sign in self.sides().items():
                point = self.moved(phi, _noise(call), sign)
                before = journey.kept["states"][name] if journey.kept else inner.begin(point, task, journey.seed)
                states[name], found[name] = inner.unroll(
                    point, task, before, journey.seed, min(self.config.steps, journey.left), create_graph=False
                )
        kept = {"states": states, "noises": self.noises(call)}
        return self.mean(found), None, self.onward(journey, kept, list(found.values()))


def perturbation(tensors: Tensors, seed: int, dtype: torch.dtype | None = None) -> Tensors:
    """Standard normal numbers in the shapes of ``tensors``, from a seed; the same wherever they are drawn.

    Args:
        tensors: their dtypes and devices are taken, too.
        seed: of the perturbation.
        dtype: another one.
    """
    draws = seeding.Draws([seed], "perturbation")
    return {
        name: torch.from_numpy(draws.normal(value.numel())[0])
        .reshape(value.shape)
        .to(value.device, dtype or value.dtype)
        for name, value in sorted(tensors.items())
    }


def _noise(call: Call) -> int:
    return seeding.derive(call.seed, "noise", call.index)
