"""Training curves of a learned optimizer beside hand-made ones at their best rates, on fresh tasks.

The tasks and the network are those of the run (``--set`` changes them). Each baseline has the best of a grid of rates,
two a decade from 1e-4 to 10, by the mean loss after the last step on tasks of the validation split; AdamW, whose rate
falls along a cosine, has three times that budget: each rate with three weight decays. Curves are on tasks of the test
split. Every task has a curve of its own seed: fresh weights and a fresh order of minibatches.

    python experiments/learned_optimizers.py RUN --tasks 512 --steps 100 --out curves
    python experiments/learned_optimizers.py RUN --set learner.model.hidden=[40] --out curves-40-units

writes ``curves.png`` (mean and 95 % interval), ``curves.md`` (a table of the loss after the last step and of the paired
difference to the learned optimizer) and ``curves.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metasearch.core import seeds as seeding
from metasearch.core.statistics import mean_ci95, paired_ci95
from metasearch.core.values import Phi
from metasearch.evaluation.optimizers import RULES, TunedOptimizer, candidates
from metasearch.learners.inner_loop import InnerLoop
from metasearch.loaded import load
from metasearch.program import ExperimentProgram
from metasearch.resolution import resolve
from metasearch.trees import override

LEARNED = "learned"


def main() -> None:
    """Measures, draws and writes."""
    arguments = parse()
    loaded = load(arguments.run, allow_user_code=True)
    tree = override({**loaded.manifest.config, "test": None}, arguments.set)
    program = resolve(tree, Path.cwd()).program
    torch.set_num_threads(program.file.numerics.threads)
    curves: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    own = program.learner({}, "test")
    assert isinstance(own, InnerLoop)
    curves[LEARNED] = trajectories(program, own, loaded.phi, arguments)
    for name in arguments.baselines.split(","):
        learner, phi, settings[name] = tuned(program, name, arguments)
        curves[name] = trajectories(program, learner, phi, arguments)
    write(curves, settings, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run, or a folder with a phi")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change the experiment")
    parser.add_argument("--baselines", default=",".join(RULES), help="which hand-made optimizers")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--tasks", type=int, default=256, help="tasks that are measured")
    parser.add_argument("--tuning", type=int, default=256, help="tasks that a rate is chosen on")
    parser.add_argument("--shard", type=int, default=64, help="tasks at a time")
    parser.add_argument("--every", type=int, default=1, help="steps between two points of a curve")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="curves", help="beginning of the names of the files written")
    return parser.parse_args()


def tuned(
    program: ExperimentProgram, name: str, arguments: argparse.Namespace
) -> tuple[InnerLoop, Phi, dict[str, Any]]:
    """The best settings of the grid after ``steps`` steps, on validation tasks."""
    rates = TunedOptimizer.Config().rates
    grid = candidates(name, rates, arguments.steps)
    found = []
    for rule in grid:
        learner = with_rule(program, rule)
        losses = trajectories(program, learner, learner.init(0), arguments, split="validation", count=arguments.tuning)
        found.append(float(losses[:, -1].mean()) if (losses[:, -1] < 1e30).all() else np.inf)
    best = grid[int(np.argmin(found))]
    if best["rate"] in (rates[0], rates[-1]):
        print(f"{name}: the best rate, {best['rate']:g}, lies at the end of the grid")
    learner = with_rule(program, best)
    return learner, learner.init(0), {**best, "tried": len(grid)}


def with_rule(program: ExperimentProgram, rule: dict[str, Any]) -> InnerLoop:
    own = program.learner({}, "test")
    assert isinstance(own, InnerLoop)
    return InnerLoop(own.config.model_copy(update={"slots": {**own.config.slots, "update_rule": rule}}), own.spec)


def trajectories(
    program: ExperimentProgram,
    learner: InnerLoop,
    phi: Phi,
    arguments: argparse.Namespace,
    *,
    split: str = "test",
    count: int | None = None,
) -> np.ndarray[Any, Any]:
    """Query losses ``[tasks, points]`` before the first step and along the way; the last point is the last step."""
    problem, seed = program.problem, seeding.derive(arguments.seed, "curves")
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


def points_of(arguments: argparse.Namespace) -> set[int]:
    return {*range(0, arguments.steps, arguments.every), arguments.steps}


def write(curves: dict[str, Any], settings: dict[str, Any], arguments: argparse.Namespace) -> None:
    out, points = Path(arguments.out), sorted(points_of(arguments))
    summary = {}
    lines = [
        f"| optimizer | best settings | of | loss after {arguments.steps} steps | minus learned (paired, 95 %) |",
        "|---|---|---|---|---|",
    ]
    for name, losses in curves.items():
        last, learned = losses[:, -1], curves[LEARNED][:, -1]
        mean, width = mean_ci95(last)
        difference, interval = paired_ci95(last, learned)
        summary[name] = {
            "settings": settings.get(name),
            "loss": mean,
            "ci95": width,
            "difference": difference,
            "difference_ci95": interval,
            "steps": points,
            "curve": losses.mean(0).tolist(),
            "curve_ci95": [mean_ci95(column)[1] for column in losses.T],
        }
        chosen = settings.get(name, {})
        shown = ", ".join(f"{key} {chosen[key]:.3g}" for key in ("rate", "weight_decay") if key in chosen) or "-"
        apart = "-" if name == LEARNED else f"{difference:.4g} ± {interval:.2g}"
        lines.append(f"| {name} | {shown} | {chosen.get('tried', '-')} | {mean:.4g} ± {width:.2g} | {apart} |")
    text = "\n".join([*lines, "", f"{arguments.tasks} test tasks, settings tuned on {arguments.tuning} others."])
    out.with_suffix(".md").write_text(text + "\n")
    out.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n")
    draw(summary, out.with_suffix(".png"))
    print(text)


def draw(summary: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for name, one in summary.items():
        mean, width = np.array(one["curve"]), np.array(one["curve_ci95"])
        axes.plot(one["steps"], mean, label=name, linewidth=2.5 if name == LEARNED else 1.2)
        axes.fill_between(one["steps"], np.maximum(mean - width, mean * 1e-2), mean + width, alpha=0.2)
    axes.set(yscale="log", xlabel="step", ylabel="loss")
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
