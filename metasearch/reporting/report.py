"""The report of one run: a single HTML file made of what its directory holds."""

from __future__ import annotations

import base64
import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metasearch.core.files import write_file
from metasearch.reporting import page, tables
from metasearch.reporting.history import History, number
from metasearch.reporting.numbers import duration, figure, heading, plain
from metasearch.reporting.page import Markup, join, section

if TYPE_CHECKING:
    from metasearch.reporting.style import Plot

__all__ = ["plots", "write_report"]

_PICTURE_BYTES = 1_200_000
"""Stored pictures beyond this, all together, are named instead of shown, so that the file stays small."""

_CONFIG_CHARACTERS = 100_000


def write_report(run: Path) -> Path:
    """Writes ``report.html`` into a run directory and returns its path.

    The run may be unfinished or may not have begun; what is not there yet is left out. What ``figures/`` holds is
    shown: ``*.png`` as they are, ``*.json`` with ``x_label``, ``y_label`` and ``series`` (each ``name``, ``x``, ``y``,
    ``ci95``) as curves, other JSON as text, ``episodes.npz`` as adapted episodes.

    Raises:
        JournalError: if the journal is damaged before its end.
        ConfigError: if results.json is not JSON.
    """
    history = History(run)
    drawings = {plot.name: plot for plot in _all_plots(history)}
    text = page.document(
        f"{history.name} – metasearch",
        _head(history),
        section("Result", *_result(history, drawings)),
        section("The search", *_search(history, drawings)),
        section("Proposals", tables.proposals(history)),
        section("Adapted episodes", *_of(drawings, "episode-")),
        section("Figures", *_of(drawings, "stored-"), *_stored(history)),
        section("φ", _phi(history)),
        section("What happened", tables.events(history), tables.failures(history)),
        section("How to repeat it", *_repeat(history)),
    )
    write_file(history.directory.report_path, text)
    return history.directory.report_path


def plots(run: Path) -> dict[str, bytes]:
    """The report's plots as PNG, by name (without an ending), as artifacts for a tracking server.

    Raises:
        JournalError, ConfigError: as :func:`write_report` does.
    """
    from metasearch.reporting.style import png

    return {plot.name: png(plot) for plot in _all_plots(History(run))}


def _all_plots(history: History) -> list[Plot]:
    from metasearch.reporting.gallery import gallery

    return gallery(history)


def _head(history: History) -> Markup:
    title = Markup(f"<header><h1>{page.escape(history.name)} {page.badge(history.status)}</h1>")
    description = history.config.get("description") or ""
    where = f"run {history.run} · seed {history.config.get('seed', 0)}"
    reason = next((str(one.get("reason", "")) for one in history.records[-1:] if one["type"] == "end"), "")
    said = f" · {reason}" if reason else ""
    return join(
        [
            title,
            Markup(f"<p>{page.escape(description)}</p>") if description else "",
            Markup(f'<p class="quiet">{page.escape(where + said)}</p>'),
            page.cards(_cards(history)),
            Markup("</header>"),
        ]
    )


def _cards(history: History) -> list[tuple[str, str, str]]:
    metric, items = history.metric, []
    if (test := history.test) and metric in test.values:
        value = figure(metric, test.values[metric], test.ci95.get(metric, math.nan))
        items.append((f"test {heading(metric)}", value, f"{plain(test.episodes)} episodes"))
    if history.paper and history.paper["metric"] == metric:
        value = figure(metric, history.paper["value"], history.paper["interval"])
        items.append((f"published {heading(metric)}", value, str(history.paper.get("method", ""))))
    if best := history.best_validation:
        named = {"L": best["L"], **(best.get("metrics") or {})}
        widths = {"L": best.get("L_ci95"), **(best.get("metrics_ci95") or {})}
        value = figure(metric, number(named.get(metric)), number(widths.get(metric)))
        items.append((f"best validation {heading(metric)}", value, f"at outer step {best['step']:,}"))
    elif history.proposals and history.proposals[0].status == "ok":
        best_proposal = history.proposals[0]
        items.append(("best L(φ)", figure("L", best_proposal.L), f"proposal {best_proposal.id}"))
    return [*items, *_effort(history)]


def _effort(history: History) -> list[tuple[str, str, str]]:
    counts, budget = history.counts(), history.config.get("budget") or {}
    done = sum(counts.values())
    steps = len({record["step"] for record in history.of("evaluation")})
    bad = ", ".join(f"{count} {status}" for status, count in counts.items() if status != "ok")
    of_steps = f"of {budget['steps']:,} planned" if isinstance(budget.get("steps"), int) else ""
    of_evaluations = f"of {budget['evaluations']:,} planned" if isinstance(budget.get("evaluations"), int) else ""
    if history.proposals and of_evaluations:
        first = ("evaluations", f"{done:,}", ", ".join(part for part in (of_evaluations, bad) if part))
    else:
        first = ("outer steps", f"{steps:,}", ", ".join(part for part in (of_steps, bad) if part))
    tasks = history.evaluations.tasks
    learned = int(tasks[-1]) if len(tasks) else 0
    workers = history.start.get("workers")
    driven = f"{workers} worker{'s' if workers != 1 else ''}" if workers else ""
    return [
        first,
        ("time of driving", duration(history.seconds), driven),
        ("training tasks seen", f"{learned:,}", f"{done:,} evaluations of L(φ)"),
    ]


def _result(history: History, drawings: Mapping[str, Plot]) -> list[object]:
    protocol = history.results.get("protocol") or {}
    test = history.config.get("test") or {}
    note = "Figures are means over held-out test tasks ± the half-width of their 95 % intervals."
    if len(history.tests) > 1:
        note += " Differences join both intervals as those of independent means."
    final = tables.final(history)
    if not final:
        return []
    return [
        *_of(drawings, "final"),
        final,
        Markup(f'<p class="quiet">{note}</p>'),
        tables.paper_notes(history),
        page.details("Protocol", tables.mapping(protocol or {"test": test, "tasks": history.config.get("tasks")})),
    ]


def _search(history: History, drawings: Mapping[str, Plot]) -> list[object]:
    parts: list[object] = []
    for group in ("curves", "best"):
        panes = [
            (_TABS[name.rpartition("-")[2]], _inline(plot)) for name, plot in drawings.items() if name.startswith(group)
        ]
        if panes:
            parts.append(page.tabs(group, panes))
    further = ("gradient", "pareto", "schedule", "training", "importance", "slices", "parallel", "contours")
    return [*parts, *(picture for name in further for picture in _of(drawings, name))]


_TABS = {"steps": "by outer step", "evaluations": "by evaluation", "seconds": "by time", "tasks": "by tasks seen"}


def _of(drawings: Mapping[str, Plot], prefix: str) -> list[Markup]:
    return [_inline(plot) for name, plot in drawings.items() if name.startswith(prefix)]


def _inline(plot: Plot) -> Markup:
    from metasearch.reporting.style import png, svg

    # Photographs and drawings of tasks are smaller as pixels than as shapes.
    content = _image(png(plot, 130), plot.title) if plot.name.startswith("episode-") else svg(plot)
    return page.picture(content, plot.title, plot.caption)


def _image(content: bytes, title: str) -> str:
    return f'<img alt="{page.escape(title)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'


def _stored(history: History) -> list[Markup]:
    """Pictures the run stored, as long as there is room; and stored JSON that is no curve."""
    from metasearch.reporting.gallery import stored_json

    parts, room = [], _PICTURE_BYTES
    for path in sorted((history.path / "figures").glob("*.png")):
        size = path.stat().st_size
        if size <= room:
            room -= size
            parts.append(page.picture(_image(path.read_bytes(), path.stem), path.stem, path.stem.replace("_", " ")))
        else:
            text = f"figures/{path.name} ({size / 1e6:.1f} MB) is left out to keep this file small."
            parts.append(Markup(f'<p class="quiet">{page.escape(text)}</p>'))
    for name, content, drawn in stored_json(history):
        if not drawn:
            parts.append(page.details(name, page.listing(json.dumps(content, indent=1, ensure_ascii=False)[:20_000])))
    return parts


def _phi(history: History) -> Markup:
    manifest = history.manifest
    if not manifest:
        return Markup()
    tensors: Mapping[str, Any] = manifest.get("tensors") or {}
    size = sum(math.prod(info.get("shape") or [1]) for info in tensors.values())
    components = ", ".join(f"{slot}: {kind}" for slot, kind in (manifest.get("components") or {}).items())
    rows = [
        [name, " × ".join(map(str, info.get("shape", []))) or "scalar", info.get("dtype", "")]
        for name, info in tensors.items()
    ]
    count = f"{len(rows)} tensor{'s' if len(rows) != 1 else ''}"
    cut = f"the first 300 of {count}" if len(rows) > 300 else count
    selected = (manifest.get("provenance") or {}).get("selected_step")
    line = f"{size:,} learned numbers in {count}; {components or 'no components named'}"
    line += f"; selected at outer step {selected:,}" if isinstance(selected, int) else ""
    return join(
        [
            Markup(f"<p>{page.escape(line)}.</p>"),
            tables.mapping(manifest.get("choices") or {}),
            page.details(cut, page.table(["tensor", "shape", "dtype"], rows[:300], text_columns=3)) if rows else "",
        ]
    )


def _repeat(history: History) -> list[object]:
    config_path = f"{history.path.parent.name}/{history.path.name}/config.yaml"
    commands = [f"metasearch run {shlex.quote(config_path)}"]
    if command := history.results.get("command") or history.start.get("command"):
        commands.insert(0, f"{command}    # as it was started")
    if history.evaluations.step.size:
        commands.append(
            f"metasearch replay {shlex.quote(history.run)} --evaluation {history.of('evaluation')[-1]['id']}"
        )
    versions = {
        name: history.start.get(name)
        for name in ("versions", "numerics", "workers", "hostname", "platform", "seed_algorithm")
    }
    config = history.config_text
    if len(config) > _CONFIG_CHARACTERS:
        config = config[:_CONFIG_CHARACTERS] + "\n… (the rest is in config.yaml)"
    return [
        page.listing("\n".join(commands)),
        page.details(
            "Versions and numerics", tables.mapping({k: v for k, v in versions.items() if v not in (None, {}, "")})
        ),
        page.details("Configuration", page.listing(config)),
    ]
