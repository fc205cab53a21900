"""The command of an experiment in parts: what its arguments are, how parts are worked through, what they leave."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from metasearch.core.files import write_file
from metasearch.reporting.style import Plot, png

from .jobs import Job, Row, Store
from .setting import Plan
from .tables import averaged, csv_of

__all__ = ["arguments", "work", "write"]

Parts = Mapping[str, Callable[[Plan], list[Job]]]


def arguments(name: str, text: str | None, parts: Parts) -> argparse.ArgumentParser:
    """A parser of what all such commands take.

    Args:
        name: of the experiment: ``python -m experiments.NAME`` writes to ``runs/NAME``.
        text: what it is about.
        parts: by name.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", nargs="+", choices=list(parts), default=list(parts), help="all if none is named")
    parser.add_argument("--out", type=Path, default=Path("runs") / name)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all budgets")
    parser.add_argument("--seeds", type=int, default=2, help="searches of each kind")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no job begins after this time")
    return parser


def work(
    given: argparse.Namespace,
    parts: Parts,
    plan: Plan,
    written: Callable[[str, Store, list[Job], Path], None],
) -> None:
    """Does the jobs of the parts that are asked for, as long as there is time, and writes what each has found.

    Args:
        given: arguments of the command.
        parts: by name.
        plan: what its budget is.
        written: writes the files of a part: its name, the store, its jobs, and where to.
    """
    logging.getLogger("metasearch").setLevel(logging.ERROR)  # what each search starts from, a hundred times
    end, store = time.monotonic() + given.seconds, Store(given.out)
    for part in given.part:
        print(f"{part}: ", end="")
        jobs = parts[part](plan)
        whole = store.work(jobs, given.scale, end)
        written(part, store, jobs, given.out)
        if not whole:
            print("the time is over; the same command goes on")
            return


def write(
    part: str,
    rows: Sequence[Row],
    out: Path,
    table: Callable[[Sequence[Row]], str],
    figure: Callable[[Sequence[Row]], Figure],
) -> None:
    """Table, figure and all measurements of what is done so far; nothing if that is nothing.

    Args:
        part: names the files.
        rows: of its jobs.
        out: where to.
        table: of averaged rows.
        figure: of averaged rows.
    """
    if not rows:
        return
    means = averaged(rows)
    text = table(means)
    write_file(out / f"{part}.csv", csv_of(rows).encode())
    write_file(out / f"{part}.md", text.encode())
    write_file(out / f"{part}.png", png(Plot(part, part, lambda: figure(means))))
    print(f"{text}\n{out / part}.png, .md, .csv")
