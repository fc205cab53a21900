"""The tables of a run's report."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from metasearch.reporting.history import History, Measured, Proposed
from metasearch.reporting.numbers import NONE, duration, figure, heading, plain
from metasearch.reporting.page import Markup, escape, join, table

__all__ = ["dotted", "events", "failures", "final", "mapping", "paper_notes", "proposals", "short_names"]

_PROPOSALS, _EVENTS, _COLUMNS = 50, 100, 10


def final(history: History) -> Markup:
    """This search, its baselines and the paper: figures, intervals, differences and what they rest on."""
    tests, paper = history.tests, history.paper
    if not tests and not paper:
        return Markup()
    metrics = list(dict.fromkeys([history.metric, *(name for one in tests for name in one.values)]))
    headers = ["", *(heading(name) for name in metrics), "difference to this search", "episodes", "parameters", "time"]
    rows: list[list[object]] = [_final_row(one, metrics, history) for one in tests]
    marks = ["ours" if one.name == "metasearch" else "" for one in tests]
    if paper:
        value, interval = paper["value"], paper["interval"]
        published = [figure(name, value, interval) if name == paper["metric"] else NONE for name in metrics]
        known = paper["metric"] == history.metric
        gap = _difference(history, value, interval) if known else NONE
        rows.append([f"published: {paper.get('method', '')}", *published, gap, NONE, NONE, NONE])
        marks.append("published")
    return table(headers, rows, marked=marks)


def paper_notes(history: History) -> Markup:
    """Where the published figure comes from, and how this experiment departs from it."""
    paper = history.paper
    if not paper:
        return Markup()
    source = f"Published figure: {paper.get('method', '')}. {paper.get('source', '')}"
    items = join(Markup(f"<li>{escape(one)}</li>") for one in paper.get("differences") or ())
    differences = Markup(f"<p>Where this experiment departs from it:</p><ul>{items}</ul>") if items else ""
    return join([Markup(f'<p class="quiet">{escape(source)}</p>'), differences])


def proposals(history: History) -> Markup:
    """Proposals with their choices, best first."""
    ranked = history.proposals
    if not ranked:
        return Markup()
    shown = _shown(ranked)
    names = list(dict.fromkeys(name for one in shown for name in one.choices))
    wide = len(names) <= _COLUMNS
    metrics = list(dict.fromkeys(name for one in shown for name in one.metrics or () if name != "L"))[:2]
    labels = [
        Markup(f'<span title="{escape(name)}">{escape(short)}</span>') for name, short in short_names(names).items()
    ]
    headers = [
        "#",
        "proposal",
        *(labels if wide else ["φ"]),
        "L(φ)",
        *(heading(name) for name in metrics),
        "time",
        "status",
    ]
    rows = [_proposal_row(place, one, names if wide else None, metrics) for place, one in enumerate(shown, 1)]
    result = table(
        headers,
        rows,
        text_columns=2 + (len(names) if wide else 1),
        last_is_text=True,
        marked=[one.status for one in shown],
    )
    if len(shown) < len(ranked):
        counts = ", ".join(f"{count} {status}" for status, count in Counter(one.status for one in ranked).items())
        result = join([result, Markup(f'<p class="quiet">{len(shown)} of {len(ranked):,} proposals ({counts}).</p>')])
    return result


def failures(history: History) -> Markup:
    """Evaluations that failed, by message."""
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], int] = {}
    for record in history.of("evaluation"):
        if record.get("failure"):
            key = (str(record["failure"].get("kind", "")), str(record["failure"].get("message", "")))
            counts[key] += 1
            first.setdefault(key, record["id"])
    rows = [
        [kind, _cut(message, 300), count, first[kind, message]] for (kind, message), count in counts.most_common(20)
    ]
    return table(["failure", "message", "evaluations", "first"], rows, text_columns=2) if rows else Markup()


def events(history: History) -> Markup:
    """Resumes, changes of shard size, ends: what happened to the run besides evaluations."""
    found = [record for record in history.records if record["type"] in ("start", "event", "end")]
    rows = []
    for record in found[:_EVENTS]:
        if record["type"] == "end":
            what, detail = str(record["status"]), str(record.get("reason", ""))
        else:
            what, detail = str(record.get("event", "start")), _words(record.get("detail"))
        when = datetime.fromtimestamp(record["time"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        rows.append([when, duration(record["elapsed"]), what, _cut(detail, 400)])
    more = len(found) - len(rows)
    note = Markup(f'<p class="quiet">and {more} more in the journal</p>') if more > 0 else ""
    return join([table(["time", "driving time", "event", "detail"], rows, text_columns=4), note]) if rows else Markup()


def mapping(values: Mapping[str, Any]) -> Markup:
    """Names and values, nested ones by dotted name."""
    rows = [[name, _text(value)] for name, value in dotted(values).items() if value is not None]
    return table([], rows, text_columns=2) if rows else Markup()


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name; lists stay whole.

    >>> dotted({"a": {"b": 1}, "c": [2, 3]})
    {'a.b': 1, 'c': [2, 3]}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= dotted(value, f"{name}.")
        else:
            found[name] = value
    return found


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each dotted name with the shortest ending of two parts or more that no other of them has.

    >>> short_names(["learner.steps.train", "searcher.lr"])
    {'learner.steps.train': 'steps.train', 'searcher.lr': 'searcher.lr'}
    """
    found = {}
    for name in names:
        parts = name.split(".")
        endings = [".".join(parts[-size:]) for size in range(min(2, len(parts)), len(parts) + 1)]
        others = [f".{other}" for other in names if other != name]
        found[name] = next((one for one in endings if not any(other.endswith(f".{one}") for other in others)), name)
    return found


def _final_row(one: Measured, metrics: Sequence[str], history: History) -> list[object]:
    cells = [
        figure(name, one.values[name], one.ci95.get(name, math.nan)) if name in one.values else NONE for name in metrics
    ]
    ours = one.name == "metasearch"
    value, ci95 = (one.values.get(history.metric, math.nan), one.ci95.get(history.metric, math.nan))
    gap = NONE if ours else _difference(history, value, ci95)
    return [
        "this search" if ours else one.name,
        *cells,
        gap,
        plain(one.episodes),
        plain(one.parameters),
        duration(one.seconds),
    ]


def _difference(history: History, value: float, ci95: float) -> str:
    """Against this search's own figure.

    The intervals are joined as those of independent means, which is on the safe side where both saw the same episodes.
    """
    own = history.test
    if own is None or math.isnan(value) or history.metric not in own.values:
        return NONE
    width = math.hypot(ci95, own.ci95.get(history.metric, math.nan))
    return figure(history.metric, value - own.values[history.metric], width, signed=True)


def _shown(ranked: Sequence[Proposed]) -> list[Proposed]:
    """The best, with a few places kept for what diverged or failed, so that it is not overlooked."""
    bad = [one for one in ranked if one.status in ("diverged", "failed")]
    if len(ranked) <= _PROPOSALS:
        return list(ranked)
    room = max(6, _PROPOSALS - sum(one.status == "ok" for one in ranked)) // 2
    kept = [one for status in ("diverged", "failed") for one in [one for one in bad if one.status == status][:room]]
    good = [one for one in ranked if one.status == "ok"][: _PROPOSALS - len(kept)]
    return [*good, *kept]


def _proposal_row(place: int, one: Proposed, names: Sequence[str] | None, metrics: Sequence[str]) -> list[object]:
    if names is None:
        chosen: list[object] = [", ".join(f"{name}={_text(value)}" for name, value in one.choices.items())]
    else:
        chosen = [_text(one.choices[name]) if name in one.choices else "" for name in names]
    loss = NONE if one.status == "open" else figure("L", one.L)
    values = one.metrics or {}
    measured = [figure(name, values[name]) if name in values else NONE for name in metrics]
    status = f"{one.status}: {_cut(one.message, 120)}" if one.message else one.status
    return [place if one.status == "ok" else "", one.id, *chosen, loss, *measured, duration(one.seconds), status]


def _words(detail: Any) -> str:
    if isinstance(detail, Mapping):
        return ", ".join(f"{name}: {_text(value)}" for name, value in dotted(detail).items())
    return "" if detail is None else _text(detail)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
