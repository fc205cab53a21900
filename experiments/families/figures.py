"""What was found, averaged over seeds, as a table and as a figure."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metasearch.core.statistics import mean_ci95
from metasearch.reporting.style import axes_of, log_scale, new_figure

from .store import Row

__all__ = ["FIGURES", "averaged", "csv_of", "markdown"]

LABELS = ("panel", "learner", "what", "x")
EXTRA = ("seconds", "megabytes")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b7480")


def averaged(rows: Iterable[Row]) -> list[Row]:
    """One row for all seeds: the mean, ``ci95`` over the episodes of all seeds, ``ci95_seeds`` over seeds' means."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(label) for label in LABELS), []).append(row)
    found = []
    for key, members in groups.items():
        row = dict(zip(LABELS, key, strict=True))
        row["notes"] = "; ".join(dict.fromkeys(str(one["note"]) for one in members if one.get("note")))
        row["seeds"] = len({one["seed"] for one in members})
        row["episodes"] = sum(one["episodes"] for one in members)
        there = [one for one in members if one["value"] is not None]
        if there:
            row["value"], row["ci95_seeds"] = mean_ci95([one["value"] for one in there])
            row["ci95"] = math.sqrt(sum((one["ci95"] or 0.0) ** 2 for one in there)) / len(there)
        for name in EXTRA:
            numbers = [one[name] for one in members if one.get(name) is not None]
            if numbers:
                row[name] = float(np.mean(numbers))
        found.append(row)
    return found


def csv_of(rows: Sequence[Row]) -> str:
    """All rows as CSV, before averaging."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def markdown(part: str, rows: Sequence[Row]) -> str:
    """A table of averaged rows."""
    chosen = {"curves": _compared, "spread": _spread_rows}.get(part, list)(rows)
    extra = [name for name in EXTRA if any(name in row for row in chosen)]
    heads = ["", "learner", "what", "at", "figure", "± episodes", "± seeds", "seeds", "episodes", *extra]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in chosen:
        percent = not row["panel"].startswith("sines")
        cells = [row["panel"], row["learner"], row["what"], "" if row["x"] is None else f"{row['x']:g}"]
        cells += [_figure(row.get(name), percent) for name in ("value", "ci95", "ci95_seeds")]
        cells += [
            str(row["seeds"]),
            str(row["episodes"]),
            *(f"{row[name]:.3g}" if name in row else "" for name in extra),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if part != "spread":
        lines += [
            "",
            *(f"{row['panel']}, {row['learner']}, {row['x']}: {row['notes']}" for row in chosen if row["notes"]),
        ]
    return "\n".join(lines).rstrip() + "\n"


def _figure(value: float | None, percent: bool) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{100 * value:.1f} %" if percent else f"{value:.3g}"


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
            _lines(axes, here, key)
            axes.set(title=panel, xlabel=name, ylabel="validation accuracy (%)")
    return _with_legend(figure)


def _shift(rows: Sequence[Row]) -> Figure:
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    figure = new_figure(11, 7)
    for axes, panel in zip(axes_of(figure, 2, 3), panels, strict=False):
        sine = panel.startswith("sines")
        _lines(axes, [row for row in rows if row["panel"] == panel], "x", percent=not sine)
        axes.set(title=panel, ylabel="squared error" if sine else "test accuracy (%)")
        if sine:
            _logarithmic(axes, "y", [row for row in rows if row["panel"] == panel], "value")
    for axes in figure.axes[len(panels) :]:
        axes.set_axis_off()
    return _with_legend(figure)


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
        _lines(axes, there, "x", y=key, percent=key == "value")
        axes.set(xlabel="support examples", ylabel=name)
        _logarithmic(axes, "x", there, "x")
        if key != "value":
            _logarithmic(axes, "y", there, key)
    return _with_legend(figure)


def _pool(rows: Sequence[Row]) -> Figure:
    figure = new_figure(6.5, 4)
    (axes,) = axes_of(figure, 1, 1)
    _lines(axes, rows, "x")
    axes.set(xlabel="different training tasks", ylabel="test accuracy (%)")
    _logarithmic(axes, "x", rows, "x")
    return _with_legend(figure)


def _bars(rows: Sequence[Row]) -> Figure:
    """A group of bars a learner, a bar for each thing that was measured of it."""
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    figure = new_figure(5.5 * len(panels), 3.8)
    for axes, panel in zip(axes_of(figure, 1, len(panels)), panels, strict=True):
        here = [row for row in rows if row["panel"] == panel and row.get("value") is not None]
        learners, whats = (list(dict.fromkeys(row[key] for row in here)) for key in ("learner", "what"))
        for number, what in enumerate(whats):
            chosen = [row for row in here if row["what"] == what]
            places = [learners.index(row["learner"]) + (number - (len(whats) - 1) / 2) * 0.38 for row in chosen]
            values, halves = ([100 * row[key] for row in chosen] for key in ("value", "ci95"))
            axes.bar(places, values, 0.34, yerr=halves, color=COLOURS[number], label=what, error_kw={"lw": 1})
        axes.set(title=panel, ylabel="test accuracy (%)")
        axes.set_xticks(range(len(learners)), learners)
        axes.legend(loc="lower right", frameon=True)
    return figure


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
    "context": _bars,
    "untrained": _bars,
    "spread": _boxes,
}


def _lines(axes: Axes, rows: Sequence[Row], x: str, *, y: str = "value", percent: bool = True) -> None:
    """A line for each learner, with the 95 % interval over episodes where it is a figure."""
    factor = 100.0 if percent else 1.0
    for learner in dict.fromkeys(row["learner"] for row in rows):
        here = sorted(
            (row for row in rows if row["learner"] == learner and row.get(y) is not None), key=lambda row: row[x]
        )
        places, values = np.array([row[x] for row in here]), factor * np.array([row[y] for row in here])
        halves = factor * np.array([row["ci95"] for row in here]) if y == "value" else np.zeros(len(here))
        axes.errorbar(
            places, values, halves, lw=1.6, marker="o", ms=3, capsize=2, label=learner, color=_colour(learner)
        )


def _logarithmic(axes: Axes, which: Literal["x", "y"], rows: Sequence[Row], key: str) -> None:
    values = [row[key] for row in rows if (row.get(key) or 0.0) > 0.0]
    if values:
        log_scale(axes, which, min(values), max(values))


def _colour(learner: str) -> str:
    """The same for a learner in all figures; lighter or other ones for more inner steps of it."""
    names = ("prototypical", "snail", "maml", "maml, steps: 1", "maml, steps: 5", "maml, steps: 10", "maml, steps: 50")
    return COLOURS[min(max(names.index(learner) - (learner.startswith("maml,")), 0), len(COLOURS) - 1)]


def _with_legend(figure: Figure) -> Figure:
    """One legend below all axes."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return figure
