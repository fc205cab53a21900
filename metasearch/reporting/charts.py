"""Further pictures of one run: final figures side by side, each choice against L, and stored series."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metasearch.reporting.history import History, number
from metasearch.reporting.numbers import figure as figure_text
from metasearch.reporting.numbers import heading, is_share
from metasearch.reporting.style import FAINT, GUIDE, SEARCH, VALIDATION, axes_of, log_scale, new_figure
from metasearch.reporting.tables import short_names

__all__ = ["choice_slices", "final_figures", "is_drawing", "stored_series"]

_SLICES = 8
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def final_figures(history: History) -> Figure:
    """The judged metric of this search, its baselines and the paper, with 95 % intervals."""
    metric, scale = history.metric, 100.0 if is_share(history.metric) else 1.0
    rows = [
        (one.name, one.values[metric], one.ci95.get(metric, math.nan)) for one in history.tests if metric in one.values
    ]
    if history.paper and history.paper["metric"] == metric:
        rows.append(("published", history.paper["value"], history.paper["interval"]))
    result = new_figure(10.4, 0.7 + 0.42 * len(rows))
    axes = axes_of(result, 1, 1)[0]
    for place, (name, value, ci95) in enumerate(rows):
        colour = VALIDATION if name == "metasearch" else GUIDE if name == "published" else SEARCH
        shape = "D" if name == "published" else "o"
        width = scale * ci95 if math.isfinite(ci95) else 0.0
        axes.errorbar(scale * value, place, xerr=width, fmt=shape, color=colour, ms=7, lw=2.2, capsize=0)
        text = figure_text(metric, value, ci95)
        axes.annotate(text, (scale * value, place), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=9)
    axes.set_yticks(range(len(rows)), ["this search" if name == "metasearch" else name for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.75)
    axes.tick_params(axis="y", length=0, labelsize=10)
    axes.grid(visible=False, axis="x")
    axes.margins(x=0.08)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"test {heading(metric)}")
    return result


def choice_slices(history: History) -> Figure:
    """L(φ) against each choice; the best proposal is ringed."""
    done = [one for one in history.proposals if one.status == "ok" and math.isfinite(one.L)]
    names = list(dict.fromkeys(name for one in done for name in one.choices))[:_SLICES]
    columns = min(len(names), 4)
    result = new_figure(10.4, 2.5 * math.ceil(len(names) / columns))
    panels = axes_of(result, math.ceil(len(names) / columns), columns)
    high = float(np.percentile([one.L for one in done], 80 if len(done) > 20 else 100))
    labels = short_names(names)
    for axes, name in zip(panels, names, strict=False):
        having = [one for one in done if name in one.choices]
        _slice(axes, labels[name], [one.choices[name] for one in having], np.array([one.L for one in having]))
        low = done[0].L
        room = 0.08 * (high - low) or 0.1 * abs(low) or 1.0
        axes.set_ylim(low - room, high + room)
        axes.set_ylabel("L(φ)" if axes.get_subplotspec().is_first_col() else "")  # type: ignore[union-attr]
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    return result


def stored_series(content: Mapping[str, Any]) -> Figure:
    """A figure that a run stored as JSON.

    Args:
        content: ``x_label``, ``y_label`` and ``series``, a list of ``name``, ``x``, ``y`` and
            perhaps ``ci95`` (half-widths of intervals).
    """
    result = new_figure(10.4, 3.4)
    axes = axes_of(result, 1, 1)[0]
    for index, series in enumerate(content["series"]):
        x, y = (np.array([number(value) for value in series[key]]) for key in ("x", "y"))
        colour = _COLOURS[index % len(_COLOURS)]
        axes.plot(x, y, "-o", ms=3.5, lw=1.8, color=colour, label=str(series.get("name", "")))
        if series.get("ci95") is not None:
            width = np.array([number(value) for value in series["ci95"]])
            axes.fill_between(x, y - width, y + width, color=colour, alpha=0.2, lw=0)
    places = [value for series in content["series"] for value in series["x"]]
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=all(isinstance(value, int) for value in places)))
    axes.set_xlabel(str(content.get("x_label", "")))
    axes.set_ylabel(str(content.get("y_label", "")))
    if any(series.get("name") for series in content["series"]):
        result.legend(loc="outside upper left", ncols=6)
    return result


def is_drawing(content: Any) -> bool:
    """Whether stored JSON is what :func:`stored_series` draws: series of equally many x and y."""
    series = content.get("series") if isinstance(content, Mapping) else None
    return isinstance(series, list) and bool(series) and all(_is_series(one) for one in series)


def _is_series(one: Any) -> bool:
    if not isinstance(one, Mapping) or not isinstance(one.get("x"), list) or not isinstance(one.get("y"), list):
        return False
    widths = one.get("ci95", one["y"])
    return len(one["x"]) == len(one["y"]) and (
        widths is None or (isinstance(widths, list) and len(widths) == len(one["y"]))
    )


def _slice(axes: Axes, name: str, chosen: list[Any], losses: np.ndarray[Any, Any]) -> None:
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in chosen)
    if numeric:
        x = np.array(chosen, dtype=np.float64)
        if x.min() > 0 and x.max() / x.min() > 50:
            log_scale(axes, "x", x.min(), x.max())
    else:
        labels = sorted({_label(value) for value in chosen})[:12]
        having = [index for index, value in enumerate(chosen) if _label(value) in labels]
        # Side by side within a category, so that points do not hide each other; always in the same places.
        aside = 0.3 * ((np.arange(len(having)) * 0.618) % 1 - 0.5)
        x, losses = aside + np.array([float(labels.index(_label(chosen[index]))) for index in having]), losses[having]
        axes.set_xticks(range(len(labels)), [text[:14] for text in labels], rotation=0 if len(labels) < 4 else 35)
        axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.plot(x, losses, "o", ms=4.5, mew=0, color=SEARCH, alpha=0.4)
    best = int(losses.argmin())
    axes.plot(x[best], losses[best], "o", ms=9, mfc="none", mec=VALIDATION, mew=1.8)
    axes.grid(color=FAINT)
    axes.set_xlabel(name if len(name) <= 30 else "…" + name[-29:])


def _label(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
