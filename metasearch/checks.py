"""What is checked of an experiment before anything starts: that its parts fit together, and that all of it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metasearch import artifacts
from metasearch.core.config import validate
from metasearch.core.errors import ArtifactError, ConfigError, UnsupportedError
from metasearch.core.registry import registry
from metasearch.core.space import Space
from metasearch.core.values import Phi
from metasearch.estimators.episodes import EpisodeEstimator
from metasearch.experiment import Experiment
from metasearch.heldout import takes_list
from metasearch.owners import searcher_class
from metasearch.program import ExperimentProgram, TrialEvaluation
from metasearch.schema import ExperimentFile, weights_of

__all__ = ["check"]


def check(experiment: Experiment, program: ExperimentProgram) -> None:
    """That the parts fit: built once here, on the driver, before anything starts."""
    file = experiment.file
    evaluation = program.function("train")
    if experiment.episodes and file.learner is not None:
        learner = program.learner({})
        seed = file.seed
        phi = learner.init(seed)
        _check_weights(file, phi)
        _check_owned(experiment, phi)
        experiment.searcher(phi, seed)
        if experiment.takes_gradient() and not evaluation.gives_gradient:
            raise UnsupportedError(
                "evaluation.estimator",
                f"{file.evaluation.get('estimator')!r} gives no gradient, which the gradient searcher needs; "
                f"choose one that does ({', '.join(_with_gradient())})",
            )
        if isinstance(evaluation, EpisodeEstimator):
            evaluation.check(learner, phi)
        if experiment.takes_gradient() and not phi.tensors:
            raise UnsupportedError(
                "searchers", "a gradient searcher needs learned tensors; no slot of the learner has any"
            )
        if file.validation is not None:
            _check_split(program, file.validation.split, "validation")
            takes_list(program.tasks, file.validation.split, file.validation.episodes, "validation")
    if experiment.episodes and file.learner is None:
        raise ConfigError("learner", "is required and was not given")
    if experiment.trials and not isinstance(evaluation, TrialEvaluation):
        raise ConfigError("evaluation.type", "must name a class with run(call, trial) or measure(call)")
    if not experiment.episodes:
        experiment.searcher(Phi(), file.seed)
    _check_used(experiment, program, evaluation)
    if file.scheduler is not None and not experiment.trials:
        raise UnsupportedError(
            "scheduler",
            f"stops training runs early; evaluations of type {file.evaluation.get('type', 'episodes')!r} are function "
            "calls",
        )
    _check_population(experiment)
    _check_compared(experiment)
    _check_ensemble(experiment, program)
    if file.test is not None and experiment.episodes:
        _check_split(program, file.test.split, "test")
        takes_list(program.tasks, file.test.split, file.test.episodes, "test")
        for entry in file.test.baselines:
            program.function(f"baseline:{entry if isinstance(entry, str) else next(iter(entry))}")


def _check_population(experiment: Experiment) -> None:
    file, settings = experiment.file, experiment.file.scheduler or {}
    if settings.get("type") in ("pbt", "pb2") and "population" not in settings:
        raise ConfigError("scheduler.population", "is required: the number of members, which train side by side")
    size = experiment.population
    if size is None:
        return
    if file.budget.evaluations != size:
        raise ConfigError(
            "budget.evaluations",
            f"is {file.budget.evaluations} and the population has {size} members; each is one evaluation, so the two "
            "are equal",
        )
    if file.execution.type == "inline":
        raise UnsupportedError(
            "execution.type", f"is inline, and a population ({settings['type']}) trains side by side; use actors"
        )


def _check_compared(experiment: Experiment) -> None:
    """That a scheduler knows how trials with several objectives compare."""
    settings = experiment.scheduler or {}
    if "objectives" in settings and settings.get("type") not in ("asha", "none"):
        raise ConfigError(
            "scheduler",
            f"{settings.get('type')!r} compares one figure: give metric, or weights for a sum; asha compares "
            "all objectives",
        )


def _check_weights(file: ExperimentFile, phi: Phi) -> None:
    for given in weights_of(file.learner):
        try:
            artifacts.start_from(given.path, phi, given.slot)
            if given.slot == "update_rule":
                _check_rule(file, given.path)
        except ArtifactError as error:
            raise ConfigError(given.key, str(error)) from error


def _check_rule(file: ExperimentFile, path: str) -> None:
    """That an update rule goes on with the settings that it was learned with."""
    found = artifacts.stored(path, "update_rule")
    theirs = None if found is None else artifacts.rule_settings(found)
    assert isinstance(file.learner, Mapping)
    ours = file.learner["slots"]["update_rule"]
    if theirs is None:
        return
    same = theirs.get("type") == ours["type"]  # else theirs may be user code, which is not imported on its word
    known, given = (_rule_settings(one) if same else {"type": one.get("type")} for one in (theirs, ours))
    for name in sorted(known.keys() | given.keys()):
        if known.get(name) != given.get(name):
            raise ConfigError(
                f"learner.slots.update_rule.{name}",
                f"the rule in {path} was learned with {known.get(name)!r}, got {given.get(name)!r}; give it the same",
            )


def _rule_settings(block: Mapping[str, Any]) -> dict[str, Any]:
    """What an update rule computes, with its defaults."""
    plain = {name: value for name, value in block.items() if name not in ("type", "from", "searcher", "chosen")}
    config = registry("slot.update_rule").get(block["type"]).Config
    settings = validate(config, plain, "learner.slots.update_rule").model_dump()
    return {"type": block["type"]} | {k: v for k, v in settings.items() if k not in ("through", "second_order")}


def _check_owned(experiment: Experiment, phi: Phi) -> None:
    """Refuses a slot whose tensors nobody would move although it names a searcher."""
    file = experiment.file
    slots = file.learner.get("slots", {}) if isinstance(file.learner, Mapping) else {}
    for slot, settings in slots.items():
        owner = settings.get("searcher") if isinstance(settings, Mapping) else None
        if owner is None or slot in experiment.slot_owners:
            continue
        if phi.part(slot) and not any(name.startswith(f"learner.slots.{slot}.") for name in experiment.space):
            raise UnsupportedError(
                f"learner.slots.{slot}.searcher",
                f"{owner!r} takes choices, and this slot has learned tensors; make them choices by chosen: "
                "{within: [low, high]}, or name a gradient searcher",
            )


def _check_used(experiment: Experiment, program: ExperimentProgram, evaluation: Any) -> None:
    """Refuses settings that nothing would read."""
    file = experiment.file
    for block in ("objectives", "constraints"):
        alone = len(file.searchers) == 1 and all(
            getattr(searcher_class(name, settings), "several", False) for name, settings in file.searchers.items()
        )
        if getattr(file, block) and not alone:
            raise UnsupportedError(
                block, "are for one searcher that takes several figures (optuna); leave the block out to lower L"
            )
    kind = file.evaluation.get("type", "episodes")
    if file.validation is not None and not experiment.episodes and not experiment.trials:
        raise UnsupportedError("validation", f"an evaluation of type {kind!r} has none on the way; leave the block out")
    if file.validation is not None and (file.objectives or file.constraints):
        raise UnsupportedError(
            "validation", "selects by one figure, and here objectives or constraints decide; leave the block out"
        )
    if file.test is None:
        return
    if not experiment.episodes and not getattr(evaluation, "takes_test", False):
        raise UnsupportedError("test", f"an evaluation of type {kind!r} has no test of its own; leave the block out")
    if not experiment.episodes and not experiment.trials and file.test.baselines:
        raise UnsupportedError("test.baselines", f"there are none for an evaluation of type {kind!r}; leave them out")
    learner = program.learner({}) if experiment.episodes else None
    slots = getattr(learner, "slots", {})
    if file.test.derive is not None and ("architecture" not in slots or slots["architecture"].moves_shapes):
        raise UnsupportedError(
            "test.derive",
            "draws an architecture from a supernet, and this learner has none; leave it out, or use architecture: "
            "{type: mixed} or {type: chosen, weights: shared}",
        )
    if file.test.derive is not None and not hasattr(slots["architecture"], "derived") and len(file.searchers) < 2:
        raise UnsupportedError("test.derive", "needs a searcher of weights beside that of the architecture")
    if file.test.retrain is not None and experiment.episodes:
        program.retrained({})
    elif file.test.retrain is not None and not experiment.trials:
        raise UnsupportedError("test.retrain", f"an evaluation of type {kind!r} has none; leave it out")


def _check_ensemble(experiment: Experiment, program: ExperimentProgram) -> None:
    """That ``test.ensemble`` has predictions to average, of networks of one kind, and something to choose them by."""
    file = experiment.file
    if file.test is None or file.test.ensemble is None:
        return
    path, words = "test.ensemble", "averages the predictions of the phis that were best by validation"
    if not experiment.episodes or file.validation is None:
        raise ConfigError(path, f"{words}, and this search has no validation to choose by; add one, or leave it out")
    if experiment.space:
        raise UnsupportedError(
            path,
            f"{words}; under different choices ({next(iter(experiment.space))} ...) they need not be networks of one "
            "kind. Leave it out",
        )
    if file.test.retrain is not None or file.test.derive is not None:
        raise UnsupportedError(path, f"{words}; test.retrain and test.derive test something else. Leave it out")
    kind = program.tasks.spec(file.test.split).kind
    if kind not in ("classification", "regression"):
        raise UnsupportedError(path, f"{words}; a mean has no meaning for tasks of kind {kind!r}. Leave it out")


def _check_split(program: ExperimentProgram, split: str, block: str) -> None:
    """That a held-out split exists, and that a phi learned in training fits its tasks."""
    try:
        there = program.tasks.spec(split)
    except ConfigError as error:
        raise error.under(block) from None
    here = program.tasks.spec("train")
    spaces = [getattr(program.learner({}, one), "space", Space)() for one in ("train", split)]
    if spaces[0].dimensions != spaces[1].dimensions:
        strange = next(
            name
            for name in (*spaces[0], *spaces[1])
            if spaces[0].dimensions.get(name) != spaces[1].dimensions.get(name)
        )
        raise UnsupportedError(
            "tasks", f"leave other choices in the split {split!r} than in training ({strange}); use equal numbers"
        )
    learned, wanted = program.learner({}).init(0), program.learner({}, split).init(0)
    shapes = [
        {name: list(value.shape) for name, value in {**one.tensors, **one.buffers}.items()} for one in (learned, wanted)
    ]
    for name in sorted({*shapes[0], *shapes[1]}):
        if shapes[0].get(name) != shapes[1].get(name):
            raise UnsupportedError(
                "tasks",
                f"have {here.outputs} outputs and inputs {list(here.input_shape)} in training, {there.outputs} and "
                f"{list(there.input_shape)} in the split {split!r}, and phi depends on it: {name} is "
                f"{shapes[0].get(name)} and {shapes[1].get(name)}. Use equal numbers, or keep the last layer out of "
                'phi: initialization: {type: tensors, zero: ["head.*"]} (a reader of sequences: set its capacity)',
            )


def _with_gradient() -> list[str]:
    return [name for name in registry("estimator") if registry("estimator").get(name).gives_gradient]
