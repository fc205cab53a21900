"""What a pool of Ray actors costs: python experiments/benchmarks/actor_overhead.py

Prints the time of a trivial call in the process, through one actor call by call, and through one actor with many calls
in flight; the overhead as a share of a 20 ms evaluation; and what a second worker gains on one. Medians of alternating
rounds.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from metasearch.core.values import Call, Measurement, Phi
from metasearch.execution import Actors, Inline, gather, start_ray


class Busy:
    """Answers ``trivial`` at once and ``busy`` after 20 ms of work on one core."""

    def measure(self, call: Call) -> Measurement:
        end = time.thread_time() + (0.02 if call.function == "busy" else 0.0)
        matrix = np.ones((64, 64))
        while time.thread_time() < end:
            matrix = np.tanh(matrix @ matrix)
        value = np.zeros(8)
        return Measurement(value, value, gradient=dict(call.phi.tensors))

    def run(self, call: Call, trial: object) -> Measurement:
        raise TypeError("this program answers function calls only")


def calls(n: int, function: str, phi: object) -> list[Call]:
    return [Call(0, index, function, phi, tuple(range(8)), index) for index in range(n)]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def one_by_one(executor: Inline | Actors, work: list[Call]) -> None:
    for call in work:
        gather(executor, [call])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200, help="calls in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parameters", type=int, default=112_000, help="size of phi and of each gradient sent back")
    options = parser.parse_args()
    phi = Phi({f"initialization.{i}": torch.ones(options.parameters // 8) for i in range(8)})
    ray = start_ray(workers=3)
    with Inline(Busy) as inline, Actors(Busy, 1) as one, Actors(Busy, 2) as two:
        pools = {"in the process": inline, "one actor": one, "two actors": two}
        shared = {name: pool.put(phi) for name, pool in pools.items()}
        one.pids()
        two.pids()

        def rounds(function: str, names: list[str], run: Callable[..., object], n: int) -> dict[str, float]:
            taken: dict[str, list[float]] = {name: [] for name in names}
            for turn in range(options.rounds + 1):
                for name in names:
                    work = calls(n, function, shared[name])
                    span = seconds(lambda pool=pools[name], work=work: run(pool, work))
                    if turn:  # the first round warms up
                        taken[name].append(span / n)
            return {name: statistics.median(spans) for name, spans in taken.items()}

        both = ["in the process", "one actor"]
        latency = rounds("trivial", both, one_by_one, options.calls)
        stream = rounds("trivial", both, gather, options.calls)
        busy = rounds("busy", list(pools), gather, max(20, options.calls // 5))
    ray.close()
    here, actor = both
    print(f"phi and gradients of {options.parameters} parameters, {os.cpu_count()} cores")
    for name, spans in (("one by one", latency), ("in flight together", stream)):
        print(
            f"trivial call, {name}: {1e3 * spans[here]:.2f} ms in the process, {1e3 * spans[actor]:.2f} ms by an actor"
        )
    print(f"overhead of an actor's call: {1e3 * (latency[actor] - latency[here]):.2f} ms")
    share = 100 * (busy[actor] / busy[here] - 1)
    alone, pooled = 1e3 * busy[here], 1e3 * busy[actor]
    print(f"20 ms evaluation: {alone:.2f} ms in the process, {pooled:.2f} ms by an actor, {share:+.1f} %")
    print(f"two workers over one: {busy[actor] / busy['two actors']:.2f} x")


if __name__ == "__main__":
    main()
