"""Variants of a computation timed in turns, each in a process of its own, so that none warms another's cache."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from metasearch.execution.memory import keep_freed_memory

__all__ = ["add_arguments", "rates", "run"]

Answer = dict[str, Any]

Row = Callable[[str, Answer, Mapping[str, float]], str]
"""A variant, what it said of itself first, and the median seconds of all, the baseline's last; its line."""


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
    make: Callable[[], tuple[Callable[[], Any], Answer]],
    *,
    heading: str,
    row: Row,
    names: Callable[[], Sequence[str]] | None = None,
) -> None:
    """A whole script: serves as the process of a variant, or runs them all and prints a line for each.

    Args:
        arguments: the script's.
        make: prepares the variant that ``arguments.variant`` names; gives its step, and what there is to say of it.
        heading: what is computed.
        row: a variant's line.
        names: the variants that can be run here, the baseline last; all of ``arguments.variants`` where not given.
    """
    if arguments.variant:
        _serve(arguments, make)
        return
    usable = names() if names else arguments.variants.split(",")
    firsts, medians = _take_turns(usable, arguments.rounds)
    clock = "wall" if arguments.wall else "CPU"
    print(f"{heading}, {arguments.threads} thread(s), {clock} time, torch {torch.__version__}")
    for name in usable:
        print(f"{name:14} {row(name, firsts[name], medians)}")


def rates(units: str, count: Callable[[str], int]) -> Row:
    """A line with the units a second, the ratio to the baseline, and the ``norm`` of the first gradient.

    Args:
        units: what is counted.
        count: of them in a step of a variant.
    """

    def row(name: str, first: Answer, medians: Mapping[str, float]) -> str:
        *_, baseline = medians
        rate, other = (count(one) / medians[one] for one in (name, baseline))
        return (
            f"{rate:8.2f} {units}/s   {rate / other:5.2f} x {baseline}   ready after {first['ready']:5.1f} s   "
            f"|gradient| {first['norm']:.6f}"
        )

    return row


def _take_turns(names: Sequence[str], rounds: int) -> tuple[dict[str, Answer], dict[str, float]]:
    """Starts this script once for each variant; what each said of itself first, and its median seconds."""
    workers, firsts = {}, {}
    for name in names:  # one after the other, so that what is measured in the making is not disturbed
        workers[name] = _start(name)
        firsts[name] = _ask(workers[name])
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, worker in workers.items():
            seconds[name].append(_ask(worker)["seconds"])
    for worker in workers.values():
        assert worker.stdin is not None
        worker.stdin.close()
        worker.wait()
    return firsts, {name: statistics.median(values) for name, values in seconds.items()}


def _serve(arguments: argparse.Namespace, make: Callable[[], tuple[Callable[[], Any], Answer]]) -> None:
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
