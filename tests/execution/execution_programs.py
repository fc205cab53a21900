"""Programs and calls for the executors' tests; a module of its own, so that workers import it like a user's."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ray
import torch

from metasearch.core.contracts import Executor, Trial
from metasearch.core.values import Call, Failure, Measurement, Phi, Report


def call(index: int, function: str = "work", phi: object = None, **extra: object) -> Call:
    return Call(
        proposal=index, index=index, function=function, phi=phi, seeds=(index, index + 1), seed=100 + index, extra=extra
    )


def trial(proposal: int, function: str = "steady", **extra: object) -> Call:
    return Call(
        proposal=proposal, index=0, function=function, phi=None, seeds=(), seed=proposal, extra={"trial": True, **extra}
    )


def phi() -> Phi:
    generator = torch.Generator().manual_seed(0)
    return Phi({"initialization.w": torch.randn(40, 40, generator=generator), "rates.a": torch.tensor(0.5)})


def answer(value: float, **metrics: float) -> Measurement:
    array = np.array([value])
    return Measurement(array, array, {name: np.array([number]) for name, number in metrics.items()})


class Program:
    """Answers each call by the method it names."""

    def measure(self, call: Call) -> Measurement:
        result: Measurement = getattr(self, call.function)(call)
        return result

    def run(self, call: Call, trial: Trial) -> Measurement:
        result: Measurement = getattr(self, call.function)(call, trial)
        return result

    def work(self, call: Call) -> Measurement:
        """A product whose result depends on all that a call carries; takes a time that depends on the call."""
        time.sleep((call.seed * 2654435761 % 17) / 1000)
        w = call.phi.tensors["initialization.w"]
        x = torch.from_numpy(np.random.default_rng(call.seeds).standard_normal((40, 40))).float()
        product = torch.tanh(w @ x)
        loss = product.double().square().mean(1).numpy()
        return Measurement(
            loss, loss, {"seed": np.array([float(call.seed)])}, gradient={"initialization.w": product @ x.T}
        )

    def scribble(self, call: Call) -> Measurement:
        """The sum of phi, which is then overwritten in place, also through numpy."""
        w = call.phi.tensors["initialization.w"]
        total = float(w.double().sum())
        w.add_(1000.0)
        w.numpy()[:] = 7.0
        return answer(total)

    def mistake(self, call: Call) -> Measurement:
        raise KeyError("no such thing as a free lunch")

    def too_large(self, call: Call) -> Measurement:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    def leave(self, call: Call) -> Measurement:
        raise SystemExit(3)

    def die(self, call: Call) -> Measurement:
        os._exit(1)

    def device(self, call: Call) -> Measurement:
        ids = ray.get_gpu_ids()
        time.sleep(0.2)  # so that one worker cannot answer for all
        return answer(float(os.getpid()), gpus=float(len(ids)), gpu=float(ids[0]) if ids else -1.0)

    def environment(self, call: Call) -> Measurement:
        return answer(
            float(torch.get_num_threads()),
            omp=float(os.environ["OMP_NUM_THREADS"]),
            mmap=float(os.environ["MALLOC_MMAP_THRESHOLD_"]),
            mine=float(os.environ.get("METASEARCH_TEST_VALUE", "nan")),
        )

    def steady(self, call: Call, trial: Trial) -> Measurement:
        """Nine steps, each checkpointed; the loss is worse for later proposals."""
        return train(trial, 9)

    def slow(self, call: Call, trial: Trial) -> Measurement:
        return train(trial, 6, lambda step: time.sleep(0.25))

    def together(self, call: Call, trial: Trial) -> Measurement:
        """Waits for its neighbour (51 for 50, 53 for 52 ...) to run as well."""
        up = trial.checkpoint().parents[1]
        (up / f"up-{call.proposal}").touch()
        end = time.monotonic() + 60
        while not (up / f"up-{call.proposal ^ 1}").exists() and time.monotonic() < end:
            time.sleep(0.05)
        return train(trial, 1, lambda step: None)

    def failing(self, call: Call, trial: Trial) -> Measurement:
        def stumble(step: int) -> None:
            if step == 3:
                raise ValueError("the third step is one too many")

        return train(trial, 9, stumble)

    def silent(self, call: Call, trial: Trial) -> Measurement:
        return answer(float(trial.seed))

    def diverging(self, call: Call, trial: Trial) -> Measurement:
        for step in range(1, 10):
            trial.report(step, L=float("nan"))
        return answer(float("nan"))

    def careless(self, call: Call, trial: Trial) -> Measurement:
        """Catches every exception around its reports, as user code does."""
        for step in range(1, 10):
            with contextlib.suppress(Exception):
                trial.report(step, L=1000.0)
        return answer(1000.0)

    def backwards(self, call: Call, trial: Trial) -> Measurement:
        trial.report(2, L=1.0)
        trial.report(1, L=1.0)
        return answer(1.0)


def train(trial: Trial, steps: int, each: Callable[[int], None] = lambda step: None) -> Measurement:
    """A run that remembers in its checkpoint how far it came, and in ``done`` how many steps it did itself."""
    start = 0 if trial.restored is None else int((trial.restored / "step").read_text())
    for step in range(start + 1, steps + 1):
        each(step)
        (trial.checkpoint() / "step").write_text(str(step))
        trial.report(step, L=trial.id + 1 / step, pid=float(os.getpid()))
    return answer(float(trial.id), done=float(steps - start))


class Broken(Program):
    def __init__(self) -> None:
        raise FileNotFoundError("data/omniglot is missing")


class DiesAtStart(Program):
    def __init__(self) -> None:
        os._exit(1)


def drain(
    executor: Executor, calls: list[Call], each: Callable[[Call, Report], None] = lambda call, report: None
) -> tuple[dict[int, list[Report]], dict[int, Measurement | Failure]]:
    """Submits calls and collects reports and ends by proposal; no call may end twice."""
    for one in calls:
        executor.submit(one)
    reports: dict[int, list[Report]] = {one.proposal: [] for one in calls}
    ends: dict[int, Measurement | Failure] = {}
    while len(ends) < len(calls):
        arrived = executor.wait(60)
        assert arrived, f"no answer within a minute; still open: {set(reports) - set(ends)}"
        for one, outcome in arrived:
            assert one.proposal not in ends
            if isinstance(outcome, Report):
                reports[one.proposal].append(outcome)
                each(one, outcome)
            else:
                ends[one.proposal] = outcome
    assert executor.wait(0) == []
    return reports, ends


def checkpoint_step(storage: Path, report: Report) -> int:
    assert report.checkpoint is not None
    return int((storage / report.checkpoint / "step").read_text())
