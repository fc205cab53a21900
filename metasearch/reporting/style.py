"""How plots look, and how they become SVG or PNG. Matplotlib without pyplot: no global figure, no backend to choose."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

__all__ = [
    "BAD",
    "FAINT",
    "GUIDE",
    "INK",
    "SEARCH",
    "VALIDATION",
    "Plot",
    "axes_of",
    "log_scale",
    "new_figure",
    "png",
    "svg",
    "thousands",
]

# Okabe and Ito's palette, which people with any colour vision can tell apart.
SEARCH, VALIDATION, BAD = "#0072b2", "#d55e00", "#cc3311"
INK, GUIDE, FAINT = "#22272e", "#6b7480", "#e4e7eb"

_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#aab1ba",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.unicode_minus": True,
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    "path.simplify": True,
    "svg.fonttype": "none",  # text stays text: small files, and words that can be searched
    "text.color": INK,
    "text.parse_math": False,  # names may hold a dollar sign
    "xtick.color": GUIDE,
    "xtick.labelsize": 9,
    "ytick.color": GUIDE,
    "ytick.labelsize": 9,
}


@dataclass(frozen=True)
class Plot:
    """A plot that is drawn when it is asked for.

    Args:
        name: of a file, without its ending.
        title: what it shows, for people who cannot see it, too.
        draw: makes the figure.
        caption: how to read it.
    """

    name: str
    title: str
    draw: Callable[[], Figure]
    caption: str = ""


def svg(plot: Plot) -> str:
    """The ``<svg>`` element of a plot; its ids carry the plot's name, so that several can stand in one page."""
    text = _render(plot, "svg").decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    prefix = re.sub(r"[^A-Za-z0-9-]", "-", plot.name)
    text = re.sub(r' id="', f' id="{prefix}-', text)
    text = re.sub(r' (clip-path="url\(|xlink:href=")#', rf" \1#{prefix}-", text)
    head, end, body = text.partition(">")
    # Without a fixed size in points the page decides how wide it is.
    return re.sub(r' (width|height)="[^"]*"', "", head) + end + body


def png(plot: Plot, dpi: int = 150) -> bytes:
    """The plot as PNG."""
    return _render(plot, "png", dpi)


def _render(plot: Plot, kind: str, dpi: int = 72) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": plot.name}), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes in a PNG; that is no reason to lose the report.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        plot.draw().savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches whose parts make room for each other."""
    return Figure(figsize=(width, height), layout="constrained")


def axes_of(figure: Figure, rows: int, columns: int) -> list[Axes]:
    """A grid of axes, row by row."""
    return list(figure.subplots(rows, columns, squeeze=False).ravel())


def log_scale(axes: Axes, which: Literal["x", "y"], low: float, high: float) -> None:
    """Makes an axis logarithmic, with plain numbers at its ticks: powers of ten, or 1, 2, 5 where there are few."""
    axes.set(**{f"{which}scale": "log"})
    axis: Axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0), numticks=7))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def thousands() -> FuncFormatter:
    """Tick labels 500, 20k, 1.5M."""

    def label(value: float, _position: int | None = None) -> str:
        for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= size:
                return f"{value / size:g}{letter}"
        return f"{value:g}"

    return FuncFormatter(label)
