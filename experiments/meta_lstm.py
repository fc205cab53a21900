"""The LSTM meta-learner beside gradient descent from the same learned start, and what its gates do.

Each RUN is a search with ``update_rule: {type: meta_lstm}`` (one a seed). Gradient descent starts where it starts,
takes as many steps, and has the best rate of a grid, four a decade from 1e-3 to 10, by its loss on tasks of the
validation split. Both are measured on the same tasks of the test split.

    python experiments/meta_lstm.py RUN RUN RUN --tasks 600 --out meta-lstm

writes ``meta-lstm.md`` (accuracies, and the paired difference: over tasks for each run, over runs for all of them),
``meta-lstm.png`` (the gates over the steps) and ``meta-lstm.json``.
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
from metasearch.learners.inner_loop import InnerLoop
from metasearch.loaded import load
from metasearch.program import ExperimentProgram
from metasearch.resolution import resolve
from metasearch.trees import override

RATES = tuple(float(10 ** (k / 4)) for k in range(-12, 5))
GATES = ("forget", "input")


def main() -> None:
    """Measures, draws and writes."""
    arguments = parse()
    rows, gates = [], {}
    for run in arguments.runs:
        row, gates = compared(run, arguments)
        rows.append(row)
        mean, width = row["accuracy"]["difference"]
        print(f"{Path(run).name}: {100 * mean:+.2f} ± {100 * width:.2f} points beside gradient descent", flush=True)
    write(rows, gates, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="runs, or folders with a phi, one a seed")
    parser.add_argument("--tasks", type=int, default=600, help="tasks that are measured")
    parser.add_argument("--tuning", type=int, default=200, help="tasks that the rate is chosen on")
    parser.add_argument("--shard", type=int, default=20, help="tasks at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="meta-lstm", help="beginning of the names of the files written")
    return parser.parse_args()


def compared(run: str, arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures of one run, and the gates' values by tensor and step."""
    loaded = load(run, allow_user_code=True)
    program = resolve(override({**loaded.manifest.config, "test": None}, []), Path.cwd()).program
    torch.set_num_threads(program.file.numerics.threads)
    own = program.learner({}, "test")
    assert isinstance(own, InnerLoop)
    tuning = {}
    for rate in RATES:
        learner, phi = descent(own, loaded.phi, rate)
        losses = measured(program, learner, phi, "validation", arguments.tuning, arguments)[0]["loss"]
        tuning[rate] = float(losses.mean()) if np.isfinite(losses).all() else np.inf
    best = min(tuning, key=lambda rate: tuning[rate])
    if best in (RATES[0], RATES[-1]):
        print(f"the best rate, {best:g}, lies at the end of the grid")
    learned, gates = measured(program, own, loaded.phi, "test", arguments.tasks, arguments)
    by_descent, _ = measured(program, *descent(own, loaded.phi, best), "test", arguments.tasks, arguments)
    row = {"run": run, "rate": best, "gates": gates}
    for name in learned:
        row[name] = {
            "meta_lstm": mean_ci95(learned[name]),
            "gradient_descent": mean_ci95(by_descent[name]),
            "difference": paired_ci95(learned[name], by_descent[name]),
        }
    return row, gates


def descent(own: InnerLoop, phi: Phi, rate: float) -> tuple[InnerLoop, Phi]:
    """Gradient descent from where a phi starts."""
    slots = {
        **own.config.slots,
        "update_rule": {"type": "sgd"},
        "learning_rates": {"type": "fixed", "value": rate},
    }
    start = {name: value for name, value in phi.tensors.items() if name.startswith("initialization.")}
    return InnerLoop(own.config.model_copy(update={"slots": slots}), own.spec), phi.replace(tensors=start)


def measured(
    program: ExperimentProgram, learner: InnerLoop, phi: Phi, split: str, count: int, arguments: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Loss and accuracy ``[tasks]`` after the last step; gates by name and tensor, ``[steps, 3]``: the mean over
    coordinates and tasks of the first shard, and the range that nine of ten lie in.
    """
    problem, seed = program.problem, seeding.derive(arguments.seed, "meta lstm")
    phi, found, gates = problem.phi(phi), {"loss": [], "accuracy": []}, {}
    seeds = seeding.derive_many(seed, split, np.arange(count))
    for start in range(0, count, arguments.shard):
        task = problem.sample(split, seeds[start : start + arguments.shard])
        state = learner.begin(phi, task, seed, train=False)
        for _ in range(learner.n_steps(train=False)):
            with torch.no_grad():
                state = learner.step(phi, task, state, seed, create_graph=False)
            if not start and "update_rule" in state["rule"] and "forget" in state["rule"]["update_rule"]:
                for name, value in gate_values(learner, state).items():
                    gates.setdefault(name, []).append(value)
        with torch.no_grad():
            losses = learner.query_loss(phi, task, state, None)
        found["loss"].append(losses.query.double().numpy())
        found["accuracy"].append(losses.metrics["accuracy"].double().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}, gates


def gate_values(learner: InnerLoop, state: dict[str, Any]) -> dict[str, list[float]]:
    found = {}
    sizes = [state["theta"][name][0].numel() for name in learner.adapted]
    for gate in GATES:
        values = torch.sigmoid(state["rule"]["update_rule"][gate]).split(sizes, 1)
        for name, one in zip(learner.adapted, values, strict=True):
            low, high = np.quantile(one.numpy(), [0.05, 0.95])
            found[f"{gate} {name}"] = [float(one.mean()), float(low), float(high)]
    return found


def write(rows: list[dict[str, Any]], gates: dict[str, Any], arguments: argparse.Namespace) -> None:
    out = Path(arguments.out)
    lines = ["| run | meta-learner LSTM | gradient descent | rate | difference, paired |", "|---|---|---|---|---|"]
    for row in rows:
        one = {name: f"{100 * mean:.2f} ± {100 * width:.2f}" for name, (mean, width) in row["accuracy"].items()}
        lines.append(
            f"| {Path(row['run']).name} | {one['meta_lstm']} | {one['gradient_descent']} | {row['rate']:.3g} "
            f"| {one['difference']} |"
        )
    if len(rows) > 1:
        means = {
            name: paired_ci95(np.array([row["accuracy"][name][0] for row in rows]), np.zeros(len(rows)))
            for name in ("meta_lstm", "gradient_descent", "difference")
        }
        cells = {name: f"{100 * mean:.2f} ± {100 * width:.2f}" for name, (mean, width) in means.items()}
        last = f"| all, ± over {len(rows)} runs (Student's t) | {cells['meta_lstm']} | {cells['gradient_descent']} | "
        lines.append(f"{last}| {cells['difference']} |")
    tuned = f"the rate is the best of {len(RATES)} on {arguments.tuning} others"
    note = f"Accuracy in %, {arguments.tasks} test tasks; {tuned}."
    text = "\n".join([*lines, "", note])
    out.with_suffix(".md").write_text(text + "\n")
    out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(gates, out.with_suffix(".png"))
    print(text)


def draw(gates: dict[str, Any], path: Path) -> None:
    """Gates of the last run: mean over coordinates and tasks for each tensor, nine of ten within the band."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4))
    steps = np.arange(1, 1 + max(map(len, gates.values())))
    for panel, gate in zip(panels, GATES, strict=True):
        panel.set_prop_cycle(color=plt.get_cmap("tab20").colors)
        for name, values in gates.items():
            if name.startswith(f"{gate} "):
                mean, low, high = np.array(values).T
                panel.plot(steps, mean, label=name.removeprefix(f"{gate} "), linewidth=1.2)
                panel.fill_between(steps, low, high, alpha=0.06)
        panel.set(title=f"{gate} gate", xlabel="step", xticks=steps)
    panels[1].legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
