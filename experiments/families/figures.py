"""What was found, as a table and as a figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from metasearch.core.statistics import mean_ci95
from metasearch.reporting.style import axes_of, new_figure

from ..common import tables
from ..common.drawing import COLOURS, bars, lines, logarithmic, with_legend
from ..common.jobs import Row

__all__ = ["FIGURES", "markdown"]

NAMES = ("prototypical", "snail", "maml", "maml, steps: 5", "maml, steps: 10", "maml, steps: 50")
COLOUR = {**dict(zip(NAMES, COLOURS, strict=False)), "maml, steps: 1": COLOURS[2]}
"""The same for a learner in all figures; other ones for more inner steps of it."""


def markdown(part: str, rows: Sequence[Row]) -> str:
    """The table of a part."""
    chosen = {"curves": _compared, "spread": _spread_rows}.get(part, list)(rows)
    return tables.markdown(chosen, notes=part != "spread")


def _compared(rows: Sequence[Row]) -> list[Row]:
    """Of curves: the test, and validation after equal numbers of tasks and of seconds (as many as all have had)."""
    found = [row for row in rows if row["what"] == "test"]
    for panel in dict.fromkeys(row["panel"] for row in rows):
        here = [row for row in rows if row["panel"] == panel and row["what"] == "validation"]
        learners = dict.fromkeys(row["learner"] for row in here)
        for key in ("x", "seconds"):
            common = min(
                (max(row[key] for row in here if row["learner"] == learner) for learner in learners), default=0
            )
            unit = f"{common:g} tasks" if key == "x" else f"{common:.0f} s"
            for learner in learners:
                reached = [row for row in here if row["learner"] == learner and row[key] <= common]
                if reached:
                    found.append({**max(reached, key=lambda row: row[key]), "what": f"validation after {unit}"})
    return found


def _spread_rows(rows: Sequence[Row]) -> list[Row]:
    """Of random settings: quartiles, the best, and the mean with its interval over settings."""
    found = []
    for learner in dict.fromkeys(row["learner"] for row in rows):
        here = [row for row in rows if row["learner"] == learner]
        values = np.array([row["value"] for row in here])
        common = {**here[0], "x": None, "episodes": here[0]["episodes"], "ci95_seeds": math.nan, "notes": ""}
        mean, half = mean_ci95(values)
        found.append(
            {**common, "what": f"mean of {len(values)} settings (± over settings)", "value": mean, "ci95": half}
        )
        for share, name in (
            (0.0, "worst"),
            (0.25, "lower quartile"),
            (0.5, "median"),
            (0.75, "upper quartile"),
            (1.0, "best"),
        ):
            found.append({**common, "what": name, "value": float(np.quantile(values, share)), "ci95": math.nan})
    return found


def _curves(rows: Sequence[Row]) -> Figure:
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    figure = new_figure(10, 3.6 * len(panels))
    places = iter(axes_of(figure, len(panels), 2))
    for panel in panels:
        here = [row for row in rows if row["panel"] == panel and row["what"] == "validation"]
        for key, name in (("x", "training tasks"), ("seconds", "seconds of training")):
            axes = next(places)
            lines(axes, here, key, colours=COLOUR)
            axes.set(title=panel, xlabel=name, ylabel="validation accuracy (%)")
    return with_legend(figure)


def _shift(rows: Sequence[Row]) -> Figure:
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    figure = new_figure(11, 7)
    for axes, panel in zip(axes_of(figure, 2, 3), panels, strict=False):
        sine = panel.startswith("sines")
        lines(axes, [row for row in rows if row["panel"] == panel], "x", percent=not sine, colours=COLOUR)
        axes.set(title=panel, ylabel="squared error" if sine else "test accuracy (%)")
        if sine:
            logarithmic(axes, "y", [row for row in rows if row["panel"] == panel], "value")
    for axes in figure.axes[len(panels) :]:
        axes.set_axis_off()
    return with_legend(figure)


def _support(rows: Sequence[Row]) -> Figure:
    figure = new_figure(11, 3.6)
    here = [row for row in rows if row["panel"] == "5 classes"]
    names = (
        ("value", "test accuracy (%)"),
        ("seconds", "CPU seconds a task"),
        ("megabytes", "MB at the peak, beyond the start"),
    )
    for axes, (key, name) in zip(axes_of(figure, 1, 3), names, strict=True):
        there = [row for row in here if row.get(key) is not None]
        lines(axes, there, "x", y=key, percent=key == "value", colours=COLOUR)
        axes.set(xlabel="support examples", ylabel=name)
        logarithmic(axes, "x", there, "x")
        if key != "value":
            logarithmic(axes, "y", there, key)
    return with_legend(figure)


def _pool(rows: Sequence[Row]) -> Figure:
    figure = new_figure(6.5, 4)
    (axes,) = axes_of(figure, 1, 1)
    lines(axes, rows, "x", colours=COLOUR)
    axes.set(xlabel="different training tasks", ylabel="test accuracy (%)")
    logarithmic(axes, "x", rows, "x")
    return with_legend(figure)


def _boxes(rows: Sequence[Row]) -> Figure:
    figure = new_figure(6.5, 4)
    (axes,) = axes_of(figure, 1, 1)
    learners = list(dict.fromkeys(row["learner"] for row in rows))
    values = [[100 * row["value"] for row in rows if row["learner"] == learner] for learner in learners]
    axes.boxplot(values, tick_labels=learners, widths=0.5)
    for place, (learner, found) in enumerate(zip(learners, values, strict=True), 1):
        beside = place + np.linspace(-0.18, 0.18, len(found))
        axes.plot(beside, found, ".", color=COLOURS[learners.index(learner)], alpha=0.6)
    axes.set(ylabel="validation accuracy (%) of a random setting")
    return figure


FIGURES: dict[str, Callable[[Sequence[Row]], Figure]] = {
    "curves": _curves,
    "shift": _shift,
    "support": _support,
    "pool": _pool,
    "context": bars,
    "untrained": bars,
    "spread": _boxes,
}
