"""Pictures of adapted episodes: what a network saw in a support set, and what it says about the query set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from metasearch.reporting.style import GUIDE, INK, axes_of, new_figure

__all__ = ["Episodes", "draw_episode", "load_episodes"]

_RIGHT, _WRONG = "#0072b2", "#d55e00"
_COLUMNS = 15
_NAMES = ("support_x", "support_y", "query_x", "query_y", "predictions", "confidence")


@dataclass(frozen=True)
class Episodes:
    """Image episodes and an adapting network's answers.

    Args:
        support_x: ``[E, n, H, W]``, or with channels before or after the two.
        support_y: ``[E, n]`` labels.
        query_x: ``[E, m, ...]`` as ``support_x``.
        query_y: ``[E, m]`` labels.
        predictions: ``[E, m, steps + 1]`` labels after 0, 1 ... inner steps.
        confidence: ``[E, m, steps + 1]`` or ``[E, m]`` (after the last step), shares of 1.
    """

    support_x: NDArray[Any]
    support_y: NDArray[Any]
    query_x: NDArray[Any]
    query_y: NDArray[Any]
    predictions: NDArray[Any]
    confidence: NDArray[Any]

    def __len__(self) -> int:
        return len(self.support_x)


def load_episodes(path: Path) -> Episodes | None:
    """The episodes in a file, or None if it is missing or holds no image episodes."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        if not set(_NAMES) <= set(stored.files):
            return None
        episodes = Episodes(**{name: stored[name] for name in _NAMES})
    return episodes if episodes.support_x.ndim in (4, 5) and episodes.predictions.ndim == 3 else None


def draw_episode(episodes: Episodes, index: int) -> Figure:
    """Support images with their labels; query images with true label and prediction before and after."""
    queries = np.argsort(episodes.query_y[index], kind="stable")[: 2 * _COLUMNS]
    support = np.argsort(episodes.support_y[index], kind="stable")[: 2 * _COLUMNS]
    support_rows, query_rows = -(-len(support) // _COLUMNS), -(-len(queries) // _COLUMNS)
    result = new_figure(10.4, 0.55 + 0.95 * support_rows + 1.35 * query_rows)
    axes = axes_of(result, 1, 1)[0]
    axes.set_axis_off()
    low = float(min(episodes.support_x[index].min(), episodes.query_x[index].min()))
    high = float(max(episodes.support_x[index].max(), episodes.query_x[index].max()))
    _title(axes, 0.0, "support set: what the network adapts to")
    for place, one in enumerate(support):
        x, y = place % _COLUMNS, 0.15 + 1.3 * (place // _COLUMNS)
        _image(axes, x, y, episodes.support_x[index, one], low, high)
        axes.text(x + 0.45, y + 0.95, f"{episodes.support_y[index, one]}", ha="center", va="top", fontsize=9)
    top = 0.45 + 1.3 * support_rows
    _title(axes, top, "query set: true label, then prediction before → after adaptation")
    for place, one in enumerate(queries):
        _query(axes, episodes, index, int(one), place % _COLUMNS, top + 0.15 + 1.75 * (place // _COLUMNS))
    axes.set_xlim(-0.05, _COLUMNS)
    axes.set_ylim(top + 0.1 + 1.75 * query_rows, -0.3)
    axes.set_aspect("equal")
    return result


def _query(axes: Axes, episodes: Episodes, index: int, one: int, x: float, y: float) -> None:
    low, high = float(episodes.query_x[index].min()), float(episodes.query_x[index].max())
    _image(axes, x, y, episodes.query_x[index, one], low, high)
    true = episodes.query_y[index, one]
    before, after = episodes.predictions[index, one, 0], episodes.predictions[index, one, -1]
    right = after == true
    colour = _RIGHT if right else _WRONG
    axes.plot([x, x + 0.9, x + 0.9, x, x], [y, y, y + 0.9, y + 0.9, y], color=colour, lw=1.2 if right else 2.2)
    confidence = episodes.confidence[index, one]
    last = float(confidence[-1] if confidence.ndim else confidence)
    axes.text(x + 0.45, y + 0.95, f"true {true}", ha="center", va="top", fontsize=8, color=INK)
    # The sign says the same as the colour, for those who cannot tell the colours apart.
    words = f"{before} → {after} {'✓' if right else '✗'}"
    axes.text(x + 0.45, y + 1.17, words, ha="center", va="top", fontsize=8.5, color=colour, fontweight="bold")
    axes.text(x + 0.45, y + 1.40, f"{100 * last:.0f} %", ha="center", va="top", fontsize=7.5, color=GUIDE)


def _title(axes: Axes, y: float, text: str) -> None:
    axes.text(0, y, text, va="bottom", fontsize=9.5, color=GUIDE)


def _image(axes: Axes, x: float, y: float, image: NDArray[Any], low: float, high: float) -> None:
    """One picture in a square of 0.9; ``low`` and ``high`` become black and white."""
    if image.ndim == 3 and image.shape[0] in (1, 3) and image.shape[-1] not in (1, 3):
        image = np.moveaxis(image, 0, -1)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    scaled = np.clip((image.astype(np.float64) - low) / ((high - low) or 1.0), 0, 1)
    axes.imshow(
        scaled, cmap="gray", vmin=0, vmax=1, extent=(x, x + 0.9, y + 0.9, y), interpolation="nearest", aspect="equal"
    )
