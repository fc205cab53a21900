"""Work that is done once: searches and their figures lie in a folder, under a hash of all that they depend on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import metasearch as ms
from metasearch.core.files import write_file
from metasearch.running import Silent
from metasearch.trees import override

__all__ = ["Job", "Row", "Store"]

Row = dict[str, Any]
"""``panel``, ``learner``, ``what`` and ``x`` say what it is about (those of the job come first), ``value`` and ``ci95``
what was found (None: nothing, and ``note`` says why); further numbers may follow. ``unit`` is ``%`` for a share and
empty for a number; without it, a share unless the panel is one of sines."""


@dataclass(frozen=True)
class Job:
    """A piece of work.

    Args:
        labels: what its rows have in common: ``panel``, ``learner`` ...
        seed: of the search; rows that differ in nothing else are averaged.
        seconds: about how long it takes at full budget, on one core.
        how: does it: a function of a store and of ``given``.
        given: plain values.
    """

    labels: Mapping[str, Any]
    seed: int
    seconds: float
    how: Callable[[Store, Mapping[str, Any]], list[Row]]
    given: Mapping[str, Any]


class Store:
    """A folder with ``runs``, the searches; ``measured``, the rows of jobs; and ``kept``, what several jobs need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        (self.folder / "measured").mkdir(parents=True, exist_ok=True)

    def searched(self, tree: Mapping[str, Any]) -> Path:
        """The directory of a finished run of an experiment; it is run, or resumed, if it is not there.

        Where its initialization is ``from`` another experiment (a tree), that one is searched first.
        """
        root = self.folder / "runs" / f"{tree['name']}-{_hash(tree)}"
        begun = sorted(root.glob("*/journal.jsonl"))
        if begun and (begun[0].parent / "results.json").exists():
            return begun[0].parent
        outcome = ms.resume(begun[0].parent, listener=Silent()) if begun else self._run(tree, root)
        if outcome.status == "interrupted":
            raise SystemExit("stopped; the same command goes on")
        return Path(outcome.directory.path)

    def once(self, name: str, given: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """A plain value that depends on ``given``, made if it is not there."""
        path = self.kept(name, given, "json")
        if not path.exists():
            write_file(path, json.dumps(make()).encode())
        return json.loads(path.read_text("utf-8"))

    def kept(self, name: str, given: Mapping[str, Any], suffix: str) -> Path:
        """Where something that depends on ``given`` lies, or is to be put."""
        (self.folder / "kept").mkdir(exist_ok=True)
        return self.folder / "kept" / f"{name}-{_hash(given)}.{suffix}"

    def rows(self, jobs: Iterable[Job]) -> list[Row]:
        """The rows of those jobs that are done."""
        found = []
        for job in jobs:
            if (path := self._path(job)).exists():
                found += [{**row, **job.labels, "seed": job.seed} for row in json.loads(path.read_text("utf-8"))]
        return found

    def work(self, jobs: Iterable[Job], scale: float, end: float) -> bool:
        """Does what is not done, the first seed of everything first; whether that was all before the time was over.

        Args:
            jobs: of a part.
            scale: of the budget, for the time that it is said to take.
            end: when no further job begins, by ``time.monotonic``.
        """
        missing = sorted((job for job in jobs if not self._path(job).exists()), key=lambda job: job.seed)
        seconds = sum(job.seconds for job in missing) * scale
        print(f"{len(missing)} jobs to do, about {seconds / 60:.1f} minutes of one core", flush=True)
        for job in missing:
            if time.monotonic() > end:
                return False
            start = time.monotonic()
            rows = job.how(self, job.given)
            write_file(self._path(job), json.dumps(rows).encode())
            print(
                f"  {time.monotonic() - start:6.1f} s  {', '.join(map(str, job.labels.values()))}, seed {job.seed}",
                flush=True,
            )
        return True

    def _run(self, tree: Mapping[str, Any], root: Path) -> Any:
        slots = tree.get("learner", {}).get("slots", {})
        source = slots.get("initialization", {}).get("from")
        if isinstance(source, Mapping):
            tree = override(tree, {"learner.slots.initialization.from": str(self.searched(source) / "phi")})
        return ms.run(tree, runs=root, listener=Silent())

    def _path(self, job: Job) -> Path:
        told = [dict(job.labels), job.seed, job.how.__name__, dict(job.given)]
        return self.folder / "measured" / f"{_hash(told)}.json"


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
