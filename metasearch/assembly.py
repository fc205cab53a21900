"""What a driver is put together from: the stored experiment, the executor, the plan, the phi to start from."""

from __future__ import annotations

import functools
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from metasearch import artifacts
from metasearch.controller import Controller
from metasearch.core import seeds as seeding
from metasearch.core.contracts import Executor
from metasearch.core.errors import ResumeError
from metasearch.core.values import Phi, Report
from metasearch.experiment import Experiment
from metasearch.plan import Plan, Record, changes_of
from metasearch.program import ExperimentProgram, build_program
from metasearch.resolution import resolve
from metasearch.schema import weights_of
from metasearch.tracking import RunDirectory

__all__ = ["initial_phi", "open_executor", "plan_of", "stops_on_interrupt", "stored"]

_log = logging.getLogger(__name__)


def stored(directory: RunDirectory, objects: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment of a run directory; what its file names is looked for beside that file, as at the start.

    Raises:
        ResumeError: if it was started with objects that only the script that made them can give.
    """
    tree = {**yaml.safe_load(directory.config_path.read_text("utf-8")), **(objects or {})}
    for key, value in tree.items():
        if isinstance(value, Mapping) and "object" in value:
            raise ResumeError(
                f"{key} was given as an object ({value['object']}) in Python; continue with "
                f"ms.resume({directory.id!r}, {key}=...)"
            )
    folder = directory.started().get("folder")
    return resolve(tree, Path(folder) if folder is not None and Path(folder).is_dir() else None)


@contextmanager
def open_executor(experiment: Experiment, folder: Path, history: Sequence[Record] = ()) -> Iterator[Executor]:
    """Where the calls of an experiment run; closed at the end."""
    from metasearch import execution

    settings, numerics = experiment.file.execution, experiment.file.numerics
    setup = functools.partial(build_program, experiment.blueprint)
    storage = folder / "trials"
    executor: Any
    if settings.type == "inline":
        executor = execution.Inline(setup, storage)
    elif experiment.trials:
        executor = execution.Trials(
            setup,
            settings.workers,
            scheduler=experiment.scheduler,
            space=experiment.space,
            seed=seeding.derive(experiment.file.seed, "scheduler"),
            storage=storage,
            gpus_per_worker=settings.gpus_per_worker,
            cpus_per_worker=settings.cpus_per_worker,
            address=settings.address,
            threads=numerics.threads,
            inner_workers=settings.inner_workers,
        )
        if experiment.population:
            finished = sum(one["type"] == "evaluation" for one in history)
            executor.restore_population(experiment.population - finished, changes_of(history), _reports(history))
        else:
            executor.restore(_finished(history))
    else:
        executor = execution.Actors(
            setup,
            settings.workers,
            gpus_per_worker=settings.gpus_per_worker,
            cpus_per_worker=settings.cpus_per_worker,
            address=settings.address,
            threads=numerics.threads,
            working_dir=Path(experiment.blueprint.folders[0]),
        )
    try:
        yield executor
    finally:
        executor.close()


def _finished(history: Sequence[Record]) -> list[tuple[int, list[Report]]]:
    """The reports of the training runs that have ended, in the order of the record: what a scheduler decides by."""
    reports = _reports(history)
    return [(one["id"], reports.get(one["id"], [])) for one in history if one["type"] == "evaluation"]


def _reports(history: Sequence[Record]) -> dict[int, list[Report]]:
    reports: dict[int, list[Report]] = {}
    for one in history:
        if one["type"] == "report":
            reports.setdefault(one["id"], []).append(Report(one["step"], one["metrics"], one["checkpoint"]))
    return reports


@contextmanager
def stops_on_interrupt(controller: Controller) -> Iterator[None]:
    """Turns the first Ctrl-C into a request to stop after the step in flight; the second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(signum: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        _log.warning("stopping after the step in flight; press Ctrl-C again to stop at once")
        controller.stop()

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def initial_phi(program: ExperimentProgram, seed: int, say: Callable[[artifacts.Start], None] | None = None) -> Phi:
    """The phi that a search starts from.

    Args:
        program: the driver's own.
        seed: of the search.
        say: is told what became of given weights (``from`` of the initialization, the update rule or the embedding).
    """
    if program.file.learner is None:
        return Phi()
    phi = program.learner({}).init(seeding.derive(seed, "phi")).to("cpu", program.problem.dtype)
    for given in weights_of(program.file.learner):
        phi, start = artifacts.start_from(given.path, phi, given.slot)
        if say is not None:
            say(start)
    return phi


def plan_of(experiment: Experiment, in_flight: int) -> Plan:
    """What the loop is told: the budget, and how much is asked for at a time."""
    file = experiment.file
    validation = None if experiment.trials or file.validation is None else file.validation
    joint = experiment.takes_gradient()
    batch = file.compose.proposals_per_step if joint else 1
    if not joint and file.numerics.deterministic:
        # Results are told in the order of asks, and asks wait for them: the sequence does not depend on timing.
        batch, in_flight = in_flight, 1
    return Plan(
        seed=file.seed,
        batch=batch,
        in_flight=in_flight,
        steps=file.budget.steps,
        evaluations=file.budget.evaluations,
        seconds=file.budget.seconds,
        validate_every=None if validation is None else validation.every,
        select="L" if validation is None else validation.select,
        checkpoint_every=file.checkpoints.every or (validation.every if validation else 100),
        interruptible=experiment.trials,
        population=experiment.population is not None,
    )
