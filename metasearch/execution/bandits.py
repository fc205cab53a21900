"""PB2's model of what choices gain, and when: a Gaussian process whose memory fades with training time.

Parker-Holder, Nguyen, Roberts 2020, "Provably efficient online hyperparameter optimization with population-based
bandits" (arXiv:2002.02518), Algorithm 1; the kernel is that of Bogunovic, Scarlett, Cevher 2016. Ray's own PB2 draws
from numpy's global stream, orders its data by random trial names and treats logarithmic ranges as linear ones; this one
depends on seeds alone and sees ranges as their priors do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from metasearch.core.dimensions import Choice
from metasearch.core.seeds import Draws
from metasearch.core.space import Space

__all__ = ["Gains", "Process"]

Array = NDArray[np.float64]

_CANDIDATES = 1024
_ROWS = 300  # the newest; older ones have faded, and the cost is cubic


class Process:
    """Gaussian process regression over (time, features), standardized targets, with parameters of highest likelihood.

        k((t, a), (t', b)) = v (1 - e)^(|t - t'| / 2) exp(-|a - b|^2 / (2 l^2))

    Args:
        times: ``[n]``, in units after which half of a memory may be gone.
        features: ``[n, d]``, in [0, 1].
        targets: ``[n]``.
    """

    def __init__(self, times: Array, features: Array, targets: Array) -> None:
        self._times, self._features = times, features
        spread = float(targets.std())
        self._targets = np.clip((targets - targets.mean()) / (spread if spread > 0 else 1.0), -2, 2)
        self._gaps = np.abs(times[:, None] - times[None])
        self._squares = _squares(features, features)
        start = np.log([1.0, 0.5, 0.1, 0.1])
        bounds = np.log([(0.05, 20.0), (0.05, 5.0), (1e-3, 0.5), (1e-3, 1.0)])
        found = minimize(self._misfit, start, method="L-BFGS-B", bounds=bounds, options={"maxiter": 30})
        self.variance, self.length, self.fading, self.noise = np.exp(found.x if found.fun < 1e24 else start).tolist()
        self._factor = cho_factor(self._noisy(self.variance, self.length, self.fading, self.noise), lower=True)
        self._weights = cho_solve(self._factor, self._targets)

    def predict(self, times: Array, features: Array) -> tuple[Array, Array]:
        """Mean and standard deviation ``[m]`` of the standardized target."""
        gaps, squares = np.abs(times[:, None] - self._times[None]), _squares(features, self._features)
        cross = _kernel(gaps, squares, self.variance, self.length, self.fading)
        variance = self.variance - (cross * cho_solve(self._factor, cross.T).T).sum(1)
        return cross @ self._weights, np.sqrt(np.maximum(variance, 1e-12))

    def _noisy(self, variance: float, length: float, fading: float, noise: float) -> Array:
        kernel = _kernel(self._gaps, self._squares, variance, length, fading)
        return kernel + (noise + 1e-8) * np.eye(len(kernel))

    def _misfit(self, logs: Array) -> float:
        """The negative logarithm of the marginal likelihood, without its constant."""
        try:
            factor = cho_factor(self._noisy(*np.exp(logs)), lower=True)
        except np.linalg.LinAlgError:
            return 1e25
        fit = 0.5 * float(self._targets @ cho_solve(factor, self._targets))
        return fit + float(np.log(np.diag(factor[0])).sum())


class Gains:
    """What members gained between waits, and which choices promise most from here on.

    Numbers that are always there are modelled, each as its place in its prior; options and what exists only under a
    condition stay those of the source.

    Args:
        space: of the choices.
        interval: steps between waits.
    """

    def __init__(self, space: Space, interval: int) -> None:
        self._numbers = {
            name: one for name, one in space.dimensions.items() if one.when is None and not isinstance(one, Choice)
        }
        self._space, self._interval = space, interval
        self._rows: list[tuple[float, float, list[float], float]] = []
        self._standing: dict[int, tuple[int, float]] = {}
        self._running: list[list[float]] = []

    def observe(self, step: int, choices: Mapping[int, Mapping[str, Any]], scores: Mapping[int, float]) -> None:
        """Takes in the scores (higher is better) that members reached at a step, under choices since the last one."""
        for member in sorted(scores):
            if member in self._standing:
                since, before = self._standing[member]
                gain = (scores[member] - before) / (step - since)
                self._rows.append((since, before, self._places(choices[member]), gain))
        self._standing = {member: (step, score) for member, score in scores.items()}
        self._running = []

    def settle(self, step: int, sources: Mapping[int, int]) -> None:
        """From here on each member stands where its source stood."""
        before = dict(self._standing)
        self._standing |= {member: before[source] for member, source in sources.items() if source in before}

    def propose(self, source: int, choices: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """The choices with the highest upper confidence bound on the gain, for a member that stands where ``source``
        does; random ones while nothing is known. Those proposed since the last wait lower the doubt around them.
        """
        drawn = Draws([seed], "bandit").uniform(_CANDIDATES * max(len(self._numbers), 1))[0].reshape(_CANDIDATES, -1)
        best = drawn[0]
        if self._rows and self._numbers and source in self._standing:
            best = drawn[int(self._bounds(drawn, *self._standing[source]).argmax())]
        self._running.append(best.tolist())
        places = dict(zip(self._numbers, best.tolist(), strict=False))
        return self._space.walk(
            lambda name, dimension: (
                dimension.at(min(places[name], 1 - 1e-9)) if name in places else choices.get(name, dimension.at(0.0))
            )
        )

    def _bounds(self, candidates: Array, step: float, before: float) -> Array:
        rows = self._rows[-_ROWS:]
        times = np.array([row[0] for row in rows]) / self._interval
        levels = np.array([row[1] for row in rows])
        low, width = float(levels.min()), float(np.ptp(levels)) or 1.0

        def features(level: Array, places: Array) -> Array:
            return np.column_stack([np.clip((level - low) / width, -1, 2), places])

        known = features(levels, np.array([row[2] for row in rows]))
        process = Process(times, known, np.array([row[3] for row in rows]))
        now = np.full(len(candidates), step / self._interval)
        wanted = features(np.full(len(candidates), before), candidates)
        mean, doubt = process.predict(now, wanted)
        if self._running:  # as if they had come out as predicted, which leaves the mean as it is
            running = features(np.full(len(self._running), before), np.array(self._running))
            doubt = _with_running(process, doubt, now, wanted, running)
        beta = 0.2 + max(0.0, math.log(0.4 * len(rows)))
        return np.asarray(mean + math.sqrt(beta) * doubt)

    def _places(self, choices: Mapping[str, Any]) -> list[float]:
        return [float(one.place(choices[name])) for name, one in self._numbers.items()]


def _with_running(process: Process, doubt: Array, now: Array, wanted: Array, running: Array) -> Array:
    """The doubt after points whose outcome is not known yet (Desautels, Krause, Burdick 2014, GP-BUCB)."""
    # The prior kernel stands for the posterior one: cheaper, and it errs towards exploring elsewhere.
    gaps = np.zeros((len(wanted), len(running)))
    near = _kernel(gaps, _squares(wanted, running), 1.0, process.length, process.fading).max(1)
    return doubt * np.sqrt(np.maximum(1.0 - near**2, 0.0))


def _kernel(gaps: Array, squares: Array, variance: float, length: float, fading: float) -> Array:
    return np.asarray(variance * (1.0 - fading) ** (0.5 * gaps) * np.exp(-0.5 * squares / length**2))


def _squares(one: Array, other: Array) -> Array:
    return np.asarray(((one[:, None] - other[None]) ** 2).sum(-1))
