"""Where truncated estimates of a hypergradient lead, and where persistent evolution strategies do: two toys whose right
answer full unrolls tell.

    python experiments/pes_toy.py [--seeds 3] [--workers 2] [--out pes-toy]

*Influence balancing* (Tallec and Ollivier 2017, arXiv:1702.05043; Sec. 5 of the PES paper): 23 numbers,
``s' = A s + theta (1 ... 1, -1 ... -1)`` with ten ones, A has 1/2 on the diagonal and above it, s begins as ones; the
loss is ``(s_1 - 1)^2 / 2`` after each step. Within a few steps theta lifts the first number, in the long run it lowers
it. *A schedule*: gradient descent on a function of two numbers, 100 steps from (1, 1), at a rate that goes in a
straight line from ``exp theta_0`` to ``exp theta_1``; the objective is the sum of the losses (Vicol, Metz,
Sohl-Dickstein 2021, arXiv:2112.13835; function, starting points, truncation of 10 and Adam's settings are those of its
published code).

Other than there: trajectories of the first toy end after 200 steps and begin anew (theirs goes on for ever), every
step has a loss (theirs: the last one of a truncation) and its theta is moved by Adam instead of gradient descent; there
are 4 pairs of perturbations (theirs: 500 and 50).

Every estimator is one of metasearch's own and drives a search of its own for each seed; perturbations are drawn from
the seed, truncated backpropagation draws nothing. Writes a table (``.md``), a figure (``.png``) and all of it
(``.json``).
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import tempfile
from abc import ABC, abstractmethod
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor

import metasearch as ms
from metasearch.core.config import Config as BaseConfig
from metasearch.core.errors import UnsupportedError
from metasearch.core.statistics import mean_ci95
from metasearch.core.values import Losses, Phi, Task
from metasearch.running import Silent
from metasearch.tracking import journal


class Once:
    """Tasks without data: there is one problem."""

    def spec(self, split: str) -> ms.TaskSpec:
        return ms.TaskSpec(kind="function", input_shape=(1,), outputs=1, support=1, query=1)

    def sample(self, split: str, seeds: Any) -> Task:
        nothing = ms.Batch(torch.zeros(len(seeds), 1, 1), torch.zeros(len(seeds), 1, 1))
        return Task(nothing, nothing, np.asarray(seeds))


class Toy(ABC):
    """An inner problem without examples: a state ``[T, n]`` that moves, and a loss of it after each step. L in
    validation is the mean loss over a whole trajectory.
    """

    class Config(BaseConfig):
        """Args:
        theta: where the search starts.
        steps: length of a trajectory.
        """

        theta: tuple[float, ...]
        steps: int

    adapted = ("x",)
    first: tuple[float, ...]

    def __init__(self, config: Any, spec: Any, choices: Any = None) -> None:
        self.config = config

    def init(self, seed: int) -> Phi:
        return Phi({"toy.theta": torch.tensor(self.config.theta)})

    @abstractmethod
    def moved(self, theta: Tensor, x: Tensor, step: int) -> Tensor:
        """The next inner state."""

    @abstractmethod
    def loss(self, x: Tensor) -> Tensor:
        """Of an inner state."""

    def n_steps(self, *, train: bool = True) -> int:
        return int(self.config.steps)

    def objective_weights(self, outer_step: int | None = None) -> tuple[float, ...]:
        return (1.0,) * self.n_steps()

    def begin(self, phi: Phi, task: Task, seed: int, *, train: bool = True) -> dict[str, Any]:
        start = torch.tensor(self.first, dtype=phi.tensors["toy.theta"].dtype)
        return {"theta": {"x": start.expand(len(task), -1)}, "step": 0}

    def step(self, phi: Phi, task: Task, state: Any, seed: int, *, create_graph: bool = True) -> dict[str, Any]:
        x = self.moved(phi.tensors["toy.theta"], state["theta"]["x"], state["step"])
        return {"theta": {"x": x}, "step": state["step"] + 1}

    def support_loss(self, phi: Phi, task: Task, state: Any, seed: int) -> Tensor:
        return self.loss(state["theta"]["x"])

    def query_loss(self, phi: Phi, task: Task, state: Any, seed: int | None) -> Losses:
        loss = self.loss(state["theta"]["x"])
        return Losses(loss, loss)

    def unroll(
        self, phi: Phi, task: Task, state: Any, seed: int, steps: int, *, train: bool = True, create_graph: bool = True
    ) -> tuple[Any, Losses]:
        along = []
        for _ in range(steps):
            state = self.step(phi, task, state, seed)
            along.append(self.loss(state["theta"]["x"]))
        total = torch.stack(along).sum(0)
        where = {f"theta_{i}": one.detach().expand(len(task)) for i, one in enumerate(phi.tensors["toy.theta"])}
        return state, Losses(total, total / steps, where)

    def evaluate(self, phi: Phi, task: Task, seed: int, *, train: bool = True, create_graph: bool = True) -> Losses:
        return self.unroll(phi, task, self.begin(phi, task, seed), seed, self.n_steps())[1]

    def adapt(self, phi: Phi, support: Any, seed: int, steps: int | None = None) -> Any:
        raise UnsupportedError("adapt", "there is nothing to predict")


class Influence(Toy):
    """Influence balancing."""

    first = (1.0,) * 23
    matrix = 0.5 * torch.eye(23) + 0.5 * torch.diag(torch.ones(22), 1)
    signs = torch.tensor([1.0] * 10 + [-1.0] * 13)

    def moved(self, theta: Tensor, x: Tensor, step: int) -> Tensor:
        return x @ self.matrix.T.to(x.dtype) + theta[0].unsqueeze(-1) * self.signs.to(x.dtype)

    def loss(self, x: Tensor) -> Tensor:
        return 0.5 * (x[:, 0] - 1).square()


class Schedule(Toy):
    """Two rates for gradient descent on ``sqrt(a^2 + 5) - sqrt 5 + sin(b)^2 exp(-5 a^2) + |b - 100| / 4``."""

    first = (1.0, 1.0)

    def moved(self, theta: Tensor, x: Tensor, step: int) -> Tensor:
        done = step / self.config.steps
        rate = theta[0].exp() * (1 - done) + theta[1].exp() * done
        a, b = x.unbind(-1)
        well = torch.exp(-5 * a * a)
        slopes = (
            a / (a * a + 5).sqrt() - 10 * a * b.sin().square() * well,
            torch.sin(2 * b) * well + 0.25 * torch.sign(b - 100),
        )
        return x - rate.unsqueeze(-1) * torch.stack(slopes, -1)

    def loss(self, x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        hill = b.sin().square() * torch.exp(-5 * a * a)
        return (a * a + 5).sqrt() - math.sqrt(5) + hill + 0.25 * (b - 100).abs()


TOYS: dict[str, dict[str, Any]] = {
    "influence": {
        "class": Influence,
        "theta": (0.5,),
        "steps": 200,
        "truncation": 10,
        "searcher": {"lr": 3e-3},
        "sigma": 0.1,
        "updates": 1500,
    },
    "schedule": {
        "class": Schedule,
        "theta": (math.log(0.01), math.log(0.01)),
        "steps": 100,
        "truncation": 10,
        "searcher": {"lr": 1e-2, "betas": [0.99, 0.999]},
        "sigma": 1.0,
        "updates": 2000,
    },
}
LABELS = {"truncated": "truncated backprop", "truncated_es": "truncated ES", "pes": "PES"}


def main() -> None:
    """Searches, compares, draws and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=4, help="pairs of perturbations in an evaluation")
    parser.add_argument("--workers", type=int, default=2, help="searches at a time")
    parser.add_argument("--toys", default=",".join(TOYS))
    parser.add_argument("--updates", type=float, default=1.0, help="factor on the number of outer steps")
    parser.add_argument("--out", default="pes-toy", help="beginning of the names of the files written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for toy in arguments.toys.split(","):
        best, value = optimum(toy)
        found[toy] = {"optimum": {"theta": best, "L": value}, "runs": {}}
    cases = [
        (toy, estimator, seed)
        for toy in found
        for estimator in LABELS
        for seed in range(1 if estimator == "truncated" else arguments.seeds)
    ]
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(arguments.workers, mp_context=fork) as pool:
        paths = pool.map(searched, cases, [arguments] * len(cases))
        for (toy, estimator, seed), path in zip(cases, paths, strict=True):
            found[toy]["runs"].setdefault(estimator, []).append(path)
            print(toy, estimator, seed, "ends at", path["theta"][-1], "L", path["L"][-1], flush=True)
    out = Path(arguments.out)
    out.with_suffix(".json").write_text(json.dumps(found) + "\n")
    out.with_suffix(".md").write_text(table(found) + "\n")
    print(table(found))
    draw(found, out.with_suffix(".png"))


def searched(case: tuple[str, str, int], arguments: argparse.Namespace) -> dict[str, Any]:
    """Theta and L of whole trajectories on the way of a search."""
    toy, estimator, seed = case
    given = TOYS[toy]
    settings: dict[str, Any] = {"type": estimator, "steps": given["truncation"], "offsets": False}
    perturbed = estimator != "truncated"
    if perturbed:
        settings["sigma"] = given["sigma"]
    updates = round(given["updates"] * arguments.updates)
    with tempfile.TemporaryDirectory() as folder:
        run = ms.search(
            name=f"{toy}-{estimator}-{seed}",
            tasks=Once(),
            learner={"type": given["class"], "theta": given["theta"], "steps": given["steps"]},
            searcher={"type": "gradient", "optimizer": "adam", **given["searcher"]},
            evaluation={
                "type": "episodes",
                "estimator": settings,
                "tasks": arguments.pairs if perturbed else 1,
                "shard": 1,
            },
            validation={"every": max(updates // 50, 1), "episodes": 1},
            budget={"steps": updates},
            execution={"type": "inline"},
            numerics={"dtype": "float64", "compile": "never"},
            tracking={"mlflow": False, "report": False},
            seed=seed,
            runs=folder,
            listener=Silent(),
        )
        records = [one for one in journal.read(run.directory.journal_path) if one["type"] == "validation"]
    thetas = [[one["metrics"][f"theta_{i}"] for i in range(len(given["theta"]))] for one in records]
    return {"step": [one["step"] for one in records], "theta": thetas, "L": [one["L"] for one in records]}


def values(toy: str, thetas: Tensor) -> Tensor:
    """L by full unrolls at many points ``[G, n]``, all at once."""
    given = TOYS[toy]
    config = given["class"].Config(theta=given["theta"], steps=given["steps"])
    task = Once().sample("test", np.zeros(len(thetas), dtype=np.int64))
    with torch.no_grad():
        return given["class"](config, None).evaluate(Phi({"toy.theta": thetas.T}), task, 0).query


def optimum(toy: str) -> tuple[list[float], float]:
    """The lowest L of full unrolls: a grid, then finer ones around its best."""
    center, width = (torch.zeros(1), 1.0) if toy == "influence" else (torch.tensor([0.0, 0.0]), 6.0)
    center = center.double()
    for _ in range(5):
        points = center + grid(len(center), width)
        center, width = points[int(values(toy, points).nan_to_num(nan=math.inf).argmin())], width / 20
    return center.tolist(), float(values(toy, center[None])[0])


def grid(dimensions: int, width: float) -> Tensor:
    axis = torch.linspace(-width, width, 201, dtype=torch.float64)
    return axis[:, None] if dimensions == 1 else torch.cartesian_prod(axis, axis)


def table(found: dict[str, Any]) -> str:
    """Where each estimator ends: theta and L of whole trajectories, means and 95 % intervals over seeds."""
    lines = ["| toy | estimate | seeds | theta at the end | L at the end |", "|---|---|---|---|---|"]
    for toy, one in found.items():
        best = one["optimum"]
        theta = ", ".join(f"{x:.3f}" for x in best["theta"])
        lines.append(f"| {toy} | best of full unrolls on a grid | | {theta} | {best['L']:.4g} |")
        theta = ", ".join(f"{x:.3f}" for x in TOYS[toy]["theta"])
        lines.append(f"| {toy} | start | | {theta} | {float(values(toy, start_of(toy))[0]):.4g} |")
        for estimator, runs in one["runs"].items():
            ends = np.array([run["theta"][-1] for run in runs])
            losses = np.array([run["L"][-1] for run in runs])
            theta = ", ".join(spread(column) for column in ends.T)
            lines.append(f"| {toy} | {LABELS[estimator]} | {len(runs)} | {theta} | {spread(losses)} |")
    return "\n".join(lines)


def start_of(toy: str) -> Tensor:
    return torch.tensor([TOYS[toy]["theta"]], dtype=torch.float64)


def spread(column: Any) -> str:
    if len(column) == 1:
        return f"{column[0]:.4g}"
    mean, width = mean_ci95(column)
    return f"{mean:.4g} ± {width:.2g}"


def draw(found: dict[str, Any], path: Path) -> None:
    """Theta over outer steps for the first toy; paths over L for the second."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(found), figsize=(6 * len(found), 4.5), squeeze=False)
    for panel, (toy, one) in zip(panels[0], found.items(), strict=True):
        if toy == "schedule":
            points = grid(2, 6.0)
            heights = values(toy, points).reshape(201, 201).T
            axis = points[:201, 1].numpy()
            panel.contourf(axis, axis, heights, levels=30, cmap="Greys")
        for estimator, colour in zip(LABELS, ("#d55e00", "#e69f00", "#0072b2"), strict=True):
            for number, run in enumerate(one["runs"][estimator]):
                theta = np.array([*start_of(toy).tolist(), *run["theta"]])
                steps = [0, *run["step"]]
                along = (steps, theta[:, 0]) if toy == "influence" else (theta[:, 0], theta[:, 1])
                panel.plot(*along, color=colour, linewidth=1.3, label=None if number else LABELS[estimator])
        best = one["optimum"]["theta"]
        if toy == "influence":
            panel.axhline(best[0], color="black", linestyle=":", label="best of full unrolls")
            panel.set(title="influence balancing", xlabel="outer step", ylabel="theta")
        else:
            panel.plot(*best, "*", color="black", markersize=10, label="best of full unrolls")
            panel.set(title="a schedule of two rates", xlabel="theta_0", ylabel="theta_1")
        panel.legend(fontsize=8)
    figure.savefig(path, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
