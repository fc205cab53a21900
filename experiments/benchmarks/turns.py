"""Variants of a computation timed in turns, each in a process of its own, so that none warms another's cache."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from metasearch.execution.memory import keep_freed_memory

__all__ = ["add_arguments", "run", "serve", "take_turns"]

Answer = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser, variants: str, keep: str = "") -> None:
    """The options that all such scripts have.

    Args:
        parser: of the script.
        variants: default list of names with commas between.
        keep: default list of those that keep the memory which they freed, as the workers of a search do.
    """
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wall", action="store_true", help="wall time in place of CPU time")
    parser.add_argument("--variants", default=variants, help="with commas between; the last one is the baseline")
    parser.add_argument(
        "--keep-memory", default=keep, help="variants that keep freed memory for themselves, as workers of a search do"
    )
    parser.add_argument("--variant", default="", help=argparse.SUPPRESS)


def run(
    arguments: argparse.Namespace,
    names: Callable[[], Sequence[str]],
    make: Callable[[], tuple[Callable[[], Any], Answer]],
    *,
    heading: str,
    unit: str,
) -> None:
    """A whole script: serves as the process of a variant, or runs them all and prints their rates.

    Args:
        arguments: the script's, with ``tasks`` of a step.
        names: the variants that can be run here.
        make: prepares the one that ``arguments.variant`` names; says the ``norm`` of its first gradient.
        heading: what is computed.
        unit: of a task, in the plural.
    """
    if arguments.variant:
        serve(arguments, make)
        return
    usable = names()
    firsts, medians = take_turns(usable, arguments.rounds)
    baseline = usable[-1]
    print(f"{heading}, {arguments.threads} thread(s), {'wall' if arguments.wall else 'CPU'} time")
    for name in usable:
        rate, first = arguments.tasks / medians[name], firsts[name]
        print(
            f"{name:12} {rate:8.2f} {unit}/s   {medians[baseline] / medians[name]:5.2f} x {baseline}   "
            f"ready after {first['ready']:5.1f} s   |gradient| {first['norm']:.6f}"
        )


def take_turns(names: Sequence[str], rounds: int) -> tuple[dict[str, Answer], dict[str, float]]:
    """Starts this script once for each variant; what each said of itself first, and its median seconds."""
    workers = {name: _start(name) for name in names}
    firsts = {name: _ask(worker) for name, worker in workers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, worker in workers.items():
            seconds[name].append(_ask(worker)["seconds"])
    for worker in workers.values():
        assert worker.stdin is not None
        worker.stdin.close()
        worker.wait()
    return firsts, {name: statistics.median(values) for name, values in seconds.items()}


def serve(arguments: argparse.Namespace, make: Callable[[], tuple[Callable[[], Any], Answer]]) -> None:
    """In the process of a variant: one timed step for each line on stdin.

    Args:
        arguments: the script's, with ``variant``.
        make: prepares it; gives the step, and what there is to say of it besides ``seconds`` and ``ready``.
    """
    clock = time.perf_counter if arguments.wall else time.process_time
    torch.set_num_threads(arguments.threads)
    if arguments.variant in arguments.keep_memory.split(","):
        keep_freed_memory()
    begin = time.perf_counter()
    step, said = make()
    said = {**said, "ready": time.perf_counter() - begin}
    for _ in sys.stdin:
        start = clock()
        step()
        print(json.dumps({"seconds": clock() - start, **said}), flush=True)


def _start(variant: str) -> subprocess.Popen[str]:
    command = [sys.executable, *sys.argv, "--variant", variant]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(worker: subprocess.Popen[str]) -> Answer:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    answer: Answer = json.loads(worker.stdout.readline())
    return answer
