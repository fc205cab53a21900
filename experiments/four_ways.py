"""The searches of four_ways.yaml side by side, under equal numbers of inner steps:

    python experiments/four_ways.py [--seeds 5] [--seconds 600] [--set a.b=c] [--out runs/four_ways]

Every run is a folder of --out, so a comparison that was stopped (or ended by --seconds) goes on where it was, and
--seeds 5 adds to 3. Writes curves.png and table.md there: L on validation tasks of what each search would hand over if
it ended there, its best by validation so far; and L on test tasks of what it hands over in the end, with the difference
to random search; means and 95 % intervals (Student's t) over seeds. Validated are the present rates of the gradients
and, of the others, those of the lowest L so far, which one task in a hundred may still make diverge: 16 tasks are few.
A step with its gradient counts as one inner step; the seconds of one core, validation and test included, say what it
costs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from matplotlib.figure import Figure

from metasearch.core.statistics import paired_ci95
from metasearch.groups import expand
from metasearch.reporting.style import Plot, axes_of, new_figure, png
from metasearch.resolution import resolve
from metasearch.running import Silent, resume, run
from metasearch.tracking import RunDirectory, read
from metasearch.trees import override
from metasearch.trees import read as read_tree

FILE = Path(__file__).with_name("four_ways.yaml")
COLOURS = ("#6b7480", "#d55e00", "#e69f00", "#f0c000", "#0072b2", "#56b4e9", "#009e73", "#7fc97f")
REFERENCE = "random"


@dataclass(frozen=True)
class Curve:
    """One variant over its seeds.

    Args:
        inner_steps: ``[points]``, taken up to each validation.
        along: ``[seeds, points]``, L on validation tasks, the lowest up to each.
        test: ``[seeds]``, L on test tasks of what was selected.
        start: ``[seeds]``, L on the same tasks of the rates as they are before any search.
        seconds: ``[seeds]``, of one core.
    """

    inner_steps: np.ndarray
    along: np.ndarray
    test: np.ndarray
    start: np.ndarray
    seconds: np.ndarray


def steps_of(member: Mapping[str, Any]) -> int:
    """Inner steps in one outer step of an experiment."""
    evaluation = member["evaluation"]
    estimator = evaluation["estimator"]
    settings = {"type": estimator} if isinstance(estimator, str) else estimator
    sides = 2 if settings["type"] in ("es", "pes") else 1
    return int(evaluation["tasks"] * sides * settings.get("steps", member["learner"]["steps"]))


def search(members: Mapping[str, Mapping[str, Any]], folder: Path, seconds: float) -> None:
    """Runs or continues what has not ended, until the time is over."""
    end = time.monotonic() + seconds
    for name, member in members.items():
        if (folder / name / "results.json").exists():
            continue
        if time.monotonic() > end:
            return
        begun, cost = time.process_time(), folder / name / "cpu_seconds"
        before = float(cost.read_text()) if cost.exists() else 0.0
        try:
            if (folder / name / "config.yaml").exists():
                resume(folder / name, root=folder, listener=Silent())
            else:
                run(resolve(member, FILE.parent), root=folder, folder=name, listener=Silent())
        finally:
            cost.write_text(f"{before + time.process_time() - begun:.3f}")
        print(f"{name}: {float(cost.read_text()):.1f} s of one core", flush=True)


def curves(members: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, Curve]:
    """What has ended, by variant; seeds that not all variants have are left out."""
    done: dict[str, dict[int, Path]] = {}
    for name, member in members.items():
        if (folder / name / "results.json").exists():
            done.setdefault(name.rpartition("-")[0], {})[member["seed"]] = folder / name
    names = {name.rpartition("-")[0]: member for name, member in members.items()}
    seeds = sorted(set.intersection(*(set(done.get(name, {})) for name in names)))
    found: dict[str, Curve] = {}
    for variant, member in names.items():
        runs = [done[variant][seed] for seed in seeds]
        if not runs:
            return {}
        ways = [[one for one in read(RunDirectory(path).journal_path) if one["type"] == "validation"] for path in runs]
        results = [json.loads((path / "results.json").read_text()) for path in runs]
        found[variant] = Curve(
            np.array([one["step"] for one in ways[0]]) * steps_of(member),
            np.minimum.accumulate([[_finite(one["L"]) for one in way] for way in ways], axis=1),
            np.array([one["test"]["L"] for one in results]),
            np.array([one["baselines"]["random"]["L"] for one in results]),
            np.array([float((path / "cpu_seconds").read_text()) for path in runs]),
        )
    return found


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval over seeds, by Student's t; nan for one seed."""
    with np.errstate(invalid="ignore"):  # a best that still diverges on a task has no interval
        return paired_ci95(values, np.zeros(len(values)))


def markdown(found: Mapping[str, Curve]) -> str:
    """The table."""
    seeds = len(found[REFERENCE].test)
    end = int(found[REFERENCE].inner_steps[-1])
    lines = [
        f"L on held-out tasks (lower is better), {seeds} seeds, {end:,} inner steps each",
        "",
        "| search | validation, at a quarter | at half | at the end | test | test, less random's | s of one core |",
        "|---|---|---|---|---|---|---|",
    ]
    start = found[REFERENCE].start
    lines.append(f"| none: the start, 0.01 | | | | {_cell(*interval(start))} | {_paired(start, found)} | |")
    for variant, curve in found.items():
        along = [_cell(*interval(curve.along[:, _at(curve, share * end)])) for share in (0.25, 0.5, 1.0)]
        apart = "" if variant == REFERENCE else _paired(curve.test, found)
        cells = [variant, *along, _cell(*interval(curve.test)), apart, f"{curve.seconds.mean():.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _at(curve: Curve, inner_steps: float) -> int:
    """The last point that is not beyond a number of inner steps (the first, if all are)."""
    return max(int(np.searchsorted(curve.inner_steps, inner_steps * (1 + 1e-9), "right")) - 1, 0)


def _paired(values: np.ndarray, found: Mapping[str, Curve]) -> str:
    return _cell(*interval(values - found[REFERENCE].test), signed=True)


def _cell(mean: float, width: float, *, signed: bool = False) -> str:
    shown = f"{mean:+.3f}" if signed else f"{mean:.3f}"
    return shown if math.isnan(width) else f"{shown} ± {width:.3f}"


def picture(found: Mapping[str, Curve]) -> Figure:
    """L on validation tasks against inner steps, mean and 95 % interval over seeds."""
    result = new_figure(8, 5)
    (axes,) = axes_of(result, 1, 1)
    for (variant, curve), colour in zip(found.items(), COLOURS, strict=False):
        mean, half = np.array([interval(column) for column in curve.along.T]).T
        axes.plot(curve.inner_steps, mean, lw=1.8, color=colour, label=variant)
        axes.fill_between(curve.inner_steps, mean - half, mean + half, color=colour, alpha=0.12, lw=0)
    axes.axhline(found[REFERENCE].start.mean(), color="#6b7480", lw=1, ls=":", label="0.01, no search")
    axes.set(title="Six learning rates", xlabel="inner steps", ylabel="L on held-out tasks")
    axes.set_ylim(0, 1.5 * found[REFERENCE].start.mean())
    axes.legend(ncols=2)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=math.inf, help="no new run begins after this time")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change the experiment")
    parser.add_argument("--out", type=Path, default=Path("runs/four_ways"))
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    tree = override(read_tree(FILE), given.set) | {"seeds": list(range(given.seeds))}
    members = dict(sorted(expand(tree).items(), key=lambda item: int(item[1]["seed"])))  # whole seeds first
    search(members, given.out, given.seconds)
    found = curves(members, given.out)
    if not found:
        print("no seed is complete yet; go on with the same command")
        return
    text = markdown(found)
    (given.out / "table.md").write_text(text, "utf-8")
    plot = Plot("curves", "L on held-out tasks against inner steps", lambda: picture(found))
    (given.out / "curves.png").write_bytes(png(plot))
    print(text)
    print(f"{given.out / 'table.md'}, {given.out / 'curves.png'}")


if __name__ == "__main__":
    main()
