"""Support sets of any size, and what a learner does with one: accuracy, seconds and memory, in a process of its own.

    python experiments/families/crowd.py '{"phi": FOLDER, "shots": 2000, "episodes": 10, "seed": 0, "memory": 8}'

prints one line of JSON.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import metasearch as ms
from metasearch.core.values import Batch, Task, TaskSpec
from metasearch.tasks.distortions import Distortions, distort
from metasearch.tasks.omniglot import Omniglot

__all__ = ["Crowd", "apart"]

DRAWINGS, QUERIES = 15, 5


class Crowd:
    """Omniglot tasks with more support examples than there are drawings.

    A class has up to 15 drawings to learn from; further examples are these again, each turned by up to 15 degrees,
    sheared by up to 0.2, scaled by up to a tenth and shifted by up to a pixel. Queries are other drawings, as they are.

    Args:
        ways: classes.
        shots: support examples of a class.
        image_size: side of a picture in pixels.
    """

    def __init__(self, ways: int, shots: int, image_size: int) -> None:
        self.ways, self.shots = ways, shots
        self.base = Omniglot(Omniglot.Config(ways=ways, shots=DRAWINGS, queries=QUERIES, image_size=image_size))
        self.moved = Distortions(rotate=15, shear=0.2, scale=(0.9, 1.1), shift=1)

    def spec(self, split: str) -> TaskSpec:
        return dataclasses.replace(self.base.spec(split), support=self.ways * self.shots)

    def sample(self, split: str, seeds: Any) -> Task:
        task = self.base.sample(split, seeds)
        number = np.arange(self.ways * self.shots)
        drawing = number // self.shots * DRAWINGS + number % self.shots % DRAWINGS
        values = self.moved.draw(task.seeds, len(number))
        still = np.zeros(8)
        still[3:5] = 1.0
        values[:, number % self.shots < DRAWINGS] = still
        x = task.support.x[:, torch.from_numpy(drawing)]
        return dataclasses.replace(
            task, support=Batch(distort(x, self.moved, values), task.support.y[:, torch.from_numpy(drawing)])
        )


def measured(given: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy, CPU seconds of a task (with the drawing of it), and megabytes at the peak beyond those before."""
    torch.set_num_threads(1)
    phi = ms.load(given["phi"])
    size = phi.spec.input_shape[-1]

    def evaluate(shots: int, episodes: int) -> dict[str, Any]:
        tasks = Crowd(phi.spec.outputs, shots, size)
        return ms.evaluate(phi, tasks=tasks, episodes=episodes, seed=given["seed"], shard=1)

    evaluate(1, 2)  # what is loaded and kept once
    limit = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (int(given["memory"] * 2**30), limit))
    before, start = _peak(), time.process_time()
    found = evaluate(given["shots"], given["episodes"])
    seconds = (time.process_time() - start) / given["episodes"]
    return {
        "value": found["accuracy"],
        "ci95": found["accuracy_ci95"],
        "episodes": found["episodes"],
        "seconds": seconds,
        "megabytes": _peak() - before,
    }


def apart(given: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    """The same in a process of its own; where it does not come to its end, a ``note`` says why."""
    command = [sys.executable, __file__, json.dumps(dict(given))]
    nothing = {"value": None, "ci95": None, "episodes": given["episodes"]}
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return {**nothing, "note": f"not done after {timeout_s:.0f} s"}
    if ended.returncode == 0:
        return dict(json.loads(ended.stdout.splitlines()[-1]))
    lines = ended.stderr.strip().splitlines() or [f"ended with {ended.returncode}"]
    return {**nothing, "note": f"{lines[-1]} (with at most {given['memory']:g} GB)"}


def _peak() -> float:
    """Megabytes of this process at its peak. (``getrusage`` would count those of the process that started it.)"""
    text = Path("/proc/self/status").read_text("ascii")
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    print(json.dumps(measured(json.loads(sys.argv[1]))))
