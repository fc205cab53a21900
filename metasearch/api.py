"""Everything the command line does, from Python."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from metasearch import groups, measuring, rehearsal, resolution, running, trees
from metasearch.core.errors import ConfigError
from metasearch.loaded import LoadedPhi, load, load_fitted
from metasearch.running import Listener, Outcome

Ended = TypeVar("Ended", bound=Outcome | groups.Group)

__all__ = [
    "LoadedPhi",
    "check",
    "evaluate",
    "extend",
    "load",
    "load_fitted",
    "replay",
    "report",
    "resume",
    "run",
    "search",
]


def run(
    file: str | Path | Mapping[str, Any],
    *,
    set: Sequence[str] | Mapping[str, Any] = (),
    workers: int | None = None,
    seed: int | None = None,
    name: str | None = None,
    runs: str | Path = "runs",
    listener: Listener | None = None,
) -> Outcome | groups.Group:
    """Runs an experiment file to the end of its budget.

    Args:
        file: path of the file, or its content as a mapping.
        set: overrides, ``["budget.steps=10"]`` or ``{"budget.steps": 10}``.
        workers: short for the override ``execution.workers``.
        seed: short for the override ``seed``.
        name: short for the override ``name``.
        runs: folder of run directories.
        listener: a display; None prints a line now and then.

    Returns:
        The outcome; a :class:`~metasearch.groups.Group` where the file has ``seeds`` or ``variants``.

    Raises:
        ConfigError: if the file cannot be run as it is, before anything starts.
        MetasearchError: if the search failed.
    """
    short = {"execution.workers": workers, "seed": seed, "name": name}
    given = {key: value for key, value in short.items() if value is not None}
    tree = dict(file) if isinstance(file, Mapping) else trees.read(file)
    tree = trees.override(trees.override(tree, set), given)
    folder = None if isinstance(file, Mapping) else Path(file).resolve().parent
    if tree.get("seeds") or tree.get("variants"):
        return _shown(listener, lambda display: groups.run_group(tree, folder=folder, root=runs, listener=display))
    experiment = resolution.resolve(tree, folder)
    return _shown(listener, lambda display: running.run(experiment, root=runs, listener=display))


def search(
    *,
    objective: Callable[[dict[str, Any], Any], Any] | str | None = None,
    space: Mapping[str, Any] | None = None,
    workers: int | None = None,
    runs: str | Path = "runs",
    listener: Listener | None = None,
    **blocks: Any,
) -> Outcome | groups.Group:
    """Runs an experiment given as keyword arguments; they have the names of an experiment file's blocks.

    Args:
        objective: a training function ``train(config, trial) -> L`` to search over, in place of ``tasks`` and
            ``learner``.
        space: what ``objective`` is given as ``config``: plain values, and ranges such as
            ``{"float": [1e-4, 1], "log": True}``.
        workers: short for ``execution={"workers": ...}``.
        runs: folder of run directories.
        listener: a display; None prints a line now and then.
        blocks: ``tasks``, ``learner``, ``searcher``, ``evaluation``, ``validation``, ``test``, ``budget`` ... Where a
            file names a class, the class itself may stand; ``tasks`` may be an object.

    Returns:
        See :func:`run`.

    Raises:
        ConfigError: if the blocks do not make an experiment.
    """
    tree: dict[str, Any] = dict(blocks)
    if objective is not None:
        if "evaluation" in tree or "tasks" in tree:
            raise ConfigError("objective", "stands in place of tasks, learner and evaluation; give one or the other")
        tree["evaluation"] = {"type": "objective", "function": objective, "config": dict(space or {})}
    elif space is not None:
        raise ConfigError("space", "belongs to objective=...; elsewhere ranges stand in the blocks themselves")
    return run(tree, workers=workers, runs=runs, listener=listener)


def resume(
    reference: str | Path, *, runs: str | Path = "runs", listener: Listener | None = None, **objects: Any
) -> Outcome | groups.Group:
    """Continues a run (or a group of runs) where its record ends.

    Args:
        reference: path, id or unique prefix.
        runs: folder of run directories.
        listener: a display; None prints a line now and then.
        objects: blocks that were given as objects at the start, under the same names.

    Raises:
        ResumeError: if the run cannot be continued exactly.
    """
    for place in (Path(reference), Path(runs) / str(reference)):
        if groups.is_group(place):
            return _shown(listener, functools.partial(_resumed_group, place))
    return _shown(listener, lambda display: running.resume(reference, root=runs, listener=display, objects=objects))


def extend(
    reference: str | Path,
    *,
    runs: str | Path = "runs",
    listener: Listener | None = None,
    set: Sequence[str] | Mapping[str, Any],
) -> Outcome:
    """Gives a run a larger budget and continues it: ``ms.extend(run, set={"budget.steps": 6000})``."""
    return _shown(listener, lambda display: running.extend(reference, set, root=runs, listener=display))


def replay(reference: str | Path, evaluation: int, *, runs: str | Path = "runs") -> dict[str, Any]:
    """Computes a recorded evaluation again and compares; see :func:`metasearch.rehearsal.replay`."""
    return rehearsal.replay(reference, evaluation, root=runs)


def check(file: str | Path | Mapping[str, Any], *, set: Sequence[str] | Mapping[str, Any] = ()) -> dict[str, Any]:
    """The resolved configuration of an experiment, recipes expanded.

    Raises:
        ConfigError: if it cannot be run as it is.
    """
    plain: dict[str, Any] = trees.recorded(resolution.load(file, set).tree)
    return plain


def evaluate(phi: LoadedPhi | str | Path, **settings: Any) -> dict[str, Any]:
    """Measures a stored phi on held-out tasks; see :func:`metasearch.measuring.evaluate`."""
    return measuring.evaluate(phi, **settings)


def report(reference: str | Path, *, runs: str | Path = "runs") -> Path:
    """Writes a run's HTML report again and returns its path."""
    from metasearch.reporting import write_report
    from metasearch.tracking import RunDirectory

    return write_report(RunDirectory.open(reference, runs).path)


def _resumed_group(place: Path, listener: Listener) -> groups.Group:
    return groups.resume_group(place, listener=listener)


def _shown(listener: Listener | None, act: Callable[[Listener], Ended]) -> Ended:
    """Does something under a listener; without one, under a display that prints what came of it."""
    if listener is not None:
        return act(listener)
    from metasearch.display import Display, print_group, print_outcome

    with Display() as display:
        outcome = act(display)
    (print_group if isinstance(outcome, groups.Group) else print_outcome)(outcome)
    return outcome
