"""Work outside the record: a dry run before a search, and the replay of an evaluation after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from metasearch.assembly import initial_phi, open_executor, stored
from metasearch.controller import Controller
from metasearch.core import seeds as seeding
from metasearch.core.errors import ConfigError
from metasearch.experiment import Experiment
from metasearch.plan import Plan, Record
from metasearch.tracking import RunDirectory
from metasearch.tracking.journal import read as read_journal

__all__ = ["dry_run", "replay"]


def dry_run(experiment: Experiment, *, steps: int = 2) -> dict[str, float]:
    """Times one outer step (after a first one that warms up and compiles) and estimates the whole; records nothing.

    Returns:
        ``start_seconds`` (until workers answered the first step), ``step_seconds``, ``L`` and, where the budget counts
        steps, ``estimate_seconds``.
    """
    program = experiment.program
    started = time.monotonic()
    seed = experiment.file.seed
    with open_executor(experiment, Path()) as executor:
        searcher = experiment.searcher(initial_phi(program, seed), seeding.derive(seed, "searcher"))
        estimator = program.function("train")
        controller = Controller(
            searcher, estimator, executor, _Memory(), _Memory(), Plan(seed, steps=1), base=initial_phi(program, seed)
        )
        controller.run()
        first = time.monotonic() - started
        controller.plan = Plan(seed, steps=steps)
        again = time.monotonic()
        controller.go()
        step = (time.monotonic() - again) / (steps - 1)
    total = experiment.file.budget.steps
    result = {"start_seconds": first, "step_seconds": step, "L": controller.last_value}
    return result | ({"estimate_seconds": first + step * total} if total else {})


def replay(
    reference: Path | str,
    evaluation: int,
    *,
    root: Path | str = "runs",
    say: Callable[[str], None] = print,
    objects: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Computes a recorded evaluation again, from the nearest checkpoint before it, and compares.

    Args:
        reference: path, id or unique prefix of a run.
        evaluation: number of the evaluation (its proposal's id).
        root: folder of run directories.
        say: is told what it will cost before the work begins.
        objects: blocks (``tasks``, ``learner`` ...) that were given as objects when the run was started.

    Returns:
        ``evaluation``, ``from_step``, ``steps``, ``L``, ``recorded`` and ``equal``.

    Raises:
        ConfigError: if the run has no such evaluation.
        ResumeError: if an evaluation on the way differs from the record.
    """
    directory = RunDirectory.open(reference, root)
    experiment = stored(directory, objects)
    records = read_journal(directory.journal_path)
    target = next((one for one in records if one["type"] == "evaluation" and one["id"] == evaluation), None)
    if target is None:
        count = sum(one["type"] == "evaluation" for one in records)
        raise ConfigError(
            "--evaluation", f"no evaluation {evaluation} in {directory.id}; it has {count}, counted from 0"
        )
    cut = [one for one in records if one["n"] <= target["n"] and one["type"] not in ("validation", "test", "end")]
    path = directory.latest_checkpoint(max_step=target["step"])
    checkpoint = None if path is None else directory.load_checkpoint(path)
    start = 0 if checkpoint is None else int(checkpoint["step"])
    between = [one for one in cut if one["type"] == "evaluation" and one["step"] >= start]
    seconds = sum(one["seconds"] for one in between)
    say(f"from the checkpoint of step {start}: {len(between)} evaluations, about {seconds:.0f} s of work")
    program = experiment.program
    seed = experiment.file.seed
    phi = initial_phi(program, seed)
    with open_executor(experiment, directory.path) as executor:
        controller = Controller(
            experiment.searcher(phi, seeding.derive(seed, "searcher")),
            program.function("train"),
            executor,
            _Memory(),
            _Memory(),
            Plan(seed),
            base=phi,
            history=cut,
            checkpoint=checkpoint,
        )
        value = controller.recompute(evaluation)
    same = repr(value) == repr(target["L"])
    return {
        "evaluation": evaluation,
        "from_step": start,
        "steps": len(between),
        "L": value,
        "recorded": target["L"],
        "equal": same,
    }


class _Memory:
    """A journal and a store that keep nothing: for dry runs and replays."""

    def __init__(self) -> None:
        self._opened = time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._opened

    def append(self, type: str, /, **fields: Any) -> Record:
        return {"type": type, **fields}

    def sync(self) -> None:
        """Nothing is kept, so nothing is flushed."""

    def save_checkpoint(self, step: int, tree: Any, *, best: bool = False) -> Path:
        return Path(str(step))
