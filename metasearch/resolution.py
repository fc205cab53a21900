"""From an experiment file or keyword arguments to a resolved experiment."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metasearch import recipes
from metasearch.checks import check
from metasearch.core.config import validate
from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.core.space import Space, extract
from metasearch.experiment import Experiment
from metasearch.owners import choice_owners, slot_owners
from metasearch.program import Blueprint, ExperimentProgram
from metasearch.schema import ExperimentFile
from metasearch.trees import override, read, with_place_of_weights, with_teacher, without_emptied

__all__ = ["again", "load", "resolve"]


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
    tree = with_place_of_weights(without_emptied(tree), folders)
    _, found = extract(tree)
    ranges = Space({name: dimension for name, (dimension, _) in found.items()})
    plain = Blueprint(tree, folders).configuration(ranges.sample(0))
    file = validate(ExperimentFile, plain)
    file = file.model_copy(update={"numerics": file.numerics.model_copy(update={"device": _device(file)})})
    tree = {**tree, "numerics": file.numerics.model_dump()}
    tree, sent = with_teacher(tree)
    blueprint = Blueprint(sent, folders, device=file.numerics.device)
    program = ExperimentProgram(blueprint)
    space = Space({**ranges.dimensions, **program.space().dimensions})
    owners = choice_owners(file, space, {name: owner for name, (_, owner) in found.items()})
    experiment = Experiment(tree, file, space, owners, slot_owners(file), blueprint)
    check(experiment, program)
    if file.test is not None and file.test.refit is not None:
        _check_refit(experiment)
    return experiment


def again(experiment: Experiment, steps: int) -> Experiment:
    """The search of ``test.refit``: so many steps under its changes, without validation, ensemble and baselines.

    Schedules are as long as before, so that each step has the rate that it had.

    Raises:
        ConfigError: if the changes are none of the tasks, or cannot be made.
    """
    assert experiment.file.test is not None
    changes = experiment.file.test.refit or {}
    if other := [key for key in changes if not key.startswith("tasks.")]:
        raise ConfigError("test.refit", f"changes tasks (tasks.train_on: [train, validation]), got {other[0]!r}")
    alone = {"test.refit": None, "test.ensemble": None, "test.baselines": ()}
    fixed = {"validation": None, "budget": {"steps": steps}, **alone}
    quiet = {"tracking.mlflow": False, "tracking.report": False, "paper": None}
    tree = override(experiment.tree, {**changes, **fixed, **quiet})
    tree["searchers"] = {name: experiment.plain(name, settings) for name, settings in tree["searchers"].items()}
    try:
        return resolve(tree, Path(experiment.blueprint.folders[0]))
    except ConfigError as error:
        raise error.under("test.refit") from error


def _check_refit(experiment: Experiment) -> None:
    if not experiment.episodes or experiment.space or experiment.file.validation is None:
        raise UnsupportedError(
            "test.refit", "repeats a search by gradients for as long as validation found best; leave it out here"
        )
    again(experiment, 1)


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
