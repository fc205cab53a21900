"""Pictures of what a search over choices found out: which choices matter, how they act together, the compromises."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from metasearch.core.objectives import Limit, Objectives, front
from metasearch.reporting.history import Array, History, Proposed
from metasearch.reporting.numbers import heading, is_share
from metasearch.reporting.style import BAD, FAINT, GUIDE, SEARCH, VALIDATION, axes_of, new_figure
from metasearch.reporting.tables import short_names

__all__ = [
    "contours",
    "done_proposals",
    "found_schedule",
    "importance",
    "importance_bars",
    "importances",
    "objectives_of",
    "parallel_coordinates",
    "pareto",
]

_AXES, _LINES = 9, 400
_BEST = 0.25
_LEVELS = LinearSegmentedColormap.from_list("levels", [VALIDATION, "#f4ede4", SEARCH])


@dataclass(frozen=True)
class Scale:
    """Where the values of one choice lie in [0, 1], and what stands beside them.

    Args:
        numeric: whether it is a number; else its options lie side by side.
        log: whether equal ratios are equal distances.
        low, high: ends of the values seen, for numbers.
        options: labels, for all else.
    """

    numeric: bool
    log: bool = False
    low: float = 0.0
    high: float = 1.0
    options: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: Sequence[Any]) -> Scale:
        """The scale of the values that were tried."""
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            low, high = float(min(values)), float(max(values))
            return cls(True, low > 0 and high / low > 50, low, high)
        return cls(False, options=tuple(sorted({_label(value) for value in values})))

    def place(self, value: Any) -> float:
        if not self.numeric:
            return (self.options.index(_label(value)) + 0.5) / len(self.options)
        if self.high == self.low:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (float(value) - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Places and labels."""
        if not self.numeric:
            return [((i + 0.5) / len(self.options), text[:14]) for i, text in enumerate(self.options[:12])]
        if self.high == self.low:
            return [(0.5, f"{self.low:g}")]
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            values = [10.0**power for power in powers] or [self.low, self.high]
        else:
            values = [v for v in MaxNLocator(4).tick_values(self.low, self.high) if self.low <= v <= self.high]
        return [(self.place(value), f"{value:g}") for value in values]


def done_proposals(history: History) -> list[Proposed]:
    """Proposals with a finite L, best first."""
    return [one for one in history.proposals if one.status == "ok" and math.isfinite(one.L)]


def parallel_coordinates(history: History) -> Figure:
    """A line for each proposal through its choices to its L(φ); better ones are more orange and further in front."""
    done = done_proposals(history)[:_LINES]
    names = _varied(done)[:_AXES]
    scales = {name: Scale.of([one.choices[name] for one in done if name in one.choices]) for name in names}
    losses = np.array([one.L for one in done])
    # By rank: a few very bad proposals would otherwise leave one colour and one place for all the others.
    ranks = np.argsort(np.argsort(losses, kind="stable")) / max(len(done) - 1, 1)
    result = new_figure(10.4, 4.2)
    axes = axes_of(result, 1, 1)[0]
    for index in range(len(done) - 1, -1, -1):
        one, rank = done[index], float(ranks[index])
        x = [place for place, name in enumerate(names) if name in one.choices]
        y = [scales[names[place]].place(one.choices[names[place]]) for place in x]
        look = {"color": _LEVELS(rank), "alpha": 0.9 - 0.6 * rank, "lw": 1.0 + 1.4 * (rank < 0.05)}
        axes.plot([*x, len(names)], [*y, 1 - rank], **look)  # type: ignore[arg-type]
    labels = short_names(names)
    for place, name in enumerate(names):
        _vertical(axes, place, scales[name].ticks())
    shown = sorted({0, len(done) // 2, len(done) - 1})
    _vertical(axes, len(names), [(1 - float(ranks[i]), f"{losses[i]:.3g}") for i in shown])
    axes.set_xticks(range(len(names) + 1), [*(_short(labels[name]) for name in names), "L(φ), by rank"])
    axes.set_xlim(-0.25, len(names) + 0.45)
    axes.set_ylim(-0.04, 1.04)
    axes.yaxis.set_visible(False)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return result


def contours(history: History) -> Figure:
    """The lower part of L(φ) over the two or three numbers that matter most, smoothed, with the proposals."""
    done = done_proposals(history)
    names = [name for name in importances(history) if _is_number(done, name)][:3]
    pairs = list(combinations(names, 2))
    result = new_figure(10.4 if len(pairs) > 1 else 6.2, 3.6)
    labels = short_names(names)
    for axes, (across, up) in zip(axes_of(result, 1, len(pairs)), pairs, strict=True):
        having = [one for one in done if across in one.choices and up in one.choices]
        scales = [Scale.of([one.choices[name] for one in having]) for name in (across, up)]
        points = np.array([[scales[0].place(one.choices[across]), scales[1].place(one.choices[up])] for one in having])
        losses = np.array([one.L for one in having])
        levels = np.argsort(np.argsort(losses, kind="stable")) / max(len(losses) - 1, 1)
        grid = np.linspace(0, 1, 45)
        surface = _smooth(points, levels, np.array([[x, y] for y in grid for x in grid])).reshape(45, 45)
        axes.contourf(grid, grid, surface, levels=np.linspace(0, 1, 11), cmap=_LEVELS, alpha=0.75, extend="both")
        axes.plot(*points.T, "o", ms=3.5, mfc="white", mec=GUIDE, mew=0.7, alpha=0.8)
        best = int(losses.argmin())
        axes.plot(*points[best], "*", ms=13, mfc=VALIDATION, mec="white", mew=1)
        for axis, scale, name in ((axes.xaxis, scales[0], across), (axes.yaxis, scales[1], up)):
            ticks = scale.ticks()
            axis.set_major_locator(FixedLocator([place for place, _ in ticks]))
            axis.set_major_formatter(FuncFormatter(_texts(ticks)))
            axis.set_label_text(_short(labels[name]))
        axes.grid(visible=False)
    return result


def importances(history: History) -> dict[str, float]:
    """How much each choice matters for being among the best, most important first; shares that add up to 1.

    PED-ANOVA (Watanabe, Bansal, Hutter 2023, arXiv:2304.10255): the mean squared deviation from 1 of the ratio of two
    densities, that of the best quarter of the proposals to that of all, one choice at a time. Interactions are not
    seen.
    """
    done = done_proposals(history)
    found = {
        name: importance([(one.choices[name], one.L) for one in done if name in one.choices]) for name in _varied(done)
    }
    total = sum(found.values())
    shares = {name: value / total if total else 0.0 for name, value in found.items()}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def importance(tried: Sequence[tuple[Any, float]]) -> float:
    """PED-ANOVA's figure for one choice, from its values and the L that came of them."""
    scale = Scale.of([value for value, _ in tried])
    places = np.array([scale.place(value) for value, _ in tried])
    losses = np.array([loss for _, loss in tried])
    best = places[np.argsort(losses, kind="stable")[: max(3, round(_BEST * len(places)))]]
    if scale.numeric:
        grid = np.linspace(0, 1, 101)
        # One width for both, so that it is not the smaller sample's blur that tells them apart.
        width = max(1.06 * float(best.std()) * len(best) ** -0.2, 0.02)
        every, top = (_density(one, grid, width) for one in (places, best))
    else:
        every, top = (_shares(one, len(scale.options)) for one in (places, best))
    return float((every * (top / every - 1) ** 2).sum())


def importance_bars(history: History) -> Figure:
    """The importances as bars."""
    found = dict(list(importances(history).items())[:12])
    labels = short_names(list(found))
    result = new_figure(10.4, 0.9 + 0.32 * len(found))
    axes = axes_of(result, 1, 1)[0]
    places = range(len(found))
    axes.barh(places, [100 * share for share in found.values()], color=SEARCH, height=0.62)
    for place, share in zip(places, found.values(), strict=True):
        axes.annotate(
            f"{100 * share:.0f} %", (100 * share, place), xytext=(4, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(places, [labels[name] for name in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlabel("share of the importance (%)")
    axes.margins(x=0.1)
    axes.grid(visible=False, axis="y")
    return result


def objectives_of(history: History) -> Objectives | None:
    """The objectives of the search, if it has several figures to judge by."""
    if not history.config.get("objectives"):
        return None
    limits = {name: Limit(**limit) for name, limit in (history.config.get("constraints") or {}).items()}
    return Objectives(history.config["objectives"], limits)


def pareto(history: History, objectives: Objectives) -> Figure:
    """Pairs of objectives over all proposals; those that nothing beats in every objective are orange."""
    done = [(one, {**(one.metrics or {}), "L": one.L, "seconds": one.seconds}) for one in done_proposals(history)]
    done = [(one, values) for one, values in done if all(name in values for name in objectives.directions)]
    allowed = [values for _, values in done if objectives.feasible(values)]
    broken = [values for _, values in done if not objectives.feasible(values)]
    best = front([objectives.vector(values) for values in allowed])
    names = list(objectives.directions)[:3]
    pairs = list(combinations(names, 2)) or [(names[0], names[0])]
    result = new_figure(10.4 if len(pairs) > 1 else 7.4, 3.9)
    for axes, (across, up) in zip(axes_of(result, 1, len(pairs)), pairs, strict=True):
        groups = (
            (broken, "x", BAD, "breaks a constraint"),
            (allowed, "o", SEARCH, "proposal"),
            ([allowed[index] for index in best], "o", VALIDATION, "Pareto set"),
        )
        for values, marker, colour, label in groups:
            if values:
                faint = {"ms": 6, "alpha": 1.0} if label == "Pareto set" else {"ms": 4.5, "alpha": 0.45}
                x, y = ([_shown(one, name) for one in values] for name in (across, up))
                axes.plot(x, y, marker, color=colour, label=label, mew=1.2 if marker == "x" else 0, **faint)  # type: ignore[arg-type]
        if len(names) == 2:
            ends = sorted((_shown(allowed[index], across), _shown(allowed[index], up)) for index in best)
            axes.plot([x for x, _ in ends], [y for _, y in ends], "-", color=VALIDATION, lw=1.2, alpha=0.6)
        for set_label, name in ((axes.set_xlabel, across), (axes.set_ylabel, up)):
            set_label(f"{heading(name)} ({'lower' if objectives.directions[name] == 'min' else 'higher'} is better)")
        values_across = [one[across] for _, one in done]
        if values_across and min(values_across) > 0 and max(values_across) / min(values_across) > 50:
            axes.set_xscale("log")
    handles, labels = _legend_of(result)
    result.legend(handles, labels, loc="outside upper left", ncols=3)
    return result


def _shown(values: Mapping[str, float], name: str) -> float:
    """A figure in the unit that its axis names."""
    return values[name] * (100.0 if is_share(name) else 1.0)


def _legend_of(figure: Figure) -> tuple[list[Any], list[str]]:
    """What the legend of all panels shows, each label once."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(str(label), handle)
    return list(found.values()), list(found)


def found_schedule(history: History) -> Figure:
    """The choices over the course of the best population member's training."""
    pieces: Sequence[Mapping[str, Any]] = history.results["selected"]["schedule"]
    steps = int((history.config.get("scheduler") or {}).get("max", pieces[-1]["from"] + 1))
    names = _varied_names([piece["choices"] for piece in pieces])[:6] or list(pieces[0]["choices"])[:6]
    result = new_figure(10.4, 2.8)
    labels = short_names(names)
    for axes, name in zip(axes_of(result, 1, len(names)), names, strict=True):
        values = [piece["choices"].get(name) for piece in pieces]
        scale = Scale.of([value for value in values if value is not None])
        y = [math.nan if value is None else (float(value) if scale.numeric else scale.place(value)) for value in values]
        x = [piece["from"] for piece in pieces]
        axes.plot([*x, steps], [*y, y[-1]], color=VALIDATION, lw=2, drawstyle="steps-post")
        if scale.numeric and min(y) > 0 and max(y) / min(y) > 5:
            axes.set_yscale("log")
        if not scale.numeric:
            ticks = scale.ticks()
            axes.set_yticks([place for place, _ in ticks], [text for _, text in ticks])
        axes.set_xlabel("budget (steps)")
        axes.set_ylabel(_short(labels[name]))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    return result


def _varied(done: Sequence[Proposed]) -> list[str]:
    return _varied_names([one.choices for one in done])


def _varied_names(choices: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the choices of which more than one value was tried."""
    tried: dict[str, set[str]] = {}
    for one in choices:
        for name, value in one.items():
            tried.setdefault(name, set()).add(_label(value))
    return [name for name, labels in tried.items() if len(labels) > 1]


def _is_number(done: Sequence[Proposed], name: str) -> bool:
    return Scale.of([one.choices[name] for one in done if name in one.choices]).numeric


def _density(places: Array, grid: Array, width: float) -> Array:
    """Shares of a kernel estimate at the points of a grid; kernels lose nothing beyond the ends, and a uniform kernel
    over the whole range stands for one point more.
    """
    kernels = np.exp(-0.5 * ((grid[None] - places[:, None]) / width) ** 2)
    kernels = kernels / kernels.sum(1, keepdims=True)
    mixed = (kernels.sum(0) + 1 / len(grid)) / (len(places) + 1)
    return np.asarray(mixed / mixed.sum())


def _shares(places: Array, count: int) -> Array:
    """Shares of options, each counted once more than it was tried."""
    counts = np.bincount((places * count).astype(int), minlength=count) + 1.0
    return np.asarray(counts / counts.sum())


def _smooth(points: Array, levels: Array, wanted: Array) -> Array:
    """Means of the levels nearby (Nadaraya and Watson's estimate)."""
    width = max(0.05, 0.5 * len(points) ** -0.35)
    squares = ((wanted[:, None] - points[None]) ** 2).sum(-1) / width**2
    weights = np.exp(-0.5 * (squares - squares.min(1, keepdims=True)))
    return np.asarray((weights @ levels) / weights.sum(1))


def _vertical(axes: Axes, place: float, ticks: Sequence[tuple[float, str]]) -> None:
    axes.plot([place, place], [0, 1], color=GUIDE, lw=1.2, zorder=3)
    for height, text in ticks:
        axes.plot([place - 0.015, place + 0.015], [height, height], color=GUIDE, lw=1, zorder=3)
        box = {"fc": "white", "ec": FAINT, "alpha": 0.85, "pad": 1.2, "lw": 0.5}
        axes.annotate(
            text,
            (place, height),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            bbox=box,
            zorder=4,
        )


def _texts(ticks: Sequence[tuple[float, str]]) -> Any:
    texts = {round(place, 9): text for place, text in ticks}
    return lambda place, _=None: texts.get(round(place, 9), "")


def _short(name: str) -> str:
    return name if len(name) <= 26 else "…" + name[-25:]


def _label(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
