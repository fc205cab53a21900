"""The pool of Ray actors: the same answers as in the process, whatever happens to the workers."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from execution_programs import Broken, DiesAtStart, Program, call, drain, phi, trial

from metasearch.core.errors import ExecutionError, UnsupportedError
from metasearch.core.values import Failure, Measurement, fingerprint
from metasearch.execution import Actors, CallFailedError, Inline, assigned_device, gather

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def pool(local_ray: None) -> Iterator[Actors]:
    with Actors(Program, 2) as executor:
        yield executor


def prints(measurements: list[Measurement]) -> list[str]:
    tensors = [
        {**(m.gradient or {}), "query": torch.from_numpy(m.query), "seed": torch.from_numpy(m.metrics["seed"])}
        for m in measurements
    ]
    return [fingerprint(group) for group in tensors]


@pytest.fixture(scope="module")
def reference() -> list[str]:
    with Inline(Program) as executor:
        shared = executor.put(phi())
        return prints(gather(executor, [call(i, phi=shared) for i in range(24)]))


@pytest.mark.parametrize("workers", [1, 3])
def test_measurements_equal_those_in_the_process_bit_for_bit(
    local_ray: None, reference: list[str], workers: int
) -> None:
    threads = torch.get_num_threads()
    with Actors(Program, workers, threads=threads) as executor:
        shared = executor.put(phi())
        assert prints(gather(executor, [call(i, phi=shared) for i in range(24)])) == reference


def test_two_workers_and_phi_by_value_give_the_same_too(pool: Actors, reference: list[str]) -> None:
    assert prints(gather(pool, [call(i, phi=phi()) for i in range(24)])) == reference


def test_each_call_is_answered_once_after_a_worker_is_killed(local_ray: None, reference: list[str]) -> None:
    with Actors(Program, 2) as executor:
        shared = executor.put(phi())
        victim = executor.pids()[0]
        calls = [call(i, phi=shared) for i in range(24)]
        for one in calls:
            executor.submit(one)
        arrived = executor.wait()
        os.kill(victim, signal.SIGKILL)
        while len(arrived) < len(calls):
            arrived += executor.wait()
        assert executor.wait() == []
        assert sorted(one.index for one, _ in arrived) == list(range(24))
        ends = {one.index: outcome for one, outcome in arrived}
        assert prints([m for i in range(24) if isinstance(m := ends[i], Measurement)]) == reference
        assert victim not in executor.pids()


def test_put_phi_is_safe_against_writes_in_place(pool: Actors) -> None:
    value = phi()
    total = float(value.tensors["initialization.w"].double().sum())
    shared = pool.put(value)
    value.tensors["initialization.w"].zero_()
    assert [m.query[0] for m in gather(pool, [call(i, "scribble", shared) for i in range(6)])] == [total] * 6


def test_new_phi_replaces_the_cached_one(pool: Actors) -> None:
    for scale in (1.0, 2.0, 3.0):
        value = phi().replace(tensors={"initialization.w": torch.full((40, 40), scale)})
        shared = pool.put(value)
        assert [m.query[0] for m in gather(pool, [call(i, "scribble", shared) for i in range(4)])] == [1600 * scale] * 4


def test_carried_state_travels_by_reference_too(pool: Actors) -> None:
    from dataclasses import replace

    one = replace(call(0, "mistake"), carried=pool.put({"steps": torch.ones(3000)}))
    with pytest.raises(CallFailedError, match=r"\[user_error\].*free lunch"):
        gather(pool, [one])


def test_errors_are_told_apart_and_the_worker_goes_on(pool: Actors) -> None:
    before = pool.pids()
    calls = [call(0, "mistake"), call(1, "too_large"), call(2, "leave"), call(3, phi=phi())]
    _, ends = drain(pool, calls)
    kinds = [ends[i].kind if isinstance(ends[i], Failure) else "measured" for i in range(4)]  # type: ignore[union-attr]
    assert kinds == ["user_error", "out_of_memory", "user_error", "measured"]
    failure = ends[0]
    assert isinstance(failure, Failure)
    assert "in mistake" in failure.traceback
    assert pool.pids() == before


def test_call_that_kills_its_worker_is_lost_and_its_neighbours_are_not(local_ray: None) -> None:
    with Actors(Program, 1, max_repeats=2) as executor:
        shared = executor.put(phi())
        calls = [call(0, phi=shared), call(1, "die"), *(call(i, phi=shared) for i in range(2, 5))]
        _, ends = drain(executor, calls)  # (an answer may die with the worker's next call: then its call is repeated)
    failure = ends.pop(1)
    assert isinstance(failure, Failure)
    assert failure.kind == "lost"
    assert "3 attempts" in failure.message
    assert all(isinstance(end, Measurement) for end in ends.values())


def test_program_that_cannot_be_built_fails_the_calls(local_ray: None) -> None:
    with Actors(Broken, 2) as executor:
        _, ends = drain(executor, [call(i) for i in range(3)])
    assert all(
        isinstance(end, Failure) and end.kind == "user_error" and "data/omniglot is missing" in end.message
        for end in ends.values()
    )


def test_workers_that_die_at_their_start_do_not_hang_the_driver(local_ray: None) -> None:
    with Actors(DiesAtStart, 1, max_repeats=0) as executor:
        _, ends = drain(executor, [call(0)])
    failure = ends[0]
    assert isinstance(failure, Failure)
    assert failure.kind == "lost"
    assert "while they started" in failure.message


def test_setup_may_be_a_closure(local_ray: None) -> None:
    offset = 5.0

    def setup() -> object:
        class Shifted(Program):
            def shifted(self, call: object) -> Measurement:
                return Measurement(np.array([offset]), np.array([offset]))

        return Shifted()

    with Actors(setup, 1) as executor:  # type: ignore[arg-type]
        assert gather(executor, [call(0, "shifted")])[0].query[0] == 5.0


def test_two_halves_of_a_gpu_are_the_same_gpu(local_ray: None) -> None:
    with Actors(Program, 2, gpus_per_worker=0.5) as executor:
        executor.pids()
        measurements = gather(executor, [call(i, "device") for i in range(2)])
    assert [(m.metrics["gpus"][0], m.metrics["gpu"][0]) for m in measurements] == [(1, 0), (1, 0)]
    assert measurements[0].query[0] != measurements[1].query[0]


def test_device_is_the_cpu_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert assigned_device() == "cpu"


def test_device_outside_of_workers_is_the_gpu_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert assigned_device() == "cuda:0"


def test_workers_environment_is_set(local_ray: None) -> None:
    with Actors(Program, 1, threads=2, environment={"METASEARCH_TEST_VALUE": "7"}) as executor:
        (got,) = gather(executor, [call(0, "environment")])
    assert got.query[0] == 2
    assert {name: value[0] for name, value in got.metrics.items()} == {"omp": 2, "mmap": 33554432, "mine": 7}


def test_wait_gives_up_in_time(pool: Actors) -> None:
    assert pool.wait(5) == []  # nothing queued: at once
    pool.pids()
    pool.submit(call(0, "device"))
    start = time.monotonic()
    assert pool.wait(0.05) == []
    assert time.monotonic() - start < 0.2  # the call takes longer
    assert len(pool.wait()) == 1


def test_calls_are_shared_evenly(local_ray: None) -> None:
    with Actors(Program, 2) as executor:
        executor.pids()
        answered = Counter(m.query[0] for m in gather(executor, [call(i, "device") for i in range(4)]))
    assert sorted(answered.values()) == [2, 2]


def test_training_runs_and_oversized_pools_are_refused(pool: Actors) -> None:
    with pytest.raises(UnsupportedError, match="training runs need"):
        pool.submit(trial(0))
    with pytest.raises(ExecutionError, match="50 CPU"):
        Actors(Program, 50)
    with pytest.raises(ExecutionError, match="at least 1 worker"):
        Actors(Program, 0)
