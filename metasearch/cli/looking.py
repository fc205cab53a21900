"""Commands that read what runs have left."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metasearch.core.errors import ConfigError, nearest
from metasearch.display.figures import duration, figure, place

if TYPE_CHECKING:
    from torch import Tensor

    from metasearch.artifacts import StoredPhi

__all__ = ["compare", "export", "report", "runs"]

_SEARCH_COLUMNS = ("run", "status", "steps", "evaluations", "best by validation", "started", "time")


def runs(given: Namespace) -> int:
    """``metasearch runs``: newest last."""
    from metasearch.tracking.runs import list_runs

    found = list_runs(given.runs)
    if not found:
        print(f"no runs in {given.runs}; start one with: metasearch run FILE")
        return 0
    table = _table(*_SEARCH_COLUMNS)
    for one in found:
        began = "" if one.started is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(one.started))
        table.add_row(
            one.path.name,
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
    from metasearch.reporting import compare as rows_of
    from metasearch.tracking.rundir import RunDirectory

    rows = rows_of([RunDirectory.open(one, given.runs).path for one in given.run])
    columns = list(dict.fromkeys(name for row in rows for name in row if not name.endswith("_ci95")))
    table = _table(*columns)
    for row in rows:
        table.add_row(*(_cell(name, row) for name in columns))
    _print(table)
    return 0


def report(given: Namespace) -> int:
    """``metasearch report RUN``."""
    from metasearch.reporting import write_report
    from metasearch.tracking.rundir import RunDirectory

    print(place(write_report(RunDirectory.open(given.run, given.runs).path)))
    return 0


def export(given: Namespace) -> int:
    """``metasearch export PHI --to PLACE``."""
    from metasearch import artifacts
    from metasearch.cli.references import phi_folder

    stored = artifacts.load(phi_folder(given.phi, given.runs))
    target = Path(given.to)
    if target.suffix in (".pt", ".pth", ".safetensors"):
        _write_tensors(stored, target, given.slot)
        return 0
    if target.suffix:
        raise ConfigError("--to", f"{given.to!r} ends in {target.suffix}; expected a folder, .safetensors or .pt")
    if given.slot:
        raise ConfigError("--slot", "belongs to a file (.safetensors, .pt); a folder holds the whole phi")
    artifacts.save(target, stored.phi, stored.manifest)
    print(f'{place(target)}: load it with metasearch.load("{place(target)}")')
    return 0


def _write_tensors(stored: StoredPhi, target: Path, slot: str | None) -> None:
    tensors = _chosen(stored, slot or ("initialization" if target.suffix != ".safetensors" else None))
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".safetensors":
        from safetensors.torch import save_file

        origin = {"run": stored.manifest.provenance.run, "step": str(stored.manifest.provenance.selected_step)}
        save_file({name: value.contiguous() for name, value in tensors.items()}, target, metadata=origin)
        hint = f'safetensors.torch.load_file("{place(target)}")'
    else:
        import torch

        torch.save(tensors, target)
        hint = f'model.load_state_dict(torch.load("{place(target)}"))'
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in tensors.items())
    print(f"{place(target)}: {shapes}\nload it with {hint}")


def _chosen(stored: StoredPhi, slot: str | None) -> dict[str, Tensor]:
    """The tensors and buffers of one slot, their names without it; all with full names if none is given."""
    every = {**stored.phi.tensors, **stored.phi.buffers}
    tensors = every if slot is None else {**stored.phi.part(slot), **stored.phi.buffers_of(slot)}
    if not tensors:
        slots = {name.partition(".")[0] for name in every}
        problem = (
            f"has no tensors; {nearest(slot, slots)}" if slot and slots else "this phi has no tensors, only choices"
        )
        raise ConfigError("--slot", f"{slot!r} {problem}" if slot and slots else f"{problem}; export it to a folder")
    return tensors


def _best(figures: Mapping[str, float] | None) -> str:
    """The first metric of a validation, else its L."""
    if not figures:
        return ""
    name = next((name for name in figures if name != "L"), "L")
    return f"{name} {figure(name, figures[name])}"


def _cell(name: str, row: Mapping[str, Any]) -> str:
    value = row.get(name)
    if isinstance(value, float):
        return figure(name, value, row.get(f"{name}_ci95"))
    return (
        "" if value is None else f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    )


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
