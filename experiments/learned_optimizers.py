"""Training curves of a learned optimizer beside hand-made ones at their best rates, on fresh tasks.

Each RUN is a search of the same file (one a seed of meta-training). The tasks and the network are those of the first
run (``--set`` changes them). Each baseline has the best of a grid of rates, two a decade from 1e-4 to 10 (or as many as
``--per-decade`` says), by the mean loss after the last step on tasks of the validation split; AdamW, whose rate falls
along a cosine, has three times that budget: each rate with three weight decays. Curves are on tasks of the test split,
others for each evaluation seed. Every task has a curve of its own seed: fresh weights and a fresh order of minibatches.

    python experiments/learned_optimizers.py RUN RUN RUN --tasks 512 --steps 100 --out curves
    python experiments/learned_optimizers.py RUN RUN RUN --set learner.model.hidden=[40] --out curves-40-units

writes ``curves.png`` (mean over tasks, seeds and runs; the 95 % interval is over evaluation seeds, by Student's t),
``curves.md`` (a table of the loss after the last step, of the difference to the learned optimizer paired by evaluation
seed, and of how many pairs of a run and a seed the baseline wins) and ``curves.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metasearch.core import seeds as seeding
from metasearch.core.statistics import paired_ci95
from metasearch.core.values import Phi
from metasearch.evaluation.optimizers import RULES, candidates
from metasearch.learners.inner_loop import InnerLoop
from metasearch.loaded import load
from metasearch.program import ExperimentProgram
from metasearch.resolution import resolve
from metasearch.trees import override

LEARNED = "learned"

Curves = np.ndarray[Any, Any]


def main(given: Sequence[str] | None = None) -> None:
    """Measures, draws and writes."""
    arguments = parse(given)
    searches = [load(run, allow_user_code=True) for run in arguments.runs]
    # how meta-training measured does not matter here, and another network may not suit it
    unlike = {"test": None, "evaluation": {"type": "episodes", "estimator": "backprop"}}
    tree = override(override(searches[0].manifest.config, unlike), arguments.set)
    program = resolve(tree, Path.cwd()).program
    torch.set_num_threads(program.file.numerics.threads)
    own = program.learner({}, "test")
    assert isinstance(own, InnerLoop)
    learned = np.stack([over_seeds(program, own, one.phi, arguments) for one in searches])
    by_hand, settings = {}, {}
    for name in arguments.baselines.split(","):
        learner, phi, settings[name] = tuned(program, own, name, arguments)
        by_hand[name] = over_seeds(program, learner, phi, arguments)
        print(name, settings[name], by_hand[name][:, -1].mean(), "learned", learned[..., -1].mean(), flush=True)
    write(learned, by_hand, settings, arguments)


def parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run, or a folder with a phi; one a seed")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change the experiment")
    parser.add_argument("--baselines", default=",".join(RULES), help="which hand-made optimizers")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--tasks", type=int, default=256, help="tasks that are measured for each evaluation seed")
    parser.add_argument("--tuning", type=int, default=256, help="tasks that a rate is chosen on")
    parser.add_argument("--per-decade", type=int, default=2, help="rates of the grid from one power of ten to the next")
    parser.add_argument("--shard", type=int, default=64, help="tasks at a time")
    parser.add_argument("--every", type=int, default=1, help="steps between two points of a curve")
    parser.add_argument("--seeds", default="1,2,3,4,5", help="evaluation seeds; the first one's rates are taken")
    parser.add_argument("--out", default="curves", help="beginning of the names of the files written")
    return parser.parse_args(given)


def tuned(
    program: ExperimentProgram, own: InnerLoop, name: str, arguments: argparse.Namespace
) -> tuple[InnerLoop, Phi, dict[str, Any]]:
    """The best settings of the grid after ``steps`` steps, on validation tasks."""
    per_decade = arguments.per_decade
    rates = [float(10 ** (k / per_decade)) for k in range(-4 * per_decade, per_decade + 1)]
    grid = candidates(name, rates, arguments.steps)
    found = []
    for rule in grid:
        learner = own.with_rule(rule)
        first = seeds_of(arguments)[0]
        losses = trajectories(program, learner, learner.init(0), arguments, first, count=arguments.tuning)
        found.append(float(losses[:, -1].mean()) if (losses[:, -1] < 1e30).all() else np.inf)
    best = grid[int(np.argmin(found))]
    if best["rate"] in (rates[0], rates[-1]):
        print(f"{name}: the best rate, {best['rate']:g}, lies at the end of the grid")
    learner = own.with_rule(best)
    return learner, learner.init(0), {**best, "tried": len(grid)}


def over_seeds(program: ExperimentProgram, learner: InnerLoop, phi: Phi, arguments: argparse.Namespace) -> Curves:
    """Mean losses ``[evaluation seeds, points]`` over test tasks."""
    return np.stack([trajectories(program, learner, phi, arguments, seed).mean(0) for seed in seeds_of(arguments)])


def trajectories(
    program: ExperimentProgram,
    learner: InnerLoop,
    phi: Phi,
    arguments: argparse.Namespace,
    root: int,
    *,
    count: int | None = None,
) -> Curves:
    """Query losses ``[tasks, points]`` before the first step and along the way; the last point is the last step. With a
    ``count``, on so many validation tasks and after the last step only.
    """
    problem, seed, split = program.problem, seeding.derive(root, "curves"), "validation" if count else "test"
    phi = problem.phi(phi)
    seeds = seeding.derive_many(seed, split, np.arange(count or arguments.tasks))
    points = points_of(arguments) if count is None else {arguments.steps}
    rows = []
    for start in range(0, len(seeds), arguments.shard):
        task = problem.sample(split, seeds[start : start + arguments.shard])
        state, row = learner.begin(phi, task, seed), []
        with torch.no_grad():
            for step in range(arguments.steps + 1):
                if step:
                    state = learner.step(phi, task, state, seed, create_graph=False)
                if step in points:
                    row.append(learner.query_loss(phi, task, state, None).query.double().numpy())
        rows.append(np.stack(row, 1))
    return np.concatenate(rows)


def seeds_of(arguments: argparse.Namespace) -> list[int]:
    return [int(seed) for seed in arguments.seeds.split(",")]


def points_of(arguments: argparse.Namespace) -> set[int]:
    return {*range(0, arguments.steps, arguments.every), arguments.steps}


def write(learned: Curves, by_hand: dict[str, Curves], settings: dict[str, Any], arguments: argparse.Namespace) -> None:
    """The table, the figure and all numbers; ``learned`` is ``[runs, evaluation seeds, points]``."""
    out, zeros = Path(arguments.out), np.zeros(learned.shape[1])
    lines = [
        f"| optimizer | best settings | of | loss after {arguments.steps} steps | minus learned | wins |",
        "|---|---|---|---|---|---|",
    ]
    summary: dict[str, Any] = {"steps": sorted(points_of(arguments)), "runs": {}, "optimizers": {}}
    for run, losses in zip(arguments.runs, learned, strict=True):
        summary["runs"][run] = shown = paired_ci95(losses[:, -1], zeros)
        lines.append(f"| {LEARNED}, {Path(run).name} | - | - | {cell(shown)} | | |")
    for name, losses in {LEARNED: learned.mean(0), **by_hand}.items():
        difference = paired_ci95(losses[:, -1], learned[..., -1].mean(0))
        wins = int((losses[:, -1] < learned[..., -1]).sum())
        summary["optimizers"][name] = {
            "settings": settings.get(name),
            "loss": paired_ci95(losses[:, -1], zeros),
            "difference": difference,
            "wins": wins,
            "curve": losses.mean(0).tolist(),
            "curve_ci95": [paired_ci95(column, zeros)[1] for column in losses.T],
        }
        loss = cell(summary["optimizers"][name]["loss"])
        if name == LEARNED:
            lines.append(f"| {LEARNED}, mean of {len(learned)} | - | - | {loss} | - | - |")
            continue
        chosen = settings[name]
        best = ", ".join(f"{key} {chosen[key]:.3g}" for key in ("rate", "weight_decay") if key in chosen)
        wins_of = f"{wins} of {learned.shape[0] * learned.shape[1]}"
        lines.append(f"| {name} | {best} | {chosen['tried']} | {loss} | {cell(difference)} | {wins_of} |")
    note = (
        f"{learned.shape[1]} evaluation seeds of {arguments.tasks} test tasks, ± over seeds (Student's t); settings "
        f"tuned on {arguments.tuning} others; wins: pairs of a run and a seed in which a baseline is below the learned "
        "one."
    )
    text = "\n".join([*lines, "", note])
    out.with_suffix(".md").write_text(text + "\n")
    out.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n")
    draw(summary, out.with_suffix(".png"))
    print(text)


def cell(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.4g} ± {interval[1]:.2g}"


def draw(summary: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    steps = summary["steps"]
    for name, one in summary["optimizers"].items():
        mean, width = np.array(one["curve"]), np.array(one["curve_ci95"])
        axes.plot(steps, mean, label=name, linewidth=2.5 if name == LEARNED else 1.2)
        axes.fill_between(steps, np.maximum(mean - width, mean * 1e-2), mean + width, alpha=0.2)
    axes.set(yscale="log", xlabel="step", ylabel="loss")
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
