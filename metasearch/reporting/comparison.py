"""Several runs side by side, and what their difference in settings does to the result, paired by seed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metasearch.core.statistics import paired_ci95
from metasearch.reporting import page
from metasearch.reporting.history import History, number
from metasearch.reporting.numbers import NONE, duration, figure, heading, plain
from metasearch.reporting.tables import dotted, short_names

__all__ = ["Comparison", "Difference", "Row", "compare"]

_NOT_SETTINGS = ("seed", "seeds", "variants", "name", "description", "paper", "tracking")
"""What may differ between runs of one variant."""

_ABSENT = "(not set)"

_SHORT = re.compile(r"-\d{8}-\d{6}-([0-9a-f]{6})$")
"""The short id at the end of a run's id."""


@dataclass(frozen=True)
class Row:
    """One run.

    Args:
        run, name, seed, status: what it is.
        differs: settings that are not the same in all compared runs, by dotted key; ``(not set)`` where it has none.
        variant: name of the group of runs that differ from it by nothing but the seed.
        steps: outer steps with at least one evaluation.
        seconds: time of driving.
        figures: ``test accuracy``, ``validation L`` ...: value and 95 % half-width (nan if unknown). Validation figures
            are those of the selected step; where there was no validation, ``best L`` is the best proposal's.
    """

    run: str
    name: str
    seed: int
    status: str
    differs: Mapping[str, Any]
    variant: str
    steps: int
    seconds: float
    figures: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Difference:
    """A variant against the reference, over the seeds that both have.

    Args:
        variant, reference: the groups; the reference is the variant of the first run.
        figure: what is compared.
        seeds: seeds of the pairs.
        mean: of variant minus reference.
        ci95: half-width by Student's t with one degree of freedom less than pairs; nan for a single pair.
    """

    variant: str
    reference: str
    figure: str
    seeds: tuple[int, ...]
    mean: float
    ci95: float


@dataclass(frozen=True)
class Comparison:
    """Runs in the order given, and differences between their variants."""

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]

    def text(self) -> str:
        """Aligned plain text."""
        blocks = ["\n".join(_aligned(*self._runs()))]
        if self.differences:
            blocks.append("\n".join([_ABOUT, *_aligned(*self._paired())]))
        return "\n\n".join(blocks)

    def markdown(self) -> str:
        """Markdown tables."""
        blocks = [_markdown(*self._runs())]
        if self.differences:
            blocks += [_ABOUT, _markdown(*self._paired())]
        return "\n\n".join(blocks) + "\n"

    def html(self) -> str:
        """A page of its own, in the look of a run's report."""
        headers, cells = self._runs()
        words = 4 + len(self._settings())
        parts = [page.section("Runs", page.table(headers, cells, text_columns=words))]
        if self.differences:
            headers, cells = self._paired()
            note = page.Markup(f'<p class="quiet">{page.escape(_ABOUT)}</p>')
            parts.append(page.section("Differences", page.table(headers, cells, text_columns=3), note))
        heading_ = page.Markup(f"<h1>{len(self.rows)} runs compared</h1>")
        return page.document("Comparison of runs – metasearch", heading_, *parts)

    def _settings(self) -> list[str]:
        return list(dict.fromkeys(key for row in self.rows for key in row.differs))

    def _runs(self) -> tuple[list[str], list[list[str]]]:
        settings = self._settings()
        names = _ordered(name for row in self.rows for name in row.figures)
        short = short_names(settings)
        headers = ["run", "name", "status", *short.values(), "seed", "steps", "time"]
        cells = [
            [
                row.run if (found := _SHORT.search(row.run)) is None else found[1],
                row.name,
                row.status,
                *(_value(row.differs[key]) for key in settings),
                str(row.seed),
                plain(row.steps),
                duration(row.seconds),
                *(_cell(name, *row.figures[name]) if name in row.figures else NONE for name in names),
            ]
            for row in self.rows
        ]
        return [*headers, *map(_heading, names)], cells

    def _paired(self) -> tuple[list[str], list[list[str]]]:
        headers = ["variant", "against", "figure", "difference", "seeds"]
        return headers, [
            [
                one.variant,
                one.reference,
                _heading(one.figure),
                _cell(one.figure, one.mean, one.ci95, signed=True),
                str(len(one.seeds)),
            ]
            for one in self.differences
        ]


_ABOUT = "Paired by seed: mean difference ± 95 % interval (Student's t over seeds)."


def compare(runs: Sequence[Path]) -> Comparison:
    """Puts runs side by side; those that differ by nothing but the seed form a variant.

    Variants are compared with that of the first run, pair by pair over common seeds; of two runs with the same seed the
    later in the list counts. Test figures are compared where both have them, else those of the selected validation.

    Raises:
        JournalError: if a journal is damaged before its end.
        ConfigError: if a results.json is not JSON.
        ValueError: without runs.
    """
    if not runs:
        raise ValueError("expected at least one run to compare, got none; give run directories")
    histories = [History(run) for run in runs]
    settings = [_settings(one.config) for one in histories]
    keys = [key for key in dict.fromkeys(key for one in settings for key in one) if _varies(key, settings)]
    differing = [{key: one.get(key, _ABSENT) for key in keys} for one in settings]
    variants = _variants(histories, differing)
    rows = tuple(_row(*each) for each in zip(histories, differing, variants, strict=True))
    return Comparison(rows, tuple(_differences(rows)))


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What may make a difference, by dotted key; an empty block says nothing that its absence does not."""
    flat = dotted({key: value for key, value in config.items() if key not in _NOT_SETTINGS})
    return {key: value for key, value in flat.items() if value != {}}


def _varies(key: str, settings: Sequence[Mapping[str, Any]]) -> bool:
    return len({repr(one.get(key, _ABSENT)) for one in settings}) > 1


def _variants(histories: Sequence[History], differing: Sequence[Mapping[str, Any]]) -> list[str]:
    """The experiment's name where it tells the groups apart, else the settings that do."""
    groups = [repr(one) for one in differing]
    names = [one.name for one in histories]
    if len(set(zip(groups, names, strict=True))) == len(set(groups)) == len(set(names)):
        return names
    short = short_names(list(differing[0]))
    return [", ".join(f"{short[key]}={_value(value)}" for key, value in one.items()) or "same" for one in differing]


def _row(history: History, differs: Mapping[str, Any], variant: str) -> Row:
    figures: dict[str, tuple[float, float]] = {}
    if test := history.test:
        figures |= {f"test {name}": (value, test.ci95.get(name, math.nan)) for name, value in test.values.items()}
    if best := history.best_validation:
        values = {"L": best["L"], **(best.get("metrics") or {})}
        widths = {"L": best.get("L_ci95"), **(best.get("metrics_ci95") or {})}
        figures |= {f"validation {name}": (number(value), number(widths.get(name))) for name, value in values.items()}
    elif history.proposals and history.proposals[0].status == "ok":
        figures["best L"] = (history.proposals[0].L, math.nan)
    steps = len({record["step"] for record in history.of("evaluation")})
    seed = int(history.config.get("seed", 0))
    return Row(history.run, history.name, seed, history.status, differs, variant, steps, history.seconds, figures)


def _differences(rows: Sequence[Row]) -> Iterable[Difference]:
    groups: dict[str, dict[int, Row]] = {}
    for row in rows:
        groups.setdefault(row.variant, {})[row.seed] = row
    reference = rows[0].variant
    for variant, members in groups.items():
        if variant == reference:
            continue
        for name in _comparable([*members.values(), *groups[reference].values()]):
            pairs = {
                seed: (members[seed].figures[name][0], groups[reference][seed].figures[name][0])
                for seed in sorted(members.keys() & groups[reference].keys())
                if name in members[seed].figures and name in groups[reference][seed].figures
            }
            if pairs:
                ours, theirs = (np.array([pair[side] for pair in pairs.values()]) for side in (0, 1))
                yield Difference(variant, reference, name, tuple(pairs), *paired_ci95(ours, theirs))


def _comparable(rows: Sequence[Row]) -> list[str]:
    names = _ordered(name for row in rows for name in row.figures)
    return [name for name in names if name.startswith("test ")] or names


def _ordered(names: Iterable[str]) -> list[str]:
    """Test before validation before the best proposal; within each, L last, as people look at the metric first."""
    kinds = ("test", "validation", "best")
    return sorted(
        dict.fromkeys(names), key=lambda name: (kinds.index(name.split(" ", 1)[0]), name.endswith(" L"), name)
    )


def _heading(name: str) -> str:
    kind, _, metric = name.partition(" ")
    return f"{kind} {heading(metric)}"


def _cell(name: str, value: float, ci95: float, *, signed: bool = False) -> str:
    return figure(name.partition(" ")[2], value, ci95, signed=signed)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _aligned(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    rows = [list(headers), *map(list, cells)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(headers))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("─" * width for width in widths), *lines[1:]]


def _markdown(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    rows = [headers, ["---"] * len(headers), *cells]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    )
