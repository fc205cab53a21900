"""Rows of jobs averaged over seeds, and as tables."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from metasearch.core.statistics import mean_ci95

from .jobs import Row

__all__ = ["averaged", "csv_of", "markdown"]

LABELS = ("panel", "learner", "what", "x")
EXTRA = ("seconds", "megabytes")


def averaged(rows: Iterable[Row]) -> list[Row]:
    """One row for all seeds: the mean, ``ci95`` over the episodes of all seeds, ``ci95_seeds`` over seeds' means."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(label) for label in LABELS), []).append(row)
    found = []
    for key, members in groups.items():
        row = dict(zip(LABELS, key, strict=True))
        row["notes"] = "; ".join(dict.fromkeys(str(one["note"]) for one in members if one.get("note")))
        row["unit"] = members[0].get("unit", "" if str(row["panel"]).startswith("sines") else "%")
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


def markdown(rows: Sequence[Row], *, notes: bool = True) -> str:
    """A table of averaged rows, and below it what was noted of them."""
    extra = [name for name in EXTRA if any(name in row for row in rows)]
    heads = ["", "learner", "what", "at", "figure", "± episodes", "± seeds", "seeds", "episodes", *extra]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [row["panel"], row["learner"], row["what"], "" if row["x"] is None else f"{row['x']:g}"]
        cells += [_figure(row.get(name), row["unit"] == "%") for name in ("value", "ci95", "ci95_seeds")]
        cells += [
            str(row["seeds"]),
            str(row["episodes"]),
            *(f"{row[name]:.3g}" if name in row else "" for name in extra),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if notes:
        lines += [
            "",
            *(f"{row['panel']}, {row['learner']}, {row['x']}: {row['notes']}" for row in rows if row["notes"]),
        ]
    return "\n".join(lines).rstrip() + "\n"


def _figure(value: float | None, percent: bool) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{100 * value:.1f} %" if percent else f"{value:.3g}"
