"""What ``metasearch runs`` lists: one summary a run directory, read from its journal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from metasearch.core.errors import JournalError
from metasearch.tracking.journal import Record, read
from metasearch.tracking.rundir import RunDirectory, list_folders

__all__ = ["RunSummary", "list_runs", "status_of"]


@dataclass(frozen=True)
class RunSummary:
    """One run at a glance.

    Args:
        id: the run's id.
        name: the experiment's name.
        path: its directory.
        status: ``new`` (nothing recorded), ``running`` (somebody drives it), ``interrupted`` (nobody does, and it has
            not ended), ``damaged`` (the journal cannot be read), or how it ended: ``finished``, ``diverged``,
            ``failed``.
        steps: outer steps with at least one evaluation.
        evaluations: evaluations recorded.
        best: the best validation's figures (``L`` and metrics), None before the first.
        started: unix seconds, None if nothing is recorded.
        seconds: time of driving, summed over resumes.
    """

    id: str
    name: str
    path: Path
    status: str
    steps: int = 0
    evaluations: int = 0
    best: dict[str, float] | None = None
    started: float | None = None
    seconds: float = 0.0


def list_runs(root: Path | str = "runs") -> list[RunSummary]:
    """Summaries of all runs under a folder, oldest first; one that is damaged is listed as such."""
    return [_summary(RunDirectory(path)) for path in list_folders(root)]


def status_of(records: Iterable[Record], locked: bool) -> str:
    """A run's status (see :class:`RunSummary`) from its records and whether somebody holds its lock."""
    status = "new"
    for record in records:
        if record["type"] == "end":
            status = str(record["status"])
        elif record["type"] != "test" or status == "new":
            status = "interrupted"
    return "running" if locked else status


def _summary(run: RunDirectory) -> RunSummary:
    locked = run.locked()
    try:
        records = read(run.journal_path) if run.journal_path.exists() else []
        name, identity = run.name, run.id
    except JournalError:
        return RunSummary(run.path.name, run.path.name, run.path, "damaged")
    evaluations = [record for record in records if record["type"] == "evaluation"]
    best = [record for record in records if record["type"] == "validation" and record.get("best")]
    return RunSummary(
        id=identity,
        name=name,
        path=run.path,
        status=status_of(records, locked),
        steps=len({record["step"] for record in evaluations}),
        evaluations=len(evaluations),
        best={"L": best[-1]["L"], **best[-1].get("metrics", {})} if best else None,
        started=records[0]["time"] if records else None,
        seconds=records[-1]["elapsed"] if records else 0.0,
    )
