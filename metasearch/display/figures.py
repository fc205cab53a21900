"""Numbers as text: times, shares, losses, each with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["count", "duration", "figure", "headline", "number", "place", "with_width"]


def duration(seconds: float) -> str:
    """A time for a person, two units at most.

    >>> duration(0.25), duration(8.26), duration(73), duration(7384), duration(200000)
    ('250 ms', '8.3 s', '1 min 13 s', '2 h 03 min', '2 d 7 h')
    """
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def count(n: int, noun: str) -> str:
    """A number of things.

    >>> count(1, "worker"), count(12000, "task")
    ('1 worker', '12,000 tasks')
    """
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def number(value: float) -> str:
    """A number with four significant digits; rates and the like.

    >>> number(0.061234), number(1234.56), number(float("nan"))
    ('0.06123', '1235', 'nan')
    """
    return f"{value:.0f}" if math.isfinite(value) and 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def with_width(value: float, width: float | None, *, percent: bool) -> str:
    """A value and the half-width of its interval, with digits that suit the width.

    >>> with_width(97.8123, 0.334, percent=True), with_width(0.071234, 0.0112, percent=False)
    ('97.81 % ± 0.33 %', '0.071 ± 0.011')
    """
    unit = " %" if percent else ""
    if width is None or not math.isfinite(width):
        return (f"{value:.2f}" if percent else number(value)) + unit
    if percent:
        return f"{value:.2f} % ± {width:.2f} %"
    if width <= 0 or not math.isfinite(value) or abs(value) >= 1e7:
        return f"{number(value)} ± {number(width)}"
    digits = max(0, 1 - math.floor(math.log10(width)))
    return f"{value:.{digits}f} ± {width:.{digits}f}" if digits <= 8 else f"{value:.4g} ± {width:.2g}"


def figure(name: str, value: float, width: float | None = None) -> str:
    """A figure of a search: a metric that is a share of 1 is shown in percent.

    >>> figure("accuracy", 0.9781, 0.0033), figure("L", 0.25)
    ('97.81 % ± 0.33 %', '0.25')
    """
    if "accuracy" in name:
        return with_width(100 * value, None if width is None else 100 * width, percent=True)
    return with_width(value, width, percent=False)


def headline(record: Mapping[str, Any]) -> str:
    """The figures of a ``validation`` or ``test`` record: its metrics, then L.

    >>> headline({"L": 0.5, "L_ci95": 0.1, "metrics": {"accuracy": 0.8}, "metrics_ci95": {"accuracy": 0.02}})
    'accuracy 80.00 % ± 2.00 %, L 0.50 ± 0.10'
    """
    widths = record.get("metrics_ci95") or {}
    parts = [f"{name} {figure(name, value, widths.get(name))}" for name, value in (record.get("metrics") or {}).items()]
    return ", ".join([*parts, f"L {figure('L', record['L'], record.get('L_ci95'))}"])


def place(path: Path | str) -> str:
    """A path as one would type it here: relative where it lies below the working directory."""
    path = Path(path)
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) and absolute != here else str(path)
