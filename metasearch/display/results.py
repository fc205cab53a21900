"""The end of a search: its figures beside baselines and the paper, where phi lies, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metasearch.display.figures import count, duration, figure, place, with_width

__all__ = ["print_group", "print_outcome", "print_results", "reuse_lines"]

_LONGEST_URL = 1000
"""The page that compares runs has all of them in its address, which fills a screen."""

_COST = ("parameters", "seconds", "episodes")

_MOST_POINTS = 8
"""Of a Pareto set; results.json and the report have all of them."""


def print_outcome(outcome: Any, console: Console | None = None) -> None:
    """Says how a run ended: its figures, or why it stopped and how it goes on.

    Args:
        outcome: of ``metasearch.running.run`` and its like.
        console: where to; None is standard output.
    """
    console = console or Console(highlight=False)
    directory = outcome.directory
    if outcome.status == "finished" and outcome.results is not None:
        print_results(outcome.results, directory.path, outcome.urls, console)
        return
    reason = next(iter(outcome.reason.splitlines()), "")
    if outcome.status == "interrupted":
        reason = ""  # whoever stopped it knows
    _say(console, f"{directory.name}: {outcome.status}" + (f" ({reason})" if reason else ""))
    if outcome.status == "interrupted":
        _say(console, f"everything up to here is in {place(directory.path)}; go on with")
        _say(console, f"    metasearch resume {place(directory.path)}")
    else:
        _say(console, f"the record is in {place(directory.path)}; look at it with")
        _say(console, f"    metasearch report {place(directory.path)}")
    _pages(console, outcome.urls)


def print_results(
    results: Mapping[str, Any],
    path: Path | str,
    urls: Mapping[str, str] | None = None,
    console: Console | None = None,
) -> None:
    """Prints what results.json says, as a table and a few lines.

    Args:
        results: content of results.json.
        path: the run directory.
        urls: MLflow pages by name.
        console: where to; None is standard output.
    """
    console = console or Console(highlight=False)
    path = Path(path)
    console.print()
    _say(console, _summary(results))
    if results.get("test"):
        console.print(_table(results))
        _say(console, "  ± is a 95 % interval over episodes")
    _paper(console, results.get("paper") or {})
    _selected(console, results)
    _pareto(console, results)
    console.print()
    _row(console, "phi", place(path / results.get("phi", "phi")))
    if (path / "report.html").exists():
        _row(console, "report", place(path / "report.html"))
    _pages(console, urls or {})
    console.print()
    _say(console, "  use it:")
    for line in reuse_lines(results, path / results.get("phi", "phi")):
        _say(console, f"    {line}")


def reuse_lines(results: Mapping[str, Any], phi: Path) -> list[str]:
    """The lines of Python that use a phi, according to what it holds."""
    lines = ["import metasearch as ms", f'phi = ms.load("{place(phi)}")']
    test, held = results.get("test") or {}, _held(phi)
    if "update_rule" in held:
        lines.append("optimizer = phi.optimizer(model.parameters())  # in place of one of torch's, for any model")
    if held == {"update_rule"}:
        return lines
    if any(name.startswith("accuracy") for name in test):
        lines.append("labels = phi.classifier().fit(X, y).predict(X_new)  # a few labelled examples of new classes")
    elif test and held:
        lines.append("y_new = phi.regressor().fit(X, y).predict(X_new)  # a few examples of a new function")
    if "initialization" in held:
        lines.append("phi.initialize(model)  # the learned weights, in a network of your own")
    if "embedding" in held:
        lines.append("phi.embedding()  # the learned network, an ordinary module")
    choices = (results.get("selected") or {}).get("choices") or {}
    if "augmentation" in held or any(".augmentation." in name for name in choices):
        lines.append("augment = phi.augmentation()  # a transform for a data loader, or for batches on any device")
    if choices:
        lines.append("phi.phi.choices  # what was found")
    return lines


def _held(phi: Path) -> set[str]:
    """The slots of a stored phi that have tensors."""
    try:
        tensors = json.loads((phi / "manifest.json").read_text("utf-8")).get("tensors", {})
    except (OSError, ValueError):
        return set()
    return {name.partition(".")[0] for name in tensors}


def print_group(group: Any, console: Console | None = None) -> None:
    """Prints the table of several runs: a row a variant, mean over seeds, paired difference to the first."""
    console = console or Console(highlight=False)
    console.print()
    if not group.rows:
        _say(console, f"{group.path.name}: {group.status}; go on with")
        _say(console, f"    metasearch resume {place(group.path)}")
        return
    several = len(group.rows) > 1
    title = group.metric.replace(" of the best", "\nof the best")
    table = _grid("variant", title, "seeds", *(["difference\nto the first"] if several else []))
    for row in group.rows:
        apart = "" if row.difference is None else figure(group.metric, row.difference, row.difference_ci95)
        value = figure(group.metric, row.mean, row.ci95 if len(row.values) > 1 else None)
        table.add_row(row.variant, value, str(len(row.values)), *([apart] if several else []))
    console.print(table)
    _say(console, "  ± is a 95 % interval over seeds" + ("; differences are paired by seed" if several else ""))
    _row(console, "runs", place(group.path))


def _summary(results: Mapping[str, Any]) -> str:
    work = [
        count(results["steps"], "step"),
        count(results["evaluations"], "evaluation"),
        count(results["tasks"], "task"),
    ]
    return f"{results['name']} {results['status']}: {', '.join(work)} in {duration(results['seconds'])}, test included"


def _table(results: Mapping[str, Any]) -> Table:
    test, paper = results["test"], results.get("paper")
    metrics = [*_metrics(test), "L"]
    split = (results.get("protocol") or {}).get("split") or "test"
    table = _grid(f"on held-out tasks ({split})", *metrics, "episodes")
    rows: list[tuple[str, Mapping[str, Any], str]] = [("this search", test, "bold")]
    rows += [(name, row, "") for name, row in (results.get("baselines") or {}).items()]
    for name, row, style in rows:
        cells = [figure(metric, row[metric], row.get(f"{metric}_ci95")) if metric in row else "" for metric in metrics]
        table.add_row(name, *cells, f"{row['episodes']:,}", style=style)
    if paper:
        metric = paper.get("metric", "accuracy")
        value = with_width(paper["value"], paper.get("interval"), percent="accuracy" in metric)
        table.add_row(f"paper: {paper['method']}", *(value if name == metric else "" for name in metrics), "")
    return table


def _metrics(row: Mapping[str, Any]) -> list[str]:
    return [name for name in row if f"{name}_ci95" in row and name != "L" and name not in _COST]


def _paper(console: Console, paper: Mapping[str, Any]) -> None:
    if paper.get("source"):
        _say(console, f"  the paper: {paper['source']}")
    for line in paper.get("differences") or ():
        _say(console, f"  other than in the paper: {line}")


def _selected(console: Console, results: Mapping[str, Any]) -> None:
    """What phi was selected by; the choices of a search over choices."""
    selected = results.get("selected")
    if not selected:
        return
    if "evaluation" not in selected:
        figures = ", ".join(
            f"{name} {figure(name, value)}"
            for name, value in selected.items()
            if name != "step" and isinstance(value, float)
        )
        chosen = f"that of step {selected['step']:,}, the best by validation ({figures})"
        again = results.get("refitted")
        if again is not None:
            changes = ", ".join(f"{key} = {value}" for key, value in again["changes"].items())
            _say(console, f"  phi was trained again from the start for {again['steps']:,} steps, with {changes}")
        at = ", at" if "choices" in selected else ""
        _say(console, f"  {'phi' if again is None else 'before_refit'} is {chosen}{at}")
    else:
        number = selected["evaluation"]
        _say(console, f"  the best of its evaluations is number {number}, L {figure('L', selected['L'])}, at")
    for name, value in (selected.get("choices") or {}).items():
        _say(console, f"    {name} = {_choice(value)}")


def _pareto(console: Console, results: Mapping[str, Any]) -> None:
    """The best compromises between several objectives: how many there are, and some from one end to the other."""
    objectives, points = results.get("objectives") or {}, results.get("pareto") or []
    if len(objectives) < 2:
        return
    if not points:
        _say(console, "  no evaluation keeps all constraints, so the Pareto set is empty")
        return
    from metasearch.reporting.tables import short_names

    steps = min(len(points), _MOST_POINTS) - 1
    shown = [points[round(index * (len(points) - 1) / max(steps, 1))] for index in range(steps + 1)]
    names = short_names(list(dict.fromkeys(name for point in shown for name in point["choices"])))
    table = _grid("evaluation", *(f"{name} ({way})" for name, way in objectives.items()))
    table.columns[0].min_width = None
    table.add_column("at", overflow="fold")
    for point in shown:
        at = ", ".join(f"{names[name]} = {_choice(value)}" for name, value in point["choices"].items())
        table.add_row(str(point["evaluation"]), *(figure(name, point["values"][name]) for name in objectives), at)
    left = len(points) - len(shown)
    more = f"; {left} between these are in results.json and the report" if left else ""
    _say(console, f"  {count(len(points), 'evaluation')} of {results['evaluations']:,} on the Pareto front{more}")
    console.print(table)


def _choice(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _pages(console: Console, urls: Mapping[str, str]) -> None:
    """The pages of MLflow; a database has none until somebody serves it."""
    pages = {name: url for name, url in urls.items() if name != "serve"}
    titles = {"run": "MLflow", "trials": "  in a table", "compare": "  compared"}
    for name, url in pages.items():
        shown = url if len(url) <= _LONGEST_URL else "select runs on that page, then Compare"
        _row(console, titles.get(name, f"  {name}"), shown)
    if pages and "serve" in urls:
        _row(console, "", "(these pages are there while `metasearch ui` runs)")


def _row(console: Console, name: str, text: str) -> None:
    _say(console, f"  {name:<11} {text}")


def _say(console: Console, text: str) -> None:
    """A line that is never broken, so that paths and addresses can be copied."""
    if text:
        console.print(Text(text), soft_wrap=True)


def _grid(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=True)
    table.add_column(first, overflow="fold", min_width=20)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
