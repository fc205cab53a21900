"""A run directory as plain data: series of evaluations and validations, proposals, test figures, events."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from metasearch.core.files import from_json
from metasearch.tracking.journal import Record, read
from metasearch.tracking.rundir import RunDirectory
from metasearch.tracking.runs import status_of

__all__ = ["Array", "History", "Measured", "Proposed", "Series", "number"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """Figures in the order of the record; what is missing or did not stay finite is nan.

    Args:
        step, seconds, tasks: ``[n]``, where each was taken: outer step, driving time, tasks that phi has learned from.
        values: ``[n]`` each: ``L`` and the metrics.
        ci95: half-widths of 95 % intervals, for the values that have them.
    """

    step: Array
    seconds: Array
    tasks: Array
    values: Mapping[str, Array]
    ci95: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.step)

    def along(self, axis: str) -> Array:
        """Positions on an axis: ``steps``, ``seconds``, ``tasks`` or ``evaluations`` (1, 2 ... in order of arrival)."""
        if axis == "evaluations":
            return np.arange(1.0, len(self) + 1)
        return {"steps": self.step, "seconds": self.seconds, "tasks": self.tasks}[axis]


@dataclass(frozen=True)
class Proposed:
    """A proposal and what became of it; ``status`` is ``open`` until its evaluation is recorded."""

    id: int
    choices: Mapping[str, Any]
    status: str = "open"
    L: float = math.nan
    seconds: float = math.nan
    metrics: Mapping[str, float] | None = None
    message: str = ""


@dataclass(frozen=True)
class Measured:
    """A line of the final table: figures with the half-widths of their 95 % intervals."""

    name: str
    values: Mapping[str, float]
    ci95: Mapping[str, float]
    episodes: int | None = None
    parameters: int | None = None
    seconds: float = math.nan


class History:
    """All that a report needs of one run. A run that has not ended, or not even begun, is read as far as it is there.

    Raises:
        JournalError: if the journal is damaged before its end.
    """

    def __init__(self, path: Path | str) -> None:
        self.directory = RunDirectory(path)
        self.path = self.directory.path
        self.records = read(self.directory.journal_path) if self.directory.journal_path.exists() else []
        self.run, self.name = self.directory.id, self.directory.name
        self.results: Mapping[str, Any] = self.directory.read_results() or {}
        self.config_text = _text(self.directory.config_path)
        config = yaml.safe_load(self.config_text)
        self.config: Mapping[str, Any] = config if isinstance(config, Mapping) else {}
        manifest = _text(self.directory.phi_path / "manifest.json")
        self.manifest: Mapping[str, Any] = from_json(manifest) if manifest else {}

    @cached_property
    def status(self) -> str:
        """As :func:`metasearch.tracking.status_of`, but a driver that writes its last words counts as ended."""
        status = status_of(self.records, locked=False)
        ended = any(record["type"] == "end" for record in self.records[-1:])
        return status if ended or not self.directory.locked() else "running"

    @cached_property
    def seconds(self) -> float:
        return float(self.records[-1]["elapsed"]) if self.records else 0.0

    def of(self, type: str) -> list[Record]:
        """The records of a type, in order."""
        return [record for record in self.records if record["type"] == type]

    @cached_property
    def start(self) -> Record:
        return next(iter(self.of("start")), {})

    @cached_property
    def evaluations(self) -> Series:
        """Evaluations on training tasks; ``gradient norm`` is among the values if there are gradients."""
        records = self.of("evaluation")
        norms = [number((record.get("gradient") or {}).get("norm")) for record in records]
        extra = {"gradient norm": np.array(norms)} if np.isfinite(norms).any() else {}
        series = _series(records, np.cumsum([number(record.get("tasks"), 0.0) for record in records]))
        return Series(series.step, series.seconds, series.tasks, {**series.values, **extra}, {})

    @cached_property
    def bad(self) -> NDArray[np.bool_]:
        """``[evaluations]``: which diverged or failed."""
        return np.array([record["status"] != "ok" for record in self.of("evaluation")], dtype=bool)

    @cached_property
    def validations(self) -> Series:
        """Held-out figures on the way."""
        records, tasks, seen = [], [], 0.0
        for record in self.records:
            if record["type"] == "evaluation":
                seen += number(record.get("tasks"), 0.0)
            elif record["type"] == "validation":
                records.append(record)
                tasks.append(seen)
        return _series(records, np.array(tasks))

    @cached_property
    def best_validation(self) -> Record | None:
        """The validation by which phi is selected so far."""
        return next((record for record in reversed(self.of("validation")) if record.get("best")), None)

    @cached_property
    def proposals(self) -> list[Proposed]:
        """Proposals with choices, best first; then those without a value, diverged before failed before open."""
        found = {
            one["id"]: Proposed(one["id"], one["choices"])
            for record in self.of("ask")
            for one in record["proposals"]
            if one["choices"]
        }
        for record in self.of("evaluation"):
            if record["id"] in found:
                found[record["id"]] = _evaluated(record, found[record["id"]].choices)
        order = ("ok", "diverged", "failed", "open")
        return sorted(found.values(), key=lambda one: (order.index(one.status), _last_if_nan(one.L), one.id))

    @cached_property
    def reports(self) -> dict[int, list[Record]]:
        """Intermediate results of training runs, by proposal."""
        found: dict[int, list[Record]] = {}
        for record in self.of("report"):
            found.setdefault(record["id"], []).append(record)
        return found

    @cached_property
    def tests(self) -> list[Measured]:
        """Held-out test figures, ``metasearch`` (this search) first."""
        if self.results.get("test"):
            named = {"metasearch": self.results["test"], **(self.results.get("baselines") or {})}
            return [_from_results(name, row) for name, row in named.items() if row]
        tests = [_from_record(record) for record in self.of("test")]
        return sorted(tests, key=lambda one: one.name != "metasearch")

    @cached_property
    def test(self) -> Measured | None:
        """This search's own test figures."""
        return next((one for one in self.tests if one.name == "metasearch"), None)

    @cached_property
    def paper(self) -> Mapping[str, Any]:
        """The published figure, its value and interval in the unit of our own figures; empty if there is none."""
        paper = dict(self.results.get("paper") or self.config.get("paper") or {})
        if not paper:
            return {}
        paper.setdefault("metric", "accuracy")
        scale = 0.01 if "accuracy" in paper["metric"] else 1.0  # published accuracies are in percent, ours shares of 1
        return {**paper, "value": scale * number(paper.get("value")), "interval": scale * number(paper.get("interval"))}

    @cached_property
    def metric(self) -> str:
        """What the run is judged by: the metric that validation selects, else accuracy where there is one, else L."""
        names = set(self.test.values if self.test else {}) | set(self.validations.values) | set(self.evaluations.values)
        chosen = (self.config.get("validation") or {}).get("select", "L")
        return next((name for name in (chosen if chosen != "L" else "", "accuracy") if name in names), "L")

    def counts(self) -> Counter[str]:
        """Evaluations by status."""
        return Counter(str(record["status"]) for record in self.of("evaluation"))


def number(value: Any, missing: float = math.nan) -> float:
    """A figure of the record as a float; ``missing`` for anything that is no number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else missing


def _series(records: Sequence[Record], tasks: Array) -> Series:
    figures = [{"L": record.get("L"), **(record.get("metrics") or {})} for record in records]
    widths = [{"L": record.get("L_ci95"), **(record.get("metrics_ci95") or {})} for record in records]
    return Series(
        np.array([number(record["step"]) for record in records]),
        np.array([number(record["elapsed"]) for record in records]),
        np.asarray(tasks, dtype=np.float64),
        _columns(figures),
        _columns(widths),
    )


def _columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, Array]:
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([number(row.get(name)) for row in rows]) for name in names}


def _evaluated(record: Record, choices: Mapping[str, Any]) -> Proposed:
    failure = record.get("failure") or {}
    message = f"{failure.get('kind', '')}: {failure.get('message', '')}" if failure else ""
    if record.get("diverged"):
        message = f"diverged on {len(record['diverged'])} of {record.get('tasks')} tasks"
    return Proposed(
        record["id"],
        choices,
        record["status"],
        number(record["L"]),
        number(record.get("seconds")),
        record.get("metrics"),
        message,
    )


def _from_results(name: str, row: Mapping[str, Any]) -> Measured:
    widths = {key.removesuffix("_ci95"): number(value) for key, value in row.items() if key.endswith("_ci95")}
    values = {key: number(row.get(key)) for key in widths}
    return Measured(name, values, widths, row.get("episodes"), row.get("parameters"), number(row.get("seconds")))


def _from_record(record: Record) -> Measured:
    values = {"L": number(record["L"])} | {k: number(v) for k, v in (record.get("metrics") or {}).items()}
    widths = {"L": number(record.get("L_ci95"))} | {k: number(v) for k, v in (record.get("metrics_ci95") or {}).items()}
    seconds = number(record.get("seconds"))
    return Measured(record["name"], values, widths, record.get("episodes"), record.get("parameters"), seconds)


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.is_file() else ""
