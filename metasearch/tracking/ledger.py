"""What a journal looks like in MLflow, computed record by record and without MLflow.

Everything here is a pure function of the records, timestamps included, so the same journal always gives the same rows,
in whatever portions it is read.
"""

from __future__ import annotations

import heapq
import json
import math
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from metasearch.tracking.journal import Record

__all__ = ["ChildRun", "Ledger", "Row", "RunRows", "flatten", "metric_name", "param_value"]

MAX_VALUE_CHARACTERS = 6000
"""MLflow's limit for the value of a param."""

_PARENT_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "diverged": "FAILED", "failed": "FAILED"}
_NAME_LIMIT = 250
_CUT = " ... (cut)"


class Row(NamedTuple):
    """One point of a metric; ``time_ms`` is the journal's."""

    name: str
    value: float
    time_ms: int
    step: int


@dataclass
class RunRows:
    """What one MLflow run is still to be told (rows, tags, params), and its status."""

    started_ms: int
    rows: list[Row] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    status: str = "RUNNING"
    ended_ms: int | None = None

    def clear(self) -> None:
        """Forgets what has been sent."""
        self.rows, self.tags, self.params = [], {}, {}

    def log(self, name: str, value: Any, record: Record, step: int) -> None:
        """Adds a point. An infinite value becomes a tag, since MLflow would store 1.8e308; None is no value."""
        if value is None or isinstance(value, str):
            return
        name, number = metric_name(name), float(value)
        if math.isinf(number):
            self.tags[f"metasearch.infinite.{name}"] = f"{number} at step {step}"
        else:
            self.rows.append(Row(name, number, _ms(record), step))

    def log_all(
        self, metrics: Mapping[str, Any], record: Record, step: int, prefix: str = "", suffix: str = ""
    ) -> None:
        """Adds a point for each metric; an interval given as [low, high] becomes two."""
        for name, value in metrics.items():
            if isinstance(value, list) and len(value) == 2:
                self.log(f"{prefix}{name}{suffix}_low", value[0], record, step)
                self.log(f"{prefix}{name}{suffix}_high", value[1], record, step)
            elif isinstance(value, int | float):
                self.log(f"{prefix}{name}{suffix}", value, record, step)

    def end(self, status: str, record: Record | None) -> None:
        """Sets the run's status and, if it has ended, when."""
        self.status = status
        self.ended_ms = None if record is None else _ms(record)


@dataclass
class ChildRun(RunRows):
    """The run of one proposal."""

    proposal: int = 0
    value: float = math.nan
    evaluated: bool = False
    last_step: int = 0

    @property
    def rank(self) -> tuple[int, float, int]:
        """Orders proposals best first; those without a finite value come last."""
        return (0, self.value, self.proposal) if math.isfinite(self.value) else (1, 0.0, self.proposal)


class Ledger:
    """Reads records in order and keeps the rows of the parent run and of its children.

    Args:
        select: metric by which validation selects (``L`` if it is not among a record's metrics).
        with_children: whether proposals with choices have a run of their own.
    """

    def __init__(self, *, select: str = "L", with_children: bool = True) -> None:
        self.select = select
        self.with_children = with_children
        self.parent: RunRows | None = None
        self.children: dict[int, ChildRun] = {}
        self.changed: set[int] = set()
        self.proposals = 0
        self.evaluations = 0
        self.following = 0
        self._best = math.inf
        self._read: dict[str, Callable[[Record, RunRows], None]] = {
            "start": self._start,
            "ask": self._ask,
            "report": self._report,
            "evaluation": self._evaluation,
            "validation": self._validation,
            "test": self._test,
            "event": self._event,
            "end": self._end,
        }

    def add(self, record: Record) -> None:
        """Takes in the next record; types that MLflow does not show change nothing."""
        if self.parent is None:
            self.parent = RunRows(_ms(record))
        self.following = record["n"] + 1
        if reader := self._read.get(record["type"]):
            reader(record, self.parent)

    def settle(self, present: Container[int]) -> None:
        """All that was added so far is in MLflow already, where these children are present."""
        if self.parent:
            self.parent.clear()
        for child in self.children.values():
            if child.proposal in present:
                child.clear()
                self.changed.discard(child.proposal)

    def keep_best(self, limit: int) -> set[int]:
        """Which proposals are to have a run: all while there are at most ``limit``, from then on the best.

        A proposal that has been evaluated and is not among them never comes back, and is forgotten.
        """
        if self.proposals > limit:
            kept = {
                child.proposal for child in heapq.nsmallest(limit, self.children.values(), key=lambda child: child.rank)
            }
            for child in list(self.children.values()):
                if child.evaluated and child.proposal not in kept:
                    del self.children[child.proposal]
            self.changed &= kept | self.children.keys()
            return kept
        return set(self.children)

    def _start(self, record: Record, parent: RunRows) -> None:
        for block in ("versions", "numerics"):
            parent.tags |= {
                f"metasearch.{block}.{key}": value for key, value in flatten(record.get(block) or {}).items()
            }
        parent.tags |= {
            f"metasearch.{key}": param_value(record[key]) for key in ("workers", "hostname") if key in record
        }

    def _ask(self, record: Record, parent: RunRows) -> None:
        for proposal in record["proposals"]:
            if not (self.with_children and proposal.get("choices")):
                continue
            child = ChildRun(_ms(record), proposal=proposal["id"])
            child.params = {metric_name(f"phi.{key}"): param_value(value) for key, value in proposal["choices"].items()}
            child.tags = {"metasearch.step": str(record["step"]), "metasearch.seed": str(proposal.get("seed"))}
            self.children[child.proposal] = child
            self.changed.add(child.proposal)
            self.proposals += 1

    def _report(self, record: Record, parent: RunRows) -> None:
        if child := self._child(record["id"]):
            child.last_step = max(child.last_step, record["step"])
            child.log_all(record["metrics"], record, record["step"])
            child.end("RUNNING", None)

    def _evaluation(self, record: Record, parent: RunRows) -> None:
        self.evaluations += 1
        figures = {"L": record.get("L"), "objective": record.get("objective"), **(record.get("metrics") or {})}
        parent.log_all(figures, record, record["step"])
        parent.log("gradient_norm", (record.get("gradient") or {}).get("norm"), record, record["step"])
        if not (child := self._child(record["id"])):
            return
        child.log_all(figures, record, child.last_step)
        if record["status"] != "ok":  # what MLflow's own status says is not worth a transaction
            child.tags["metasearch.status"] = record["status"]
        child.evaluated, child.value = True, math.nan if record.get("L") is None else float(record["L"])
        failure = record.get("failure") or {}
        if failure:
            child.tags["metasearch.failure"] = f"{failure.get('kind')}: {failure.get('message')}"[:MAX_VALUE_CHARACTERS]
        preempted = failure.get("kind") == "preempted"
        child.end("FINISHED" if record["status"] == "ok" else "KILLED" if preempted else "FAILED", record)
        if record["status"] == "ok" and child.value < self._best:
            self._best = child.value
            parent.log("best_L", child.value, record, record["step"])
            parent.tags["metasearch.best_proposal"] = str(child.proposal)

    def _validation(self, record: Record, parent: RunRows) -> None:
        metrics = record.get("metrics") or {}
        _log_protocol(parent, record, record["step"], "validation/")
        if record.get("best"):
            parent.log("best_validation", metrics.get(self.select, record["L"]), record, record["step"])

    def _test(self, record: Record, parent: RunRows) -> None:
        if record["name"] == "metasearch":
            _log_protocol(parent, record, 0, "test/")
        else:  # one figure each: MLflow draws a chart for every metric, and the rest is in results.json
            figure = (record.get("metrics") or {}).get(self.select, record.get("L"))
            parent.log(f"baseline/{record['name']}", figure, record, 0)

    def _event(self, record: Record, parent: RunRows) -> None:
        parent.tags["metasearch.last_event"] = f"{record['event']}: {param_value(record.get('detail') or {})}"[
            :MAX_VALUE_CHARACTERS
        ]
        if parent.status != "RUNNING":
            parent.end("RUNNING", None)
            self._end_open_children("RUNNING", None)

    def _end(self, record: Record, parent: RunRows) -> None:
        parent.log("evaluations", self.evaluations, record, 0)
        parent.tags["metasearch.status"] = str(record["status"])
        parent.tags["metasearch.reason"] = str(record.get("reason"))[:MAX_VALUE_CHARACTERS]
        parent.end(_PARENT_STATUS[record["status"]], record)
        self._end_open_children("KILLED", record)

    def _end_open_children(self, status: str, record: Record | None) -> None:
        """Proposals without an evaluation follow the search: it took them down, or goes on with them."""
        for child in self.children.values():
            if not child.evaluated:
                child.end(status, record)
                self.changed.add(child.proposal)

    def _child(self, proposal: int) -> ChildRun | None:
        child = self.children.get(proposal)
        if child:
            self.changed.add(proposal)
        return child


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """A nested configuration as dotted names and texts; lists stay whole, as JSON."""
    if isinstance(value, Mapping) and value:
        parts = (flatten(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items())
        return {name: text for part in parts for name, text in part.items()}
    return {metric_name(prefix): param_value(value)} if prefix else {}


def param_value(value: Any) -> str:
    """Text of a setting: strings as they are, the rest as JSON; cut to what MLflow holds, visibly."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[: MAX_VALUE_CHARACTERS - len(_CUT)] + _CUT


def metric_name(name: str) -> str:
    """A name as MLflow allows it for metrics, params and tags: other characters become ``_``, and it is no odd path."""
    parts = re.sub(r"[^\w\-. /:]", "_", name, flags=re.ASCII)[:_NAME_LIMIT].split("/")
    return "/".join(part for part in parts if part.strip(".")) or "_"


def _log_protocol(run: RunRows, record: Record, step: int, prefix: str) -> None:
    """Figures of a validation or test with their intervals, and how many episodes they come from."""
    run.log_all({"L": record.get("L"), **(record.get("metrics") or {})}, record, step, prefix)
    run.log_all({"L": record.get("L_ci95"), **(record.get("metrics_ci95") or {})}, record, step, prefix, "_ci95")


def _ms(record: Record) -> int:
    return int(record["time"] * 1000)
