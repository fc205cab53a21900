"""Searchers of choices on tables of trained architectures, under equal numbers of evaluations:

    python experiments/nas_tables.py [--seeds 200] [--slow-seeds 20] [--seconds 480] [--workers 2]

Every method searches each table with the seeds 0, 1, 2 ..., sees validation only and is scored by the test accuracy of
the best it has seen by validation. What has been searched is kept in the folder --out, so a run that was stopped (or
ended by --seconds) goes on where it was, and --seeds 400 adds to 200. Writes table.md and curves.png there: the mean
over seeds with 95 % intervals, the regret (the highest test accuracy of the table less what was found, in points) after
50, 100, 200 and 500 evaluations, and the difference to random search with the same seeds.

No setting was chosen by looking at these tables: they are the defaults, and for the policies those with which a
separable toy space is learned in some hundred evaluations (tests/searchers).
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from matplotlib.figure import Figure

import metasearch.searchers  # noqa: F401  (lists the built-in searchers)
from metasearch.core.registry import build
from metasearch.core.statistics import mean_ci95, paired_ci95
from metasearch.core.values import Estimate, Evaluation, Phi, Proposal
from metasearch.reporting.style import Plot, axes_of, new_figure, png
from metasearch.tasks import nas_tables

TABLES = {
    "NAS-Bench-201, CIFAR-10": ("nasbench201", "cifar10"),
    "NAS-Bench-Macro": ("nasbenchmacro", "cifar10"),
}
METHODS: dict[str, dict[str, Any]] = {
    "random": {"type": "random"},
    "regularized evolution": {"type": "evolution"},
    "genetic": {"type": "genetic"},
    "REINFORCE": {"type": "policy", "lr": 0.1, "batch": 5},
    "PPO": {"type": "policy", "algorithm": "ppo", "lr": 0.1, "batch": 5},
    "PPO, LSTM": {"type": "policy", "algorithm": "ppo", "policy": "lstm", "lr": 0.02, "batch": 10, "hidden": 16},
    "TPE": {"type": "optuna", "sampler": "tpe"},
}
SLOW = ("PPO, LSTM", "TPE")
EVALUATIONS = 500
POINTS = (50, 100, 200, 500)
CHUNK = 5
COLOURS = ("#6b7480", "#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#cc79a7", "#009e73")


def searched(table: tuple[str, str], settings: dict[str, Any], seed: int) -> list[int]:
    """The rows of a table that a searcher proposes, in order."""
    known, searcher = nas_tables.load(*table), build("searcher", settings)
    searcher.setup(Phi(), known.space, seed)
    at_once, rows = settings.get("batch", 1), []
    while len(rows) < EVALUATIONS:
        evaluations = []
        for choices in searcher.ask(min(at_once, EVALUATIONS - len(rows))):
            row = known.row(choices)
            error = 1.0 - float(known.validation[row])
            evaluations.append(Evaluation(Proposal(len(rows), 0, choices), "ok", Estimate(error, error)))
            rows.append(row)
        searcher.tell(evaluations)
    return rows


def chunk(table: tuple[str, str], settings: dict[str, Any], seeds: range) -> np.ndarray:
    """``[seeds, evaluations]``, the rows of several searches."""
    return np.array([searched(table, settings, seed) for seed in seeds], dtype=np.int16)


def scores(table: tuple[str, str], rows: np.ndarray) -> np.ndarray:
    """``[seeds, evaluations]``: test accuracy in percent of the best by validation so far (the earliest of equals)."""
    known = nas_tables.load(*table)
    seen, found = known.validation[rows], np.empty(rows.shape)
    best = np.zeros(len(rows), dtype=int)
    for step in range(rows.shape[1]):
        better = seen[:, step] > seen[np.arange(len(rows)), best]
        best = np.where(better, step, best)
        found[:, step] = 100 * known.test[rows[np.arange(len(rows)), best]]
    return found


class Store:
    """What has been searched: one file a chunk of seeds, named by a hash of all that it depends on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "searched"
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, table: str, method: str, first: int) -> Path:
        told = json.dumps([TABLES[table], METHODS[method], EVALUATIONS, CHUNK], sort_keys=True)
        return self.folder / f"{hashlib.sha256(told.encode()).hexdigest()[:12]}-{first:05d}.npy"

    def rows(self, table: str, method: str) -> np.ndarray:
        """All seeds from 0 on without a gap."""
        parts = []
        for first in itertools.count(0, CHUNK):
            path = self.path(table, method, first)
            if not path.exists():
                return np.concatenate(parts) if parts else np.zeros((0, EVALUATIONS), dtype=np.int16)
            parts.append(np.load(path))
        raise AssertionError

    def add(self, path: Path, rows: np.ndarray) -> None:
        part = path.with_suffix(".part")
        with part.open("wb") as stream:
            np.save(stream, rows)
        part.replace(path)


def search(store: Store, given: argparse.Namespace) -> None:
    """Searches what is not searched yet, each method the same share of its seeds, until the time is over."""
    limits = {method: given.slow_seeds if method in SLOW else given.seeds for method in METHODS}
    wanted = [
        (first / limits[method], table, method, first)
        for method in METHODS
        for first in range(0, limits[method], CHUNK)
        for table in TABLES
        if not store.path(table, method, first).exists()
    ]
    jobs = iter(sorted(wanted, key=lambda job: job[0]))
    end = time.monotonic() + given.seconds
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.workers, context) as pool:
        running: dict[Future[np.ndarray], Path] = {}
        while True:
            while len(running) < given.workers and time.monotonic() < end and (job := next(jobs, None)):
                _, table, method, first = job
                work = pool.submit(chunk, TABLES[table], METHODS[method], range(first, first + CHUNK))
                running[work] = store.path(table, method, first)
            if not running:
                return
            for work in wait(running, return_when=FIRST_COMPLETED).done:
                store.add(running.pop(work), work.result())


def markdown(found: dict[str, dict[str, np.ndarray]]) -> str:
    """The table: regrets, and the difference to random search."""
    lines = []
    for table, curves in found.items():
        highest = 100 * nas_tables.load(*TABLES[table]).test.max()
        lines += [
            f"### {table}: regret in points of test accuracy (highest {highest:.2f} %)",
            "",
            "| method | seeds | " + " | ".join(f"at {n}" for n in POINTS) + " | less regret than random at 200 |",
            "|---|---|" + "---|" * (len(POINTS) + 1),
        ]
        for method, curve in curves.items():
            cells = ["{:.2f} ± {:.2f}".format(*mean_ci95(highest - curve[:, n - 1])) for n in POINTS]
            random, n = curves.get("random", curve[:0]), min(len(curve), len(curves.get("random", ())))
            paired = paired_ci95(curve[:n, 199], random[:n, 199]) if method != "random" and n > 1 else None
            gain = "" if paired is None else "{:+.2f} ± {:.2f}".format(*paired)
            lines.append(f"| {method} | {len(curve)} | {' | '.join(cells)} | {gain} |")
        lines.append("")
    return "\n".join(lines)


def picture(found: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Best so far against evaluations, mean and 95 % interval over seeds."""
    result = new_figure(11, 4.4)
    for axes, (table, curves) in zip(axes_of(result, 1, len(found)), found.items(), strict=True):
        steps = np.arange(1, EVALUATIONS + 1)
        for method, curve in curves.items():
            colour = COLOURS[list(METHODS).index(method)]
            mean, half = curve.mean(0), 1.96 * curve.std(0, ddof=1) / np.sqrt(len(curve))
            label = method if table == next(iter(found)) else None
            axes.plot(steps[9:], mean[9:], lw=1.8, color=colour, label=label)
            axes.fill_between(steps[9:], (mean - half)[9:], (mean + half)[9:], color=colour, alpha=0.15, lw=0)
        axes.set(title=table, xscale="log", xlabel="evaluations", ylabel="test accuracy of the best by validation (%)")
        axes.set_xticks((10, 20, *POINTS), [str(n) for n in (10, 20, *POINTS)])
        axes.minorticks_off()
    result.legend(loc="outside lower center", ncols=4)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200, help="of the fast methods")
    parser.add_argument("--slow-seeds", type=int, default=20, help=f"of {' and '.join(SLOW)}")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no new search begins after this time")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=Path("runs/nas_tables"))
    given = parser.parse_args()
    store = Store(given.out)
    search(store, given)
    found = {
        table: {m: scores(TABLES[table], rows) for m in METHODS if len(rows := store.rows(table, m)) > 1}
        for table in TABLES
    }
    text = markdown(found)
    (given.out / "table.md").write_text(text, "utf-8")
    if all(found.values()):
        plot = Plot("curves", "Best so far against evaluations", lambda: picture(found))
        (given.out / "curves.png").write_bytes(png(plot))
    print(text)
    print(f"{given.out / 'table.md'}, {given.out / 'curves.png'}")


if __name__ == "__main__":
    main()
