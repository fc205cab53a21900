"""One file, several runs: seeds and variants, resumed as one, with paired intervals at the end."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metasearch.conclusion import finished
from metasearch.core.errors import ConfigError
from metasearch.core.files import write_file
from metasearch.core.objectives import Objectives, hypervolume
from metasearch.core.statistics import paired_ci95
from metasearch.resolution import resolve
from metasearch.running import Listener, Outcome, resume, run
from metasearch.tracking import RunDirectory
from metasearch.trees import override, pinned

__all__ = ["Group", "GroupRow", "expand", "is_group", "resume_group", "run_group", "table"]

_FILE = "group.json"


@dataclass(frozen=True)
class GroupRow:
    """One variant over its seeds: mean of a figure, and its paired difference to the first variant.

    Args:
        variant: its name.
        values: the figure of each seed, in the order of seeds.
        mean, ci95: over seeds (Student's t).
        difference, difference_ci95: to the first variant, paired by seed (Student's t); None for the first variant
            itself.
    """

    variant: str
    values: tuple[float, ...]
    mean: float
    ci95: float
    difference: float | None
    difference_ci95: float | None


@dataclass(frozen=True)
class Group:
    """Several runs as one.

    Args:
        path: folder of the group; its runs are folders in it.
        outcomes: of the runs, in order.
        rows: the table, once all runs have finished.
        metric: what the table is about.
    """

    path: Path
    outcomes: tuple[Outcome, ...]
    rows: tuple[GroupRow, ...]
    metric: str

    @property
    def status(self) -> str:
        """``finished``, or the first other status of a run."""
        return next((one.status for one in self.outcomes if one.status != "finished"), "finished")


def expand(tree: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The single experiments of a file with ``seeds`` or ``variants``, by ``variant/seed``.

    Raises:
        ConfigError: if either is empty or no list (or mapping).
    """
    variants = tree.get("variants") or {"": {}}
    seeds = tree.get("seeds") or [tree.get("seed", 0)]
    if not isinstance(variants, Mapping) or not all(isinstance(one, Mapping) for one in variants.values()):
        raise ConfigError(
            "variants",
            "is a mapping: name -> overrides, for example {first_order: {evaluation.estimator: first_order}}",
        )
    if not isinstance(seeds, Sequence) or isinstance(seeds, str) or not all(isinstance(one, int) for one in seeds):
        raise ConfigError("seeds", f"is a list of integers, got {seeds!r}")
    base = {key: value for key, value in tree.items() if key not in ("seeds", "variants")}
    return {
        f"{variant or 'seed'}-{seed}": override(override(base, changes), {"seed": seed})
        for variant, changes in variants.items()
        for seed in seeds
    }


def run_group(
    tree: Mapping[str, Any], *, folder: Path | None = None, root: Path | str = "runs", listener: Listener | None = None
) -> Group:
    """Runs all experiments of a file, one after the other; each is checked before the first one starts.

    Args:
        tree: the raw experiment with ``seeds`` or ``variants``.
        folder: of the experiment file.
        root: folder in which the group's folder is made.
        listener: a display of each run; None shows nothing.
    """
    members = {name: pinned(member, resolve(member, folder).tree) for name, member in expand(tree).items()}
    name = str(tree.get("name", "search"))
    path = Path(root) / f"{name}-group-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    path.mkdir(parents=True)
    record = {
        "format": 1,
        "name": name,
        "folder": None if folder is None else str(folder),
        "variants": list(tree.get("variants") or {"seed": {}}),
        "seeds": list(tree.get("seeds") or [tree.get("seed", 0)]),
        "members": members,
    }
    write_file(path / _FILE, json.dumps(record, indent=2).encode())
    return resume_group(path, listener=listener)


def is_group(path: Path | str) -> bool:
    """Whether a folder is a group of runs."""
    return (Path(path) / _FILE).is_file()


def resume_group(path: Path | str, *, listener: Listener | None = None) -> Group:
    """Starts what has not been started, resumes what has not ended, and makes the table."""
    path = Path(path)
    record = json.loads((path / _FILE).read_text("utf-8"))
    folder = None if record["folder"] is None else Path(record["folder"])
    outcomes: list[Outcome] = []
    for name, tree in record["members"].items():
        directory = RunDirectory(path / name)
        if directory.results_path.exists() and finished(directory):
            outcome = Outcome(directory, "finished", results=directory.read_results())
        elif directory.config_path.exists():
            outcome = resume(path / name, root=path, listener=listener)
        else:
            outcome = run(resolve(tree, folder), root=path, folder=name, listener=listener)
        outcomes.append(outcome)
        if outcome.status == "interrupted":
            return Group(path, tuple(outcomes), (), "")
    metric, rows = table(record["variants"], record["seeds"], outcomes)
    return Group(path, tuple(outcomes), rows, metric)


def table(
    variants: Sequence[str], seeds: Sequence[int], outcomes: Sequence[Outcome]
) -> tuple[str, tuple[GroupRow, ...]]:
    """What is compared, and one row a variant; nothing where a run has no results.

    Compared is what no search has seen, if there is such a figure: the accuracy of the test, else its L; else, where
    training runs report it, ``test_accuracy`` or ``test_L`` of the best one. Of searches with several objectives it is
    the hypervolume of what they found; of all others the L that was found, which is the lowest of many.
    """
    results = [outcome.results for outcome in outcomes]
    if not all(results):
        return "", ()
    metric, values = _compared([one for one in results if one])
    if not metric:
        return "", ()
    rows: list[GroupRow] = []
    first: tuple[float, ...] = ()
    for index, variant in enumerate(variants):
        own = tuple(values[index * len(seeds) : (index + 1) * len(seeds)])
        first = first or own
        mean, width = paired_ci95(own, [0.0] * len(own))
        difference, spread = (None, None) if index == 0 else paired_ci95(own, first)
        rows.append(GroupRow(variant, own, mean, width, difference, spread))
    return metric, tuple(rows)


def _compared(results: Sequence[Mapping[str, Any]]) -> tuple[str, list[float]]:
    """The name of the figure and its value in each run."""
    tests = [one["test"] or {} for one in results]
    selected = [one["selected"] or {} for one in results]
    if not all(tests) and all(len(one["objectives"] or ()) > 1 for one in results):
        return "hypervolume", _hypervolumes(results)
    for title, name, found in (
        ("test accuracy", "accuracy", tests),
        ("test L", "L", tests),
        ("test accuracy of the best", "test_accuracy", selected),
        ("test L of the best", "test_L", selected),
        ("lowest L", "L", selected),
    ):
        if all(name in one for one in found):
            return title, [float(one[name]) for one in found]
    return "", []


def _hypervolumes(results: Sequence[Mapping[str, Any]]) -> list[float]:
    """Of each run's compromises, as a share of the box that those of all runs span."""
    objectives = Objectives(results[0]["objectives"])
    fronts = [[objectives.vector(point["values"]) for point in one["pareto"]] for one in results]
    every = np.array([vector for one in fronts for vector in one])
    if not len(every):
        return [0.0] * len(fronts)
    low, high = every.min(0), every.max(0)
    span = np.where(high > low, high - low, 1.0)
    scaled = [[((np.array(vector) - low) / span).tolist() for vector in one] for one in fronts]
    return [hypervolume(one, [1.0] * len(low)) for one in scaled]
