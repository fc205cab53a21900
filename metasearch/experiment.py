"""From an experiment file or keyword arguments to the objects of a search."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import metasearch.searchers  # noqa: F401  (lists the built-in searchers)
from metasearch import artifacts, recipes
from metasearch.core.config import Config, validate
from metasearch.core.contracts import Searcher
from metasearch.core.dimensions import Dimension, expression
from metasearch.core.errors import ArtifactError, ConfigError, UnsupportedError, nearest
from metasearch.core.registry import build, import_path, registry
from metasearch.core.space import Space, extract
from metasearch.core.values import Phi
from metasearch.estimators.episodes import EpisodeEstimator
from metasearch.heldout import takes_list
from metasearch.program import Blueprint, ExperimentProgram, TrialEvaluation
from metasearch.schema import ExperimentFile
from metasearch.searchers.joint import compose

__all__ = ["Experiment", "load", "override", "read", "recorded", "resolve", "weights_of"]


@dataclass(frozen=True)
class Experiment:
    """A resolved experiment: checked, with all that is derived from it.

    Args:
        tree: the whole configuration, recipes expanded, ranges in place, classes as objects or by name.
        file: its blocks, with the first values of all ranges.
        space: all choices, extracted ranges and those that components declare.
        owners: searcher of each choice.
        slot_owners: searcher of each slot's tensors.
        blueprint: what workers are built from.
    """

    tree: Mapping[str, Any]
    file: ExperimentFile
    space: Space
    owners: Mapping[str, str]
    slot_owners: Mapping[str, str]
    blueprint: Blueprint

    @property
    def program(self) -> ExperimentProgram:
        """A program built now, in this process."""
        return ExperimentProgram(self.blueprint)

    @property
    def episodes(self) -> bool:
        """Whether an evaluation is over tasks, by a learner."""
        return bool(self.file.evaluation.get("type", "episodes") == "episodes")

    @property
    def trials(self) -> bool:
        """Whether an evaluation is a training run; else function calls answer it."""
        kind = self.file.evaluation.get("type", "episodes")
        return not self.episodes and not hasattr(registry("evaluation").get(kind, "evaluation.type"), "measure")

    def searcher(self, phi: Phi, seed: int) -> Searcher:
        """The searcher of this experiment, set up; several are joined.

        Raises:
            ConfigError: if one cannot be built; UnsupportedError if they cannot work together.
        """
        parts = {
            name: build("searcher", _plain(settings, self.file.budget.steps), f"searchers.{name}")
            for name, settings in self.file.searchers.items()
        }
        rewards = {name: "reward" for name, settings in self.file.searchers.items() if _reward_split(settings)}
        joined = compose(parts, dict(self.slot_owners), dict(self.owners), rewards)
        joined.setup(phi, self.space, seed)
        return joined

    def in_flight(self, searcher: Searcher) -> int:
        """Proposals worked on at a time: what the searcher says, at least one a worker; one step for gradients."""
        if searcher.needs_gradient:
            return 1
        return max(int(getattr(searcher, "in_flight", 1)), self.file.execution.workers)

    def takes_gradient(self) -> bool:
        """Whether a searcher needs the gradient of L."""
        return any(_class_of(name, settings).needs_gradient for name, settings in self.file.searchers.items())

    def again(self, steps: int) -> Experiment:
        """The search of ``test.retrain``: so many steps under its changes, without validation and baselines.

        Schedules are as long as before, so that each step has the rate that it had.

        Raises:
            ConfigError: if the changes are none of the tasks, or cannot be made.
        """
        assert self.file.test is not None
        changes = self.file.test.retrain or {}
        if other := [key for key in changes if not key.startswith("tasks.")]:
            raise ConfigError("test.retrain", f"changes tasks (tasks.train_on: [train, validation]), got {other[0]!r}")
        fixed = {"validation": None, "budget": {"steps": steps}, "test.retrain": None, "test.baselines": ()}
        quiet = {"tracking.mlflow": False, "tracking.report": False, "paper": None}
        tree = override(self.tree, {**changes, **fixed, **quiet})
        tree["searchers"] = {
            name: _plain(settings, self.file.budget.steps) for name, settings in tree["searchers"].items()
        }
        try:
            return resolve(tree, Path(self.blueprint.folders[0]))
        except ConfigError as error:
            raise error.under("test.retrain") from error

    def with_run(self, folder: Path) -> Experiment:
        """The same experiment, working in a run's folder."""
        return dataclasses.replace(self, blueprint=dataclasses.replace(self.blueprint, run=str(folder)))


def read(path: str | Path) -> dict[str, Any]:
    """The raw tree of an experiment file.

    Raises:
        ConfigError: if there is no such file or it is not a YAML mapping.
    """
    file = Path(path)
    if not file.is_file():
        beside = [str(other) for other in sorted(file.parent.glob("*.y*ml"))] if file.parent.is_dir() else []
        raise ConfigError("", f"no experiment file {str(path)!r}; {nearest(str(path), beside)}")
    try:
        tree = yaml.load(file.read_text("utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise ConfigError("", f"{path} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError("", f"{path} must hold a mapping (name:, tasks:, learner: ...), got {type(tree).__name__}")
    return tree


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as people write it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)$"),
    list("-+0123456789."),
)


def override(tree: Mapping[str, Any], assignments: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """A tree with ``a.b.c=value`` applied; values are read as YAML.

    Raises:
        ConfigError: if an assignment has no ``=``, or goes through something that is not a mapping.
    """
    pairs: list[tuple[str, Any]] = []
    if isinstance(assignments, Mapping):
        pairs = list(assignments.items())
    else:
        for one in assignments:
            key, equals, text = one.partition("=")
            if not equals:
                raise ConfigError(one, "an override reads key=value, for example budget.steps=100")
            pairs.append((key.strip(), yaml.load(text, _Loader)))
    result = _copy(dict(tree))
    for key, value in pairs:
        *parents, last = _path(key, result)
        place = result
        for part in parents:
            if part not in place or place[part] is None:
                place[part] = {}
            place = place[part]
            if not isinstance(place, dict):
                raise ConfigError(key, f"{part!r} is not a mapping here, so nothing can be set below it")
        place[last] = value
    return result


def _path(key: str, tree: Mapping[str, Any]) -> list[str]:
    """The parts of an override's key; ``searcher.lr`` also reaches the one entry of ``searchers``."""
    parts = key.split(".")
    if parts[0] == "searcher" and "searchers" in tree and len(parts) > 1 and len(tree["searchers"]) == 1:
        return ["searchers", next(iter(tree["searchers"])), *parts[1:]]
    return parts


def load(source: str | Path | Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any] = ()) -> Experiment:
    """An experiment from a file (or a tree) and overrides, checked as far as it can be without running it.

    Raises:
        ConfigError: see :func:`resolve`.
    """
    folder = None if isinstance(source, Mapping) else Path(source).resolve().parent
    tree = dict(source) if isinstance(source, Mapping) else read(source)
    return resolve(override(tree, overrides), folder)


def resolve(tree: Mapping[str, Any], folder: Path | None = None) -> Experiment:
    """Expands the recipe, finds the ranges, checks every block and that the parts fit together.

    Args:
        tree: a raw experiment; classes and objects may stand where names would.
        folder: goes on the module search path, beside the working directory.

    Raises:
        ConfigError: with the path of the key, what was expected, and the nearest valid name.
        UnsupportedError: if parts that are each valid cannot work together.
    """
    folders = tuple(dict.fromkeys(str(place) for place in (folder, Path.cwd()) if place is not None))
    for place in reversed(folders):
        if place not in sys.path:
            sys.path.insert(0, place)
    tree = recipes.expand({key: value for key, value in tree.items() if key not in ("seeds", "variants")})
    if "searcher" in tree:
        if "searchers" in tree:
            raise ConfigError("searcher", "give either searcher or searchers, not both")
        tree["searchers"] = {"searcher": tree.pop("searcher")}
    tree = _with_place_of_weights(tree, folders)
    _, found = extract(tree)
    ranges = Space({name: dimension for name, (dimension, _) in found.items()})
    plain = Blueprint(tree, folders).configuration(ranges.sample(0))
    file = validate(ExperimentFile, plain)
    file = file.model_copy(update={"numerics": file.numerics.model_copy(update={"device": _device(file)})})
    tree = {**tree, "numerics": file.numerics.model_dump()}
    blueprint = Blueprint(tree, folders, device=file.numerics.device)
    program = ExperimentProgram(blueprint)
    space = Space({**ranges.dimensions, **program.space().dimensions})
    owners = _owners(file, space, {name: owner for name, (_, owner) in found.items()})
    experiment = Experiment(tree, file, space, owners, _slot_owners(file), blueprint)
    _check(experiment, program)
    return experiment


def _check(experiment: Experiment, program: ExperimentProgram) -> None:
    """That the parts fit: built once here, on the driver, before anything starts."""
    file = experiment.file
    evaluation = program.function("train")
    if experiment.episodes and file.learner is not None:
        learner = program.learner({})
        seed = file.seed
        phi = learner.init(seed)
        _check_weights(file, phi)
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
    if file.test is not None and experiment.episodes:
        _check_split(program, file.test.split, "test")
        takes_list(program.tasks, file.test.split, file.test.episodes, "test")
        for entry in file.test.baselines:
            program.function(f"baseline:{entry if isinstance(entry, str) else next(iter(entry))}")


def weights_of(learner: Any) -> str | None:
    """Where a learner's block says that the initialization starts from, if it does."""
    slots = learner.get("slots") if isinstance(learner, Mapping) else None
    block = slots.get("initialization") if isinstance(slots, Mapping) else None
    return block.get("from") if isinstance(block, Mapping) else None


def _with_place_of_weights(tree: dict[str, Any], folders: Sequence[str]) -> dict[str, Any]:
    """The experiment with the whole path of given weights, so that it can be resumed from anywhere."""
    given = weights_of(tree.get("learner"))
    if given is None:
        return tree
    places = [Path(folder) / given for folder in folders]
    place = next((one for one in places if one.exists()), None)
    if place is None or ":" in str(place):
        looked = "a path without a colon" if place else f"one of {', '.join(map(str, places))}"
        raise ConfigError(
            "learner.slots.initialization.from", f"expected weights at {looked}: the folder of a phi, a state dict"
        )
    return override(tree, {"learner.slots.initialization.from": str(place.resolve())})


def _check_weights(file: ExperimentFile, phi: Phi) -> None:
    source = weights_of(file.learner)
    if source is not None:
        try:
            artifacts.start_from(source, phi)
        except ArtifactError as error:
            raise ConfigError("learner.slots.initialization.from", str(error)) from error


def _check_used(experiment: Experiment, program: ExperimentProgram, evaluation: Any) -> None:
    """Refuses settings that nothing would read."""
    file = experiment.file
    if file.objectives is not None:
        raise UnsupportedError("objectives", "several objectives are not searched yet; lower one L")
    kind = file.evaluation.get("type", "episodes")
    if file.validation is not None and not experiment.episodes and not experiment.trials:
        raise UnsupportedError("validation", f"an evaluation of type {kind!r} has none on the way; leave the block out")
    if file.test is None:
        return
    if not experiment.episodes and not getattr(evaluation, "takes_test", False):
        raise UnsupportedError("test", f"an evaluation of type {kind!r} has no test of its own; leave the block out")
    if not experiment.episodes and not experiment.trials and file.test.baselines:
        raise UnsupportedError("test.baselines", f"there are none for an evaluation of type {kind!r}; leave them out")
    model = getattr(program.learner({}), "model", None) if experiment.episodes else None
    if file.test.derive is not None and not getattr(model, "derives", False):
        raise UnsupportedError("test.derive", "draws a network from a supernet, which this model is not; leave it out")
    if file.test.retrain is not None and not experiment.trials:
        if not experiment.episodes or experiment.space or file.validation is None:
            raise UnsupportedError(
                "test.retrain", "repeats a search by gradients for as long as validation found best; leave it out here"
            )
        experiment.again(1)


def _check_split(program: ExperimentProgram, split: str, block: str) -> None:
    """That a held-out split exists, and that a phi learned in training fits its tasks."""
    try:
        there = program.tasks.spec(split)
    except ConfigError as error:
        raise error.under(block) from None
    here = program.tasks.spec("train")
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


def _device(file: ExperimentFile) -> str:
    asked, gpus = file.numerics.device, file.execution.gpus_per_worker
    device = ("cuda" if gpus else "cpu") if asked == "auto" else asked
    if device == "cuda" or gpus:
        import torch

        if file.execution.address is None and not torch.cuda.is_available():
            key = "execution.gpus_per_worker" if gpus else "numerics.device"
            raise ConfigError(key, "asks for a GPU, and torch sees none on this machine; set it to 0 (or cpu)")
        if device == "cuda" and not gpus and file.execution.type == "actors":
            raise ConfigError(
                "execution.gpus_per_worker", "is 0 while numerics.device is cuda; Ray gives workers no GPU then"
            )
    return device


def _class_of(name: str, settings: Any) -> Any:
    kind = settings.get("type") if isinstance(settings, Mapping) else settings
    if kind is None:
        raise ConfigError(f"searchers.{name}.type", f"is required; {nearest('', registry('searcher'))}")
    return registry("searcher").get(kind, f"searchers.{name}.type")


def _owners(file: ExperimentFile, space: Space, named: Mapping[str, str | None]) -> dict[str, str]:
    """The searcher of each choice: the one it names, else its slot's, else the only one that takes choices."""
    takers = [name for name, settings in file.searchers.items() if not _class_of(name, settings).needs_gradient]
    owners: dict[str, str] = {}
    for name in space:
        owner = named.get(name) or _owner_of_slot(file, name)
        if owner is None and not takers:
            raise UnsupportedError(name, "is a range, and no searcher takes choices; add one (optuna, random, policy)")
        if owner is None and len(takers) != 1:
            raise ConfigError(
                name, f"must name its searcher (searcher: ...), since {len(takers)} take choices: {takers}"
            )
        owners[name] = owner or takers[0]
        if owners[name] not in file.searchers:
            raise ConfigError(name, f"names the searcher {owners[name]!r}; {nearest(owners[name], file.searchers)}")
    return owners


def _owner_of_slot(file: ExperimentFile, path: str) -> str | None:
    parts = path.split(".")
    if parts[:2] != ["learner", "slots"] or len(parts) < 3 or not isinstance(file.learner, Mapping):
        return None
    owner = file.learner.get("slots", {}).get(parts[2], {}).get("searcher")
    return None if owner is None else str(owner)


def _slot_owners(file: ExperimentFile) -> dict[str, str]:
    """The gradient searcher of each slot that names one; the others belong to the only gradient searcher there is."""
    owners: dict[str, str] = {}
    slots = file.learner.get("slots", {}) if isinstance(file.learner, Mapping) else {}
    for slot, settings in slots.items():
        owner = settings.get("searcher") if isinstance(settings, Mapping) else None
        if owner is None:
            continue
        if owner not in file.searchers:
            raise ConfigError(
                f"learner.slots.{slot}.searcher", f"no searcher {owner!r}; {nearest(owner, file.searchers)}"
            )
        if _class_of(owner, file.searchers[owner]).needs_gradient:
            owners[slot] = owner
    return owners


def _plain(settings: Any, steps: int | None) -> Any:
    """A searcher's own settings: without what the experiment does for it, and with the length of its schedule."""
    if not isinstance(settings, Mapping):
        return settings
    plain = {key: value for key, value in settings.items() if key != "reward_split"}
    if plain.get("schedule", "constant") != "constant" and steps is not None:
        plain.setdefault("total_steps", steps)
    return plain


def _reward_split(settings: Any) -> str | None:
    return settings.get("reward_split") if isinstance(settings, Mapping) else None


def recorded(value: Any) -> Any:
    """A configuration as the record holds it: plain values; classes and functions by import path, objects as
    ``{object: path}``.

    >>> recorded({"type": dict, "n": 1})
    {'type': 'builtins:dict', 'n': 1}
    """
    if isinstance(value, Mapping):
        return {str(key): recorded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [recorded(one) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Config):
        return recorded(value.model_dump())
    if isinstance(value, Dimension):
        return recorded(expression(value))
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return import_path(value)
    return {"object": import_path(type(value))}


def _copy(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copy(value) for key, value in tree.items()}
    return list(tree) if isinstance(tree, list) else tree
