"""What was found, as figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metasearch.reporting.style import GUIDE, axes_of, new_figure

from ..common.drawing import COLOURS, bars, lines, logarithmic, with_legend
from ..common.jobs import Row

__all__ = ["FIGURES"]


def _steps(rows: Sequence[Row]) -> Figure:
    """A line for each learner; its best place is marked."""
    figure, places = _row_of_panels([row for row in rows if row["what"] == "figure"])
    for axes, here in places:
        percent = _named(axes, here, "inner steps at the test")
        lines(axes, here, "x", percent=percent, markers=False)
        for number, learner in enumerate(dict.fromkeys(row["learner"] for row in here)):
            of = [row for row in here if row["learner"] == learner]
            best = (max if percent else min)(of, key=lambda row: row["value"])
            axes.plot(best["x"], best["value"] * (100 if percent else 1), "o", ms=6, color=COLOURS[number])
    return with_legend(figure)


def _reach(rows: Sequence[Row]) -> Figure:
    """A line for each start, and the figure of MAML after one step."""
    figure, places = _row_of_panels([row for row in rows if row["what"] == "figure"])
    for axes, here in places:
        percent = _named(axes, here, "steps")
        lines(axes, here, "x", percent=percent, markers=False)
        for row in here:
            if (row["learner"], row["x"]) == ("MAML", 1):
                axes.axhline(row["value"] * (100 if percent else 1), color=GUIDE, lw=1, ls=":")
        if not percent:
            logarithmic(axes, "y", here, "value")
    return with_legend(figure)


def _away(rows: Sequence[Row]) -> Figure:
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    figure = new_figure(11, 7)
    all_axes = axes_of(figure, 2, 3)
    for axes, panel in zip(all_axes, panels, strict=False):
        here = [row for row in rows if row["panel"] == panel]
        percent = _named(axes, here, None)
        lines(axes, here, "x", percent=percent)
        if not percent:
            logarithmic(axes, "y", here, "value")
    for axes in all_axes[len(panels) :]:
        axes.set_axis_off()
    return with_legend(figure)


def _support(rows: Sequence[Row]) -> Figure:
    return bars([row for row in rows if not row["what"].endswith("gap")])


def _descent(rows: Sequence[Row]) -> Figure:
    """Up to a fifth above the loss that steps start from."""
    figure, places = _row_of_panels([row for row in rows if row["what"] == "loss"])
    for axes, here in places:
        moved = [row for row in here if row["x"] > 0]
        lines(axes, moved, "x", percent=False)
        logarithmic(axes, "x", moved, "x")
        lowest, start = min(row["value"] for row in here), max(row["value"] for row in here if row["x"] == 0)
        axes.set(title=here[0]["panel"], xlabel="length of the step", ylabel="query loss after it")
        axes.set_ylim(min(lowest - 0.1 * abs(start), 0.9 * lowest), 1.2 * start)
    return with_legend(figure)


def _starts(rows: Sequence[Row]) -> Figure:
    """MAML as lines; fine-tuning, which has no training tasks, as levels."""
    figure, places = _row_of_panels(rows)
    for axes, here in places:
        trained = [row for row in here if row["learner"].endswith("MAML")]
        _named(axes, here, "different training tasks")
        names = list(dict.fromkeys(row["learner"].partition(",")[0] for row in here))
        lines(axes, trained, "x", colours={f"{name}, MAML": COLOURS[number] for number, name in enumerate(names)})
        for row in here:
            if row not in trained:
                colour = COLOURS[names.index(row["learner"].partition(",")[0])]
                axes.axhline(100 * row["value"], color=colour, lw=1.4, ls="--", label=row["learner"])
        logarithmic(axes, "x", trained, "x")
    return with_legend(figure)


FIGURES: dict[str, Callable[[Sequence[Row]], Figure]] = {
    "steps": _steps,
    "reach": _reach,
    "away": _away,
    "support": _support,
    "descent": _descent,
    "starts": _starts,
}


def _row_of_panels(rows: Sequence[Row]) -> tuple[Figure, list[tuple[Axes, list[Row]]]]:
    """A figure with one place for each panel, and the panels' rows."""
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    figure = new_figure(5.5 * len(panels), 4)
    axes = axes_of(figure, 1, len(panels))
    return figure, [
        (one, [row for row in rows if row["panel"] == panel]) for one, panel in zip(axes, panels, strict=True)
    ]


def _named(axes: Axes, rows: Sequence[Row], x: str | None) -> bool:
    """Names a panel and its axes; whether it shows shares."""
    percent = bool(rows[0]["unit"] == "%")
    axes.set(title=rows[0]["panel"], xlabel=x or "", ylabel="test accuracy (%)" if percent else "squared error")
    return percent
