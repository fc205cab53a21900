"""Optuna's samplers, through its public ask and tell, with the study in memory.

A resumed search asks and tells again from its first record: adding finished trials to a new study would restore what
the sampler knows, but not where its random stream stands.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState
from pydantic import Field, model_validator

from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import ConfigError, UnsupportedError, nearest
from metasearch.core.objectives import Direction, Limit, Objectives, figures
from metasearch.core.registry import resolve
from metasearch.core.seeds import derive
from metasearch.core.space import Choice, Dimension, Int, Space
from metasearch.core.values import Evaluation
from metasearch.searchers.choices import Choices, ChoiceSearcher

__all__ = ["Optuna"]

_SETTINGS: dict[str, tuple[str, ...]] = {
    "tpe": ("n_startup_trials", "n_ei_candidates", "multivariate", "group", "constant_liar"),
    "cmaes": ("n_startup_trials", "sigma0", "popsize", "with_margin", "lr_adapt", "use_separable_cma"),
    "gp": ("n_startup_trials", "deterministic_objective"),
    "nsgaii": ("population_size", "mutation_prob", "crossover_prob", "swapping_prob"),
    "nsgaiii": ("population_size", "mutation_prob", "crossover_prob", "swapping_prob", "dividing_parameter"),
    "qmc": ("qmc_type", "scramble"),
    "random": (),
    "grid": (),
}
"""Settings of each sampler; they are named as Optuna names them."""

_COMMON = ("sampler", "in_flight", "points", "objectives", "constraints")
"""Settings that all samplers have."""


class Optuna(ChoiceSearcher[optuna.Trial]):
    """A searcher of choices that assumes a fixed L, by one of Optuna's samplers.

    Several objectives may be searched at once: all samplers but CMA-ES then look for the set of best compromises.

    A diverged evaluation is told as the worst finite value so far (of each objective) and marked by the trial's user
    attribute ``diverged``; while there is no finite value, it waits for the first. A failed evaluation is told as a
    failed trial, from which samplers learn nothing.
    """

    stationary = True
    several = True

    class Config(BaseConfig):
        """Settings; those that a sampler does not have are refused, the defaults are those of Optuna 5.

        Args:
            sampler: ``tpe``, ``random``, ``cmaes``, ``gp``, ``nsgaii``, ``nsgaiii``, ``grid``, ``qmc``, a sampler
                object, or ``module:name`` of an object or of a function (or class) of a seed that makes one.
            in_flight: proposals evaluated at once.
            points: choices to try first, in order; what a point leaves out is sampled.
            objectives: figures to be lowered (``min``) or raised (``max``); an experiment's own block fills it in.
            constraints: limits on figures, for ``tpe``, ``gp``, ``nsgaii`` and ``nsgaiii`` (samplers that learn nothing
                ignore them); filled in likewise.
            n_startup_trials: random proposals at the start (tpe, gp: 10; cmaes: 1).
            group: TPE models the groups of dimensions that exist together; None for "if there are conditions".
        """

        sampler: Any = "tpe"
        in_flight: int = Field(default=1, ge=1)
        points: tuple[Mapping[str, Any], ...] = ()
        objectives: dict[str, Direction] = Field(default={"L": "min"}, min_length=1)
        constraints: dict[str, Limit] = Field(default_factory=dict)
        n_startup_trials: int | None = Field(default=None, ge=0)
        n_ei_candidates: int = Field(default=24, ge=1)
        multivariate: bool = True
        group: bool | None = None
        constant_liar: bool = True
        sigma0: float | None = Field(default=None, gt=0)
        popsize: int | None = Field(default=None, ge=2)
        with_margin: bool = False
        lr_adapt: bool = False
        use_separable_cma: bool = False
        deterministic_objective: bool = False
        population_size: int = Field(default=50, ge=2)
        mutation_prob: float | None = Field(default=None, ge=0, le=1)
        crossover_prob: float = Field(default=0.9, ge=0, le=1)
        swapping_prob: float = Field(default=0.5, ge=0, le=1)
        dividing_parameter: int = Field(default=3, ge=1)
        qmc_type: Literal["sobol", "halton"] = "sobol"
        scramble: bool = False

        @model_validator(mode="after")
        def _settings_fit(self) -> Optuna.Config:
            own = isinstance(self.sampler, BaseSampler) or (isinstance(self.sampler, str) and ":" in self.sampler)
            if not own and self.sampler not in _SETTINGS:
                hint = nearest(str(self.sampler), _SETTINGS)
                raise ConfigError("sampler", f"unknown sampler {self.sampler!r}; {hint}, or 'module:name' of your own")
            allowed = (*_COMMON, *(() if own else _SETTINGS[self.sampler]))
            for name in sorted(self.model_fields_set.difference(allowed)):
                raise ConfigError(name, f"is no setting of the sampler {self.sampler!r}; it has: {', '.join(allowed)}")
            if self.sampler == "cmaes" and (len(self.objectives) > 1 or self.constraints):
                raise ConfigError("sampler", "cmaes lowers one figure without constraints; use tpe, gp or nsgaii")
            return self

    def __init__(self, config: Config) -> None:
        self.config = config
        self.in_flight = config.in_flight

    def begin(self) -> None:
        """Makes the study.

        Raises:
            ConfigError: if one of ``points`` does not fit the space.
            UnsupportedError: for a grid over a space with conditions or with infinitely many values.
        """
        _check_points(self.config.points, self._space)
        self._objectives = Objectives(self.config.objectives, self.config.constraints)
        self._waiting: list[optuna.Trial] = []
        self._worst: list[float] = []
        self._worst_excesses: dict[str, float] = {}
        if optuna.logging.get_verbosity() < optuna.logging.WARNING:
            optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = _sampler(self.config, self._space, derive(self._seed, "optuna") % 2**32)
            self._study = optuna.create_study(sampler=sampler, directions=["minimize"] * len(self.config.objectives))
        for point in self.config.points:
            self._study.enqueue_trial(dict(point))

    def propose(self, n: int, first: int) -> list[tuple[Choices, optuna.Trial]]:
        trials: list[tuple[Choices, optuna.Trial]] = []
        for _ in range(n):
            trial = self._study.ask()
            trials.append((self._space.walk(partial(_suggest, trial)), trial))
        return trials

    def learn(self, told: Sequence[tuple[Evaluation, optuna.Trial]]) -> None:
        for evaluation, trial in told:
            if evaluation.status == "failed":
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            known = figures(evaluation) if evaluation.finite else {}
            vector = self._objectives.vector(known) if known else []
            if vector and all(map(math.isfinite, vector)):
                excesses = self._objectives.excesses(known)
                self._tell(trial, vector, excesses)
                self._worst = [max(pair) for pair in zip(vector, self._worst or vector, strict=True)]
                before = self._worst_excesses
                self._worst_excesses = {name: max(one, before.get(name, one)) for name, one in excesses.items()}
            else:
                trial.set_user_attr("diverged", True)
                self._waiting.append(trial)
            if self._worst:
                for diverged in self._waiting:
                    self._tell(diverged, self._worst, self._worst_excesses)
                self._waiting = []

    def _tell(self, trial: optuna.Trial, vector: Sequence[float], excesses: Mapping[str, float]) -> None:
        for name, excess in excesses.items():
            trial.set_constraint(name, excess if math.isfinite(excess) else 1e30)
        self._study.tell(trial, list(vector))


class _Grid(optuna.samplers.GridSampler):
    """Optuna's grid without its call to stop a study that nobody optimizes; when the grid is used up, points repeat."""

    def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
        """Nothing to stop: whoever holds the loop decides when it ends."""


def _sampler(config: Optuna.Config, space: Space, seed: int) -> BaseSampler:
    """The configured sampler, seeded."""
    if not isinstance(config.sampler, str) or ":" in config.sampler:
        return _own_sampler(config.sampler, seed)
    if config.sampler == "grid":
        return _grid(space, seed)
    if config.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    settings = {name: getattr(config, name) for name in _SETTINGS[config.sampler]}
    if config.sampler in {"tpe", "cmaes", "gp"} and config.n_startup_trials is None:
        settings["n_startup_trials"] = 1 if config.sampler == "cmaes" else 10
    if config.sampler == "tpe":
        conditional = any(dimension.when for dimension in space.dimensions.values())
        settings["group"] = conditional and config.multivariate if config.group is None else config.group
        return optuna.samplers.TPESampler(seed=seed, **settings)
    if config.sampler == "nsgaii":
        return optuna.samplers.NSGAIISampler(seed=seed, **settings)
    if config.sampler == "nsgaiii":
        return optuna.samplers.NSGAIIISampler(seed=seed, **settings)
    if config.sampler == "qmc":
        return optuna.samplers.QMCSampler(
            seed=seed, warn_asynchronous_seeding=False, warn_independent_sampling=False, **settings
        )
    if config.sampler == "cmaes":
        settings["consider_pruned_trials"] = False  # which never come: what a scheduler stops is told as it ended
    kind = optuna.samplers.CmaEsSampler if config.sampler == "cmaes" else optuna.samplers.GPSampler
    return kind(seed=seed, warn_independent_sampling=False, independent_sampler=_independent(seed), **settings)


def _independent(seed: int) -> BaseSampler:
    """What samples the dimensions that a sampler of vectors cannot: those under a condition, and categories."""
    return optuna.samplers.RandomSampler(seed=derive(seed, "independent") % 2**32)


def _own_sampler(sampler: Any, seed: int) -> BaseSampler:
    """A user's sampler. It is copied, so that a search rebuilt in this process starts from the same state."""
    made = resolve(sampler, "searcher.sampler") if isinstance(sampler, str) else sampler
    if not isinstance(made, BaseSampler) and callable(made):
        made = made(seed=seed)
    if not isinstance(made, BaseSampler):
        raise ConfigError("searcher.sampler", f"expected an optuna sampler or a function of a seed, got {made!r}")
    return copy.deepcopy(made)


def _grid(space: Space, seed: int) -> BaseSampler:
    for name, dimension in space.dimensions.items():
        if dimension.when is not None:
            raise UnsupportedError(name, "exists only under a condition, which a grid cannot hold; use sampler: random")
        if dimension.count == float("inf"):
            raise UnsupportedError(name, "a grid needs finitely many values; give the range a step or use a choice")
    return _Grid({name: dimension.values() for name, dimension in space.dimensions.items()}, seed=seed)


def _suggest(trial: optuna.Trial, name: str, dimension: Dimension) -> Any:
    """The sampler's value for a dimension; the ends of stepped ranges are grid points, as Optuna wants them."""
    if isinstance(dimension, Choice):
        return trial.suggest_categorical(name, dimension.values())
    if isinstance(dimension, Int):
        high = dimension.low + (int(dimension.count) - 1) * (dimension.step or 1)
        return trial.suggest_int(name, dimension.low, high, step=dimension.step or 1, log=dimension.log)
    if dimension.step is None:
        return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
    values = dimension.values()
    value = trial.suggest_float(name, dimension.low, values[-1], step=dimension.step)
    return values[round((value - dimension.low) / dimension.step)]


def _check_points(points: Sequence[Mapping[str, Any]], space: Space) -> None:
    for index, point in enumerate(points):
        for name, value in point.items():
            path = f"searcher.points.{index}.{name}"
            if name not in space.dimensions:
                raise ConfigError(path, f"is no dimension; {nearest(name, space.dimensions)}")
            if not space.dimensions[name].contains(value):
                raise ConfigError(path, f"{value!r} is outside of {space.dimensions[name]}")
