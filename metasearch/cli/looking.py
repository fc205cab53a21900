"""Commands that read what runs have left."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metasearch.core.errors import ConfigError
from metasearch.display.figures import duration, figure, place

__all__ = ["compare", "export", "report", "runs", "show"]

_SEARCH_COLUMNS = ("run", "status", "steps", "evaluations", "best by validation", "started", "time")


def runs(given: Namespace) -> int:
    """``metasearch runs``: newest last, those of groups (seeds, variants) after the others."""
    from metasearch.tracking.runs import list_runs

    groups = sorted(path.parent for path in Path(given.runs).glob("*/group.json"))
    found = [*list_runs(given.runs), *(one for group in groups for one in list_runs(group))]
    if not found:
        print(f"no runs in {given.runs}; start one with: metasearch run FILE")
        return 0
    table = _table(*_SEARCH_COLUMNS)
    for one in found:
        began = "" if one.started is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(one.started))
        table.add_row(
            str(one.path.relative_to(Path(given.runs).absolute())),
            one.status,
            f"{one.steps:,}",
            f"{one.evaluations:,}",
            _best(one.best),
            began,
            duration(one.seconds),
        )
    _print(table)
    return 0


def compare(given: Namespace) -> int:
    """``metasearch compare RUN RUN ...``."""
    from metasearch.reporting import compare as compared
    from metasearch.tracking.rundir import RunDirectory

    comparison = compared([RunDirectory.open(one, given.runs).path for one in given.run])
    print(getattr(comparison, given.format)().rstrip())
    return 0


def report(given: Namespace) -> int:
    """``metasearch report RUN``."""
    from metasearch.reporting import write_report
    from metasearch.tracking.rundir import RunDirectory

    print(place(write_report(RunDirectory.open(given.run, given.runs).path)))
    return 0


def show(given: Namespace) -> int:
    """``metasearch show PHI [--draw FILE]``."""
    from metasearch.core.errors import ArtifactError
    from metasearch.loaded import load

    learned = load(given.phi, runs=given.runs)
    print(learned)
    try:
        architecture = learned.architecture()
    except ArtifactError:
        if given.draw:
            raise
        return 0
    print(architecture.describe(learned.manifest.spec.get("outputs", 10)))
    if given.draw:
        print(place(architecture.draw(given.draw)))
    return 0


def export(given: Namespace) -> int:
    """``metasearch export PHI --to PLACE``, with ``--support FOLDER`` as a model to serve."""
    from metasearch.loaded import load

    target = Path(given.to)
    if given.support is not None:
        if target.suffix:
            raise ConfigError("--to", f"{given.to!r} has an ending; with --support expected an empty or new folder")
        phi = load(given.phi, runs=given.runs)
        X, y = phi.labelled_images(given.support)
        few = phi.classifier().fit(X, y)
        written = place(few.save_model(target, input_example=X[:1]))
        print(f"{written}\n{len(X)} pictures of {len(few.classes_)} classes learned: {', '.join(few.classes_)}")
        print(f"serve it with mlflow models serve -m {written} --env-manager local")
        return 0
    if target.suffix and target.suffix not in _READERS:
        raise ConfigError(
            "--to", f"{given.to!r} ends in {target.suffix}; expected a folder, .safetensors, .pt or .json"
        )
    written = place(load(given.phi, runs=given.runs).save(target))
    print(f"{written}\nload it with {_READERS[target.suffix].format(path=written)}")
    return 0


_READERS = {
    "": 'metasearch.load("{path}")',
    ".safetensors": 'model.load_state_dict(safetensors.torch.load_file("{path}"))',
    ".json": 'metasearch.augment.Policy.from_json(pathlib.Path("{path}"))',
    ".pt": 'model.load_state_dict(torch.load("{path}"))',
}


def _best(figures: Mapping[str, float] | None) -> str:
    """The first metric of a validation, else its L."""
    if not figures:
        return ""
    name = next((name for name in figures if name != "L"), "L")
    return f"{name} {figure(name, figures[name])}"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _print(table: Table) -> None:
    """Full width where nobody has a terminal, so that lines stay whole for other programs."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(table if table.rows else Text("nothing to show"))
