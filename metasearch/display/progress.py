"""How far a search is, computed from the records of its journal."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

__all__ = ["Progress"]

_RECENT = 50


class Progress:
    """The state behind a display.

    Rates leave out the first evaluation of a driver, during which workers start and code is compiled.

    Args:
        budget: ``steps``, ``evaluations`` and ``seconds``, None where there is no limit.
        step: outer step that this driver begins at.
    """

    def __init__(self, budget: Mapping[str, Any], step: int = 0) -> None:
        self.budget = {key: value for key, value in budget.items() if value is not None}
        self.step = step
        self.evaluations = 0
        """Number of evaluations of the run, from its beginning on."""
        self.elapsed = 0.0
        """Seconds of driving, over resumes."""
        self.last: Mapping[str, Any] | None = None
        """The newest evaluation's record."""
        self.lowest: Mapping[str, Any] | None = None
        """The evaluation with the lowest finite L that this driver saw."""
        self.validation: Mapping[str, Any] | None = None
        self.best: Mapping[str, Any] | None = None
        """The newest validation that was the best."""
        self.report: Mapping[str, Any] | None = None
        """The newest report of a training run."""
        self.troubled = 0
        """Evaluations that diverged or failed."""
        self._losses: deque[float] = deque(maxlen=_RECENT)
        self._first: tuple[float, int, int] | None = None  # elapsed, step, evaluations when the first evaluation was in
        self._tasks = 0
        self._searched = 0.0  # elapsed at the newest record of the search itself: the test must not slow its rates

    def add(self, record: Mapping[str, Any]) -> None:
        """Takes in the next record."""
        self.elapsed = max(self.elapsed, float(record.get("elapsed", 0.0)))
        kind = record["type"]
        if kind in ("ask", "evaluation", "validation", "report"):
            self._searched = self.elapsed
        if kind == "evaluation":
            self._evaluation(record)
        elif kind == "validation":
            self.validation = record
            if record["best"]:
                self.best = record
        elif kind == "report":
            self.report = record

    def _evaluation(self, record: Mapping[str, Any]) -> None:
        self.last = record
        self.step = max(self.step, int(record["step"]) + 1)
        self.evaluations = max(self.evaluations, int(record["id"]) + 1)
        self.troubled += record["status"] != "ok"
        value = float(record["L"])
        if math.isfinite(value):
            self._losses.append(value)
            if self.lowest is None or value < float(self.lowest["L"]):
                self.lowest = record
        if self._first is None:
            self._first = (self.elapsed, self.step, self.evaluations)
        else:
            self._tasks += int(record.get("tasks", 0))

    @property
    def mean(self) -> tuple[float, int] | None:
        """Mean of the last finite L, and of how many; one evaluation's L is too noisy to watch."""
        return (sum(self._losses) / len(self._losses), len(self._losses)) if self._losses else None

    @property
    def tasks_per_second(self) -> float | None:
        """Tasks evaluated a second of driving, validations included; None before it can be said."""
        seconds = self._seconds()
        return self._tasks / seconds if seconds and self._tasks else None

    @property
    def share(self) -> float:
        """How much of the budget is spent, between 0 and 1: the part that ends the search."""
        return min(1.0, max((self._spent(key) / limit for key, limit in self.budget.items()), default=0.0))

    def left(self) -> float | None:
        """Seconds until the budget is spent, at the rate so far; None before it can be said."""
        parts = []
        seconds = self._seconds()
        if "seconds" in self.budget:
            parts.append(self.budget["seconds"] - self.elapsed)
        for key, now, first in (("steps", self.step, 1), ("evaluations", self.evaluations, 2)):
            done = now - self._first[first] if self._first else 0
            if key in self.budget and seconds and done > 0:
                parts.append((self.budget[key] - now) * seconds / done)
        return max(0.0, min(parts)) if parts else None

    def _spent(self, key: str) -> float:
        return {"steps": self.step, "evaluations": self.evaluations, "seconds": self.elapsed}[key]

    def _seconds(self) -> float:
        return self._searched - self._first[0] if self._first else 0.0
