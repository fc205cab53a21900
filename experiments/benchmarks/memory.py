"""Peak memory of one second-order meta-gradient with 1, 5 and 20 inner steps.

Omniglot-like 5-way 1-shot tasks (random images), four blocks of 64 filters with batch norm on the batch's own
statistics, one shard of `--tasks` tasks, evaluated eagerly by the estimator that a search uses. Variants:

    kept        every inner step's graph is kept until the way back
    recompute   `estimator: {type: backprop, recompute: true}`: a step is computed again when the way back reaches it
    implicit    the gradient at the end of a proximal inner loop, conjugate gradient with 5 products

Each measurement has a process of its own. Memory is the peak resident size less that of the process before the
gradient, warmed up by a gradient of one task and one step. `needed` is taken with an allocator that gives freed blocks
back at once (MALLOC_MMAP_THRESHOLD_=131072), so it is what the computation holds; `taken` with the allocator's own
settings, as is the CPU time of one gradient.

    OMP_NUM_THREADS=1 python experiments/benchmarks/memory.py
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import metasearch.program  # noqa: F401  (lists the built-in parts)
from metasearch.core.registry import build
from metasearch.core.values import Batch, Task, TaskSpec
from metasearch.estimators.episodes import Problem

VARIANTS: dict[str, dict[str, Any]] = {
    "kept": {"type": "backprop"},
    "recompute": {"type": "backprop", "recompute": True},
    "implicit": {"type": "implicit"},
}


class RandomImages:
    """Tasks whose pictures mean nothing: neither memory nor time depends on them."""

    def __init__(self, query: int) -> None:
        self.query = query

    def spec(self, split: str) -> TaskSpec:
        return TaskSpec("classification", (1, 28, 28), 5, 5, self.query)

    def sample(self, split: str, seeds: Any) -> Task:
        draw = torch.Generator().manual_seed(int(seeds[0]) % 2**31)

        def batch(n: int) -> Batch:
            x = torch.rand(len(seeds), n, 1, 28, 28, generator=draw)
            return Batch(x, torch.arange(n).remainder(5).repeat(len(seeds), 1))

        return Task(batch(5), batch(self.query), np.asarray(seeds))


def main() -> None:
    arguments = parse()
    if arguments.variant:
        print(json.dumps(measure(arguments)))
        return
    print(f"{arguments.tasks} tasks, {arguments.query} query images a task, stride 2, float32, 1 thread")
    print(f"{'steps':>5}  {'variant':10} {'needed MB':>10} {'taken MB':>10} {'CPU s':>7}")
    for steps in arguments.steps:
        for variant in VARIANTS:
            command = [sys.executable, __file__, "--variant", variant, "--steps", str(steps)]
            command += ["--tasks", str(arguments.tasks), "--query", str(arguments.query)]
            needed, taken = (ask(command, more) for more in ({"MALLOC_MMAP_THRESHOLD_": "131072"}, {}))
            print(
                f"{steps:5}  {variant:10} {needed['megabytes']:10.0f} {taken['megabytes']:10.0f} "
                f"{taken['seconds']:7.2f}",
                flush=True,
            )


def ask(command: list[str], more: dict[str, str]) -> dict[str, float]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")} | more
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return dict(json.loads(found.stdout))


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(1)
    gradient(arguments.variant, 1, 1, arguments.query)
    before = resident()
    start = time.process_time()
    gradient(arguments.variant, arguments.steps[0], arguments.tasks, arguments.query)
    return {"megabytes": (peak() - before) / 2**20, "seconds": time.process_time() - start}


def gradient(variant: str, steps: int, tasks: int, query: int) -> None:
    images = RandomImages(query)
    slots = {"learning_rates": {"type": "fixed", "value": 0.1}, "regularizer": {"type": "proximal", "strength": 0.0}}
    if variant == "implicit":
        slots["regularizer"] = {"type": "proximal", "strength": 2.0}
    block = {"type": "inner_loop", "model": {"type": "conv4"}, "steps": steps, "slots": slots}
    learner = build("learner", block, "", spec=images.spec("train"))
    problem = Problem(images, lambda choices, split: learner)
    settings = {**VARIANTS[variant], "tasks": tasks, "shard": tasks}
    estimator = build("estimator", settings, "", problem=problem)
    (call,) = estimator.calls(0, learner.init(0), None, 0)
    estimator.measure(call)


def resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


def peak() -> int:
    """Bytes at its peak."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 5, 20], help="inner steps")
    parser.add_argument("--tasks", type=int, default=8, help="tasks of one shard")
    parser.add_argument("--query", type=int, default=5, help="query images a task")
    parser.add_argument("--variant", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
