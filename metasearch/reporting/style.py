"""How plots look, and how a figure becomes SVG or PNG. Matplotlib without pyplot: no global figure, no backend to choose."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

__all__ = ["BAD", "FAINT", "GUIDE", "INK", "SEARCH", "VALIDATION", "Plot", "axes_of", "new_figure", "png", "svg", "thousands"]

# Okabe and Ito's palette, which people with any colour vision can tell apart.
SEARCH, VALIDATION, BAD = "#0072b2", "#d55e00", "#cc3311"
INK, GUIDE, FAINT = "#22272e", "#6b7480", "#e4e7eb"

_STYLE: dict[str, Any] = {
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
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (id|clip-path|xlink:href)="(#|url\(#)?', rf' \1="\2{plot.name}-', text)
    # Without a fixed size in points the page decides how wide it is.
    return re.sub(r'(<svg [^>]*?)width="[^"]*"( [^>]*?)?', r"\1\2", re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", text, count=1), count=1)


def png(plot: Plot, dpi: int = 150) -> bytes:
    """The plot as PNG."""
    return _render(plot, "png", dpi)


def _render(plot: Plot, format: str, dpi: int = 72) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": plot.name}), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes in a PNG; that is no reason to lose the report.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        metadata = {"Date": None} if format == "svg" else {"Software": None}
        plot.draw().savefig(buffer, format=format, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches whose parts make room for each other."""
    return Figure(figsize=(width, height), layout="constrained")


def axes_of(figure: Figure, rows: int, columns: int) -> list[Axes]:
    """A grid of axes, row by row."""
    return list(figure.subplots(rows, columns, squeeze=False).ravel())


def thousands() -> FuncFormatter:
    """Tick labels 500, 20k, 1.5M."""

    def label(value: float, _position: int | None = None) -> str:
        for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= size:
                return f"{value / size:g}{letter}"
        return f"{value:g}"

    return FuncFormatter(label)
