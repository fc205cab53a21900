"""Curves of one run: L and the metrics along the search, the gradient's norm, the best so far, training runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metasearch.reporting.history import Array, History, Series
from metasearch.reporting.numbers import figure as figure_text
from metasearch.reporting.numbers import heading, is_share, running_mean, thin
from metasearch.reporting.style import BAD, GUIDE, INK, SEARCH, VALIDATION, axes_of, log_scale, new_figure, thousands

__all__ = ["best_so_far", "gradient_norm", "learning_curves", "training_runs"]

_POINTS = 1200
"""Points of a curve after thinning: more than a screen shows, few enough for a small file."""

_HUGE = 1e30
"""Beyond this a number is not drawn: the transforms of a plot would overflow."""

_AXES = {
    "steps": "outer step",
    "evaluations": "evaluations of L(φ)",
    "tasks": "training tasks seen",
}


def learning_curves(history: History, axis: str) -> Figure:
    """L(φ) and at most one metric, on training and held-out tasks, along ``steps``, ``seconds`` or ``tasks``."""
    train, held_out = history.evaluations, history.validations
    others = [name for name in {**held_out.values, **train.values} if name not in ("L", "gradient norm")]
    chosen = [history.metric] if history.metric in others else others[:1]
    names = ["L", *chosen]
    result = new_figure(10.4, 3.9)
    panels = axes_of(result, 1, len(names))
    for axes, name in zip(panels, names, strict=True):
        _panel(axes, history, axis, name)
    _legend(result, panels)
    return result


def gradient_norm(history: History) -> Figure:
    """Euclidean norm of the mean gradient of the objective, by outer step."""
    result = new_figure(10.4, 2.7)
    axes = axes_of(result, 1, 1)[0]
    series = history.evaluations
    _trace(axes, series.step, _drawable(series.values["gradient norm"]), "gradient norm")
    _axis_x(axes, "steps", series)
    _limits(axes, [_drawable(series.values["gradient norm"])])
    axes.set_ylabel("‖∇L(φ)‖₂")
    _bad(axes, series.step[history.bad])
    _legend(result, [axes])
    return result


def best_so_far(history: History, axis: str) -> Figure:
    """Each proposal's L(φ), and the lowest up to then, along ``evaluations``, ``seconds`` or ``tasks``."""
    series, ok = history.evaluations, ~history.bad
    x = _scaled(series.along(axis), axis, series)
    y = np.where(ok, _drawable(series.values["L"]), np.nan)
    best = np.minimum.accumulate(np.where(np.isfinite(y), y, np.inf))
    result = new_figure(10.4, 3.9)
    axes = axes_of(result, 1, 1)[0]
    kept = thin(y, _POINTS)
    axes.plot(x[kept], y[kept], "o", ms=4, mew=0, color=SEARCH, alpha=0.35, label="proposal")
    if np.isfinite(best).any():
        shown = np.isfinite(best)
        changes = thin(best[shown], _POINTS)
        axes.plot(
            x[shown][changes], best[shown][changes], color=VALIDATION, lw=2, drawstyle="steps-post", label="best so far"
        )
        place = int(np.nanargmin(y))
        axes.plot(x[place], y[place], "o", ms=9, mfc="none", mec=VALIDATION, mew=1.8)
        _note(axes, float(x[place]), float(y[place]), figure_text("L", float(y[place])))
    _bad(axes, x[~ok], "diverged or failed")
    _axis_x(axes, axis, series)
    _limits(axes, [y], best=True)
    axes.set_ylabel("L(φ), query loss")
    _legend(result, [axes])
    return result


def training_runs(history: History) -> Figure:
    """Reports of training runs by budget, the best run on top (by the first metric called L, loss or the like)."""
    metrics = [name for records in history.reports.values() for record in records for name in record["metrics"]]
    name = next((one for one in ("L", "validation/L", "loss", *metrics) if one in metrics), "L")
    ranked = [one.id for one in history.proposals if one.id in history.reports]
    result = new_figure(10.4, 3.4)
    axes = axes_of(result, 1, 1)[0]
    ids = [*ranked, *(one for one in history.reports if one not in set(ranked))][:200]
    for id in reversed(ids):
        records = history.reports[id]
        y = _drawable(np.array([float(record["metrics"].get(name, math.nan)) for record in records]))
        x = np.array([float(record["step"]) for record in records])
        kept = thin(y, 300)
        first = id == ids[0]
        look = (
            {"color": VALIDATION, "lw": 2.0, "marker": "o", "ms": 3.5}
            if first
            else {"color": SEARCH, "lw": 0.9, "alpha": 0.35}
        )
        labels = (
            {ids[0]: f"best proposal ({id})", ids[-1]: "other proposals"}
            if len(ids) > 1
            else {ids[0]: f"proposal {id}"}
        )
        axes.plot(x[kept], y[kept], label=labels.get(id), **look)  # type: ignore[arg-type]
    axes.set_xlabel("reported step (budget units)")
    axes.set_ylabel(heading(name))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(result, [axes])
    return result


def _panel(axes: Axes, history: History, axis: str, name: str) -> None:
    train, held_out = history.evaluations, history.validations
    scale = 100.0 if is_share(name) else 1.0
    shown: list[Array] = []
    if name in train.values:
        y = scale * _drawable(train.values[name])
        _trace(axes, _scaled(train.along(axis), axis, train), y, "training tasks")
        shown.append(y)
    if name in held_out.values:
        x = _scaled(held_out.along(axis), axis, train)
        y, width = scale * _drawable(held_out.values[name]), scale * _drawable(held_out.ci95.get(name, np.array([])))
        _held_out(axes, x, y, width if len(width) else np.full_like(y, np.nan))
        _selected(axes, history, x, y, name)
        shown += [y, y - np.nan_to_num(width), y + np.nan_to_num(width)] if len(width) else [y]
    if name == "L":
        _bad(axes, _scaled(train.along(axis), axis, train)[history.bad])
    if history.paper and history.paper["metric"] == name and math.isfinite(history.paper["value"]):
        value = scale * history.paper["value"]
        axes.axhline(value, color=GUIDE, lw=1.2, ls=(0, (5, 3)), label="published (test)")
        shown.append(np.array([value]))
    _resumes(axes, history, axis)
    _axis_x(axes, axis, train, held_out)
    _limits(axes, shown, linear=is_share(name))
    axes.set_ylabel("L(φ), query loss" if name == "L" else heading(name))


def _trace(axes: Axes, x: Array, y: Array, label: str) -> None:
    """A noisy series: faint as it is, bold as its running mean; one that is short, as it is."""
    if len(y) < 30:
        axes.plot(x, y, "-o", color=SEARCH, lw=1.4, ms=3.5, label=label)
        return
    window = max(5, len(y) // 40)
    kept = thin(y, _POINTS)
    axes.plot(x[kept], y[kept], color=SEARCH, lw=0.6, alpha=0.28)
    # A value far out of scale would stay in the sums behind the running mean.
    typical = float(np.nanmedian(np.abs(y))) if np.isfinite(y).any() else 0.0
    smooth = running_mean(np.where(np.abs(y) > 1e4 * max(typical, 1e-12), np.nan, y), window)
    kept = thin(smooth, _POINTS // 2)
    axes.plot(x[kept], smooth[kept], color=SEARCH, lw=2, label=f"{label} (mean of {window})")


def _held_out(axes: Axes, x: Array, y: Array, width: Array) -> None:
    kept = thin(y, _POINTS // 2)
    x, y, width = x[kept], y[kept], width[kept]
    marker = {"marker": "o", "ms": 3.5} if len(x) <= 60 else {}
    axes.plot(x, y, color=VALIDATION, lw=1.6, label="validation, 95 % interval", **marker)  # type: ignore[arg-type]
    if np.isfinite(width).sum() > 1:
        axes.fill_between(x, y - width, y + width, color=VALIDATION, alpha=0.3, lw=0)
    elif np.isfinite(width).any():
        axes.errorbar(x, y, width, color=VALIDATION, capsize=3, fmt="none")


def _selected(axes: Axes, history: History, x: Array, y: Array, name: str) -> None:
    best = history.best_validation
    if best is None:
        return
    place = [record["n"] for record in history.of("validation")].index(best["n"])
    if math.isfinite(y[place]):
        axes.plot(x[place], y[place], "o", ms=9, mfc="none", mec=INK, mew=1.4, label="selected φ")


def _bad(axes: Axes, x: Array, label: str = "diverged") -> None:
    """Crosses along the bottom, where L has no place of its own."""
    if len(x):
        x = x[:: max(1, len(x) // 300)]
        axes.plot(
            x, np.full(len(x), 0.025), "x", ms=5, mew=1.3, color=BAD, transform=axes.get_xaxis_transform(), label=label
        )


def _resumes(axes: Axes, history: History, axis: str) -> None:
    """Dotted lines where another driver went on."""
    numbers = [record["n"] for record in history.of("evaluation")]
    x = _scaled(history.evaluations.along(axis), axis, history.evaluations)
    resumed = [record["n"] for record in history.of("event") if record.get("event") == "resume"][:50]
    label: str | None = "resumed"
    for n in resumed:
        place = int(np.searchsorted(numbers, n))
        if place < len(x):
            axes.axvline(float(x[place]), color=GUIDE, lw=1, ls=(0, (1, 2)), label=label)
            label = None


def _axis_x(axes: Axes, axis: str, series: Series, *others: Series) -> None:
    """Labels and limits; panels side by side have the same, whatever each of them shows."""
    unit = {1.0: "s", 60.0: "min", 3600.0: "h"}[_unit(series)]
    axes.set_xlabel(_AXES.get(axis, f"time of driving ({unit})"))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=axis != "seconds"))
    axes.xaxis.set_major_formatter(thousands())
    places = np.concatenate([_scaled(one.along(axis), axis, series) for one in (series, *others)])
    if len(places) and places.max() > places.min():
        room = 0.02 * (places.max() - places.min())
        axes.set_xlim(places.min() - room, places.max() + room)


def _limits(axes: Axes, shown: Sequence[Array], *, linear: bool = False, best: bool = False) -> None:
    """A y-axis on which single extremes do not flatten the rest; logarithmic if positive values span decades.

    Args:
        axes: whose y-axis.
        shown: what should be visible.
        linear: never logarithmic.
        best: only low values matter (the worst fifth of proposals may lie outside).
    """
    values = np.concatenate(shown) if shown else np.zeros(0)
    values = values[np.isfinite(values)]
    if not len(values):
        return
    low, high = float(values.min()), float(values.max())
    if best:
        high = float(np.percentile(values, 80)) if len(values) > 20 else high
    elif len(values) > 20:
        # Methods that pick a value, since one between a usual and an extreme value would be extreme, too.
        bottom = float(np.percentile(values, 1, method="higher"))
        top = float(np.percentile(values, 99, method="lower"))
        low, high = max(low, bottom - (top - bottom)), min(high, top + (top - bottom))
    high = high if high > low else low + max(abs(low), 1e-12) * 0.1
    if not linear and low > 0 and high / low > 30:
        low = max(low, 1e-12 * high)
        log_scale(axes, "y", low, high)
        room = (high / low) ** 0.06
        axes.set_ylim(low / room, high * room)
    else:
        room = 0.07 * (high - low)
        axes.set_ylim(low - (2 if best else 1) * room, high + room)


def _drawable(values: Array) -> Array:
    shown = np.where(np.isfinite(values) & (np.abs(values) < _HUGE), values, np.nan)
    return np.where(np.abs(shown) < 1 / _HUGE, 0.0, shown)


def _scaled(x: Array, axis: str, series: Series) -> Array:
    return x / _unit(series) if axis == "seconds" else x


def _unit(series: Series) -> float:
    """Seconds, minutes or hours, whichever gives readable numbers."""
    last = float(series.seconds[-1]) if len(series) else 0.0
    return 3600.0 if last > 2 * 3600 else 60.0 if last > 300 else 1.0


def _note(axes: Axes, x: float, y: float, text: str) -> None:
    """A number above a point, readable also where other points lie."""
    look: dict[str, Any] = {
        "fontsize": 9.5,
        "color": VALIDATION,
        "bbox": {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1},
    }
    axes.annotate(text, (x, y), xytext=(0, 9), textcoords="offset points", ha="center", va="bottom", **look)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend above all panels."""
    found: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(str(label), handle)
    if found:
        look: dict[str, Any] = {"ncols": 6, "handlelength": 1.8, "columnspacing": 1.6}
        figure.legend(list(found.values()), list(found), loc="outside upper left", **look)
