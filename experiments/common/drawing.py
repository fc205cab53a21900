"""What figures of jobs have in common."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metasearch.reporting.style import axes_of, log_scale, new_figure

from .jobs import Row

__all__ = ["COLOURS", "bars", "lines", "logarithmic", "with_legend"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b7480")


def lines(
    axes: Axes,
    rows: Sequence[Row],
    x: str,
    *,
    y: str = "value",
    percent: bool = True,
    colours: Mapping[str, str] | None = None,
    markers: bool = True,
) -> None:
    """A line for each learner, with the 95 % interval over episodes where it is a figure.

    Args:
        axes: where to.
        rows: averaged ones.
        x: what they are drawn against.
        y: what is drawn.
        percent: whether it is a share.
        colours: of learners; without it, by their order.
        markers: whether points are marked and intervals have caps; else an interval is a band.
    """
    factor = 100.0 if percent else 1.0
    if colours is None:
        colours = dict(zip(dict.fromkeys(row["learner"] for row in rows), itertools.cycle(COLOURS), strict=False))
    for learner in dict.fromkeys(row["learner"] for row in rows):
        here = sorted(
            (row for row in rows if row["learner"] == learner and row.get(y) is not None), key=lambda row: row[x]
        )
        places, values = np.array([row[x] for row in here]), factor * np.array([row[y] for row in here])
        halves = factor * np.array([row["ci95"] for row in here]) if y == "value" else np.zeros(len(here))
        colour = colours[learner]
        if markers:
            axes.errorbar(places, values, halves, lw=1.6, marker="o", ms=3, capsize=2, label=learner, color=colour)
        else:
            axes.plot(places, values, lw=1.6, label=learner, color=colour)
            axes.fill_between(places, values - halves, values + halves, color=colour, alpha=0.2, lw=0)


def logarithmic(axes: Axes, which: Literal["x", "y"], rows: Sequence[Row], key: str) -> None:
    """A logarithmic axis over the positive ones of what rows have under a key."""
    values = [row[key] for row in rows if (row.get(key) or 0.0) > 0.0]
    if values:
        log_scale(axes, which, min(values), max(values))


def bars(rows: Sequence[Row]) -> Figure:
    """A group of bars a learner, a bar for each thing that was measured of it."""
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    together = len({(row["panel"], row["what"]) for row in rows}) == len(panels) * len({row["what"] for row in rows})
    figure = new_figure(5.5 * len(panels), 3.8)
    for axes, panel in zip(axes_of(figure, 1, len(panels)), panels, strict=True):
        here = [row for row in rows if row["panel"] == panel and row.get("value") is not None]
        learners, whats = (list(dict.fromkeys(row[key] for row in here)) for key in ("learner", "what"))
        percent, apart = here[0]["unit"] == "%", min(0.38, 0.84 / len(whats))
        factor = 100 if percent else 1
        for number, what in enumerate(whats):
            chosen = [row for row in here if row["what"] == what]
            places = [learners.index(row["learner"]) + (number - (len(whats) - 1) / 2) * apart for row in chosen]
            values, halves = ([factor * row[key] for row in chosen] for key in ("value", "ci95"))
            axes.bar(places, values, 0.9 * apart, yerr=halves, color=COLOURS[number], label=what, error_kw={"lw": 1})
        squares = panel.startswith("sines")
        axes.set(title=panel, ylabel="test accuracy (%)" if percent else "squared error" if squares else "loss")
        axes.set_xticks(range(len(learners)), learners)
        if not together:
            axes.legend(loc="lower right", frameon=True)
    return with_legend(figure) if together else figure


def with_legend(figure: Figure) -> Figure:
    """One legend below all axes, in as many columns as the figure is wide for."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = max(1, round(figure.get_figwidth() / 2.7))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)
    return figure
