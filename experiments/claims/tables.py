"""Which rows of a part stand in its table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..common.jobs import Row
from ..common.tables import markdown

__all__ = ["TABLES"]

SHOWN = (0, 1, 2, 3, 5, 10, 20, 50, 100)
"""Numbers of steps."""


def _steps(rows: Sequence[Row]) -> str:
    """Some numbers of steps; and the number at which the figure is best, with what it gains there on the number that
    was trained with, over the same episodes.
    """
    shown = []
    for panel, learner in dict.fromkeys((row["panel"], row["learner"]) for row in rows):
        here = [row for row in rows if (row["panel"], row["learner"]) == (panel, learner)]
        gains = [row for row in here if row["what"] == "gain" and row.get("value") is not None]
        best = max(gains, key=lambda row: row["value"])["x"]
        shown += [row for row in here if row["what"] == "figure" and row["x"] in SHOWN]
        for row in here:
            if row["x"] == best:
                shown.append({**row, "what": {"figure": "best", "gain": "best: gain on training's steps"}[row["what"]]})
        shown += [{**row, "what": "gain on training's steps"} for row in gains if row["x"] == gains[-1]["x"]]
    return markdown(shown)


def _reach(rows: Sequence[Row]) -> str:
    return markdown([row for row in rows if row["what"] == "steps" or row["x"] in SHOWN])


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "steps": _steps,
    "reach": _reach,
    "away": markdown,
    "support": markdown,
    "descent": markdown,
    "starts": markdown,
}
