"""What a worker holds: the parts of a resolved experiment, built once, and the functions that its calls name."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

import metasearch.estimators
import metasearch.evaluation
import metasearch.learners
import metasearch.models
import metasearch.tasks  # noqa: F401  (these list the built-in parts)
from metasearch.core.config import overlay, validate
from metasearch.core.contracts import Learner, TaskDistribution, Trial
from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.core.registry import build, registry, resolve
from metasearch.core.space import Dimension, Space, extract, left_open, substitute
from metasearch.core.values import Call, Measurement
from metasearch.estimators.episodes import Problem
from metasearch.estimators.value import Value
from metasearch.evaluation.baselines import Baseline, Tuned
from metasearch.evaluation.ensemble import Ensemble
from metasearch.schema import ExperimentFile, Retrain, without_weights

__all__ = ["Blueprint", "ExperimentProgram", "TrialEvaluation", "build_program"]

registry("evaluation").add("objective", "metasearch.objective:Objective")
registry("evaluation").add("search", "metasearch.nested:NestedSearch")
registry("evaluation").add("training", "metasearch.evaluation.training:Training")
registry("evaluation").add("table", "metasearch.evaluation.table:Table")


_LEARNERS = 64
"""Learners that a worker keeps: a search over architectures has another one for each proposal."""


@runtime_checkable
class TrialEvaluation(Protocol):
    """An evaluation of L that is a whole training run.

    Listed under ``evaluation`` and built as ``Class(config, program)``.
    """

    def run(self, call: Call, trial: Trial) -> Measurement:
        """Carries it out on a worker, reporting through ``trial``."""
        ...


@dataclass(frozen=True)
class Blueprint:
    """A resolved experiment as it travels to workers.

    Args:
        tree: the whole configuration, recipes expanded, ranges still in place, classes as objects or by name.
        folders: places that go on ``sys.path`` so that ``module:Class`` resolves.
        run: folder of the run, for evaluations that write; None outside a run.
        device: where the computation runs, already decided; ``cuda`` is the worker's own GPU.
    """

    tree: Mapping[str, Any]
    folders: tuple[str, ...] = ()
    run: str | None = None
    device: str = "cpu"
    template: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "template", extract(self.tree)[0])

    def configuration(self, choices: Mapping[str, Any]) -> dict[str, Any]:
        """The plain configuration under given choices."""
        return dict(substitute(self.template, choices))


def build_program(blueprint: Blueprint) -> ExperimentProgram:
    """The function that an executor's ``setup`` wraps."""
    return ExperimentProgram(blueprint)


class ExperimentProgram:
    """The functions of an experiment: ``train``, ``validation``, ``test``, ``ensemble``, ``start:<baseline>``,
    ``tuned:<baseline>`` and ``baseline:<baseline>``; with an architecture to train again, ``retrain``.

    Args:
        blueprint: the resolved experiment.

    Raises:
        ConfigError: if a part cannot be built, with the path of the offending key.
    """

    def __init__(self, blueprint: Blueprint) -> None:
        self.blueprint = blueprint
        for folder in reversed(blueprint.folders):
            if folder not in sys.path:
                sys.path.insert(0, folder)
        base = extract(blueprint.tree)
        self._example = Space({name: dimension for name, (dimension, _) in base[1].items()}).sample(0)
        self.file = ExperimentFile.model_validate(blueprint.configuration(self._example))
        for module in self.file.imports:
            resolve(f"{module}:__name__", "imports")
        self._learners: dict[str, Learner] = {}
        self._functions: dict[str, Any] = {}

    @functools.cached_property
    def problem(self) -> Problem:
        """What estimators measure."""
        numerics = self.file.numerics
        device = torch.device(self.blueprint.device)
        return Problem(self.tasks, self.learner, device, getattr(torch, numerics.dtype), numerics.compile)

    @functools.cached_property
    def tasks(self) -> TaskDistribution:
        """The task distribution, its data on this worker's device."""
        given = self.file.tasks
        if given is None:
            raise ConfigError("tasks", "is required and was not given")
        if not isinstance(given, Mapping | str | type):
            return given  # an object of the caller's own
        block = given if isinstance(given, Mapping) else {"type": given}
        dtype = getattr(torch, self.file.numerics.dtype)
        return build("task", block, "tasks", device=self.blueprint.device, dtype=dtype)

    def learner(self, choices: Mapping[str, Any], split: str = "train") -> Learner:
        """The learner under given choices for the tasks of a split; built once for each kind of task.

        Splits that differ only in their numbers of examples share it.
        """
        given = {**self._example, **choices}
        spec = self.tasks.spec("train")
        if split != "train":
            here = self.tasks.spec(split)
            spec = dataclasses.replace(here, support=spec.support, query=spec.query)
        key = json.dumps([given, spec.kind, spec.input_shape, spec.outputs], sort_keys=True, default=str)
        if key not in self._learners:
            block = self.blueprint.configuration(given).get("learner")
            if block is None:
                raise ConfigError("learner", "is required and was not given")
            if not isinstance(block, Mapping | str | type):
                return block
            block = without_owners(block) if isinstance(block, Mapping) else {"type": block}
            context = {"spec": spec, "choices": left_open(self.blueprint.tree, given, "learner.")}
            while len(self._learners) >= _LEARNERS:
                del self._learners[next(iter(self._learners))]
            self._learners[key] = build("learner", block, "learner", **context)
        return self._learners[key]

    def retrained(self, choices: Mapping[str, Any], split: str = "test") -> Learner:
        """The learner of ``test.retrain`` under given choices.

        Raises:
            UnsupportedError: if the search's learner has no architecture slot.
        """
        test = self.file.test
        assert test is not None
        assert test.retrain is not None
        given = {**self._example, **choices}
        block = self.blueprint.configuration(given).get("learner")
        if not isinstance(block, Mapping) or "architecture" not in block.get("slots", {}):
            raise UnsupportedError("test.retrain", "trains an architecture again; the learner has no such slot")
        own = {"architecture": {"type": "chosen", "weights": "own"}, "initialization": {"type": "random"}}
        plain = overlay(without_owners(block), {"slots": own})
        settings = overlay(plain, validate(Retrain, test.retrain, "test.retrain").learner)
        own_choices = left_open(self.blueprint.tree, given, "learner.")
        try:
            return build("learner", settings, "learner", spec=self.tasks.spec(split), choices=own_choices)
        except ConfigError as error:
            raise error.under("test.retrain") from None

    def space(self) -> Space:
        """The choices that components, or an evaluation that brings its own, declare, by full path."""
        found: dict[str, Dimension] = {}
        if self.file.learner is not None and hasattr(learner := self.learner({}), "space"):
            found |= _prefixed(learner.space(), "learner.").dimensions
        if self.file.evaluation.get("type", "episodes") != "episodes":
            evaluation = self.function("train")
            if hasattr(evaluation, "space"):
                found |= _prefixed(evaluation.space(), "evaluation.").dimensions
        return Space(found)

    def function(self, name: str) -> Any:
        """The part that answers calls to ``name``.

        Raises:
            ConfigError: if it cannot be built.
        """
        if name not in self._functions:
            self._functions[name] = self._build(name)
        return self._functions[name]

    def measure(self, call: Call) -> Measurement:
        """Answers a function call."""
        with self.numerics():
            kind, _, baseline = call.function.partition(":")
            if kind in ("start", "tuned"):
                part = self.function(f"baseline:{baseline}")
                if kind == "start":
                    phi = part.start(call.seed) if isinstance(part, Tuned) else part.prepare(call.seed)
                else:
                    phi = part.tuned(call.carried, call.seed) if isinstance(part, Tuned) else call.carried
                return Measurement(np.zeros(0), np.zeros(0), carried=phi)
            if kind == "baseline":
                learner = self.function(call.function).learner
                return Value(Value.Config(), _with(self.problem, learner)).measure(call)
            return self.function(call.function).measure(call)

    def run(self, call: Call, trial: Trial) -> Measurement:
        """Carries out a training run."""
        with self.numerics():
            return self.function("train").run(call, trial)

    @contextlib.contextmanager
    def numerics(self) -> Iterator[None]:
        """Threads, TF32 and determinism as the experiment says, and as they were afterwards."""
        settings = self.file.numerics
        before = (
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
            torch.backends.cuda.matmul.allow_tf32,
        )
        torch.set_num_threads(settings.threads)
        torch.use_deterministic_algorithms(settings.deterministic, warn_only=True)
        # By default, deterministic algorithms come with a pass over all fresh memory: a fifth of small tensors' time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.allow_tf32 = settings.tf32
        torch.backends.cudnn.allow_tf32 = settings.tf32
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1])
            torch.utils.deterministic.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]
            torch.backends.cuda.matmul.allow_tf32 = before[3]

    def _build(self, name: str) -> Any:
        kind, _, baseline = name.partition(":")
        if kind == "baseline":
            return self._baseline(baseline)
        if name == "retrain":
            return Value(Value.Config(), dataclasses.replace(self.problem, learner=self.retrained), name)
        if name == "ensemble":
            return Ensemble(Ensemble.Config(), self.problem, name)
        if kind in ("validation", "test"):
            return Value(Value.Config(), self.problem, kind)
        block = dict(self.file.evaluation)
        type_ = block.pop("type", "episodes")
        if type_ != "episodes":
            return build("evaluation", {"type": type_, **block}, "evaluation", program=self)
        if "estimator" not in block:
            raise ConfigError("evaluation.estimator", f"is required: {', '.join(registry('estimator'))}")
        estimator = block.pop("estimator")
        settings = {"type": estimator} if isinstance(estimator, str) else dict(estimator)
        splits = {
            one["reward_split"]
            for one in self.file.searchers.values()
            if isinstance(one, Mapping) and "reward_split" in one
        }
        if len(splits) > 1:
            raise ConfigError("searchers", f"rewards come from one split at a time, got {sorted(splits)}")
        if splits:
            settings["reward_split"] = splits.pop()
            self.tasks.spec(settings["reward_split"])
        return build("estimator", {**settings, **block}, "evaluation", problem=self.problem)

    def _baseline(self, name: str) -> Baseline:
        test = self.file.test
        if test is not None:
            for entry in test.baselines:
                found, settings = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
                if found == name:
                    block, path = {"type": name, **(settings or {})}, f"test.baselines.{name}"
                    return build("baseline", block, path, problem=self.problem, split=test.split)
        raise UnsupportedError("test.baselines", f"no baseline {name!r} in this experiment")


def without_owners(block: Mapping[str, Any]) -> dict[str, Any]:
    """A learner's block without what it says of the search and not of itself: who drives its slots, ``searcher``, and
    the weights that it starts from, ``from``.
    """
    block = without_weights(block)
    slots = {
        slot: {key: value for key, value in settings.items() if key != "searcher"}
        for slot, settings in block.get("slots", {}).items()
    }
    return {**block, "slots": slots} if "slots" in block else block


def _prefixed(space: Space, prefix: str) -> Space:
    return Space(
        {
            prefix + name: dataclasses.replace(
                dimension, when={prefix + parent: values for parent, values in (dimension.when or {}).items()} or None
            )
            for name, dimension in space.dimensions.items()
        }
    )


def _with(problem: Problem, learner: Learner) -> Problem:
    def always(choices: Mapping[str, Any], split: str) -> Learner:
        return learner

    return Problem(problem.tasks, always, problem.device, problem.dtype, "never")
