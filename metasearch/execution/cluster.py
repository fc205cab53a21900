"""Ray's start and end, the environment of its workers, and the device a worker was given."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from ray._raylet import Config  # type: ignore[attr-defined]

from metasearch.core.errors import ExecutionError

__all__ = ["RaySession", "assigned_device", "require_resources", "start_ray", "worker_environment"]

_PATIENCE = 5.0
"""Seconds that workers of a local Ray have to end by themselves."""
_DEFAULTS = {"RAY_USAGE_STATS_ENABLED": "0"}
_LOCAL_DEFAULTS = {
    "RAY_AUTH_MODE": "token",  # Ray's own default for local clusters, which warns unless it is set
    "RAY_max_direct_call_object_size": "8388608",  # gradients up to 8 MiB come back with the answer: 1 ms less a call
}
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set in the process of a submitted job
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "33554432",  # glibc ignores larger values
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
}


class RaySession:
    """A connection to Ray; :meth:`close` ends only what :func:`start_ray` started."""

    def __init__(self, started: bool) -> None:
        self._started = started

    def close(self) -> None:
        """Disconnects, and shuts a local Ray down; does nothing where Ray was running in this process before.

        Workers of a local Ray end by themselves. Now and then one hangs in its own exit, for good; after some seconds
        it is killed.
        """
        if self._started and ray.is_initialized():
            workers = _local_workers()
            ray.shutdown()
            _, hanging = psutil.wait_procs(workers, timeout=_PATIENCE)
            for process in hanging:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(hanging, timeout=_PATIENCE)
        self._started = False


def _local_workers() -> list[psutil.Process]:
    """Processes below the raylet that this process has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        raylets = [one for one in psutil.Process().children() if "raylet" in one.name()]
        return [worker for one in raylets for worker in one.children(recursive=True)]
    return []


def start_ray(
    workers: int,
    gpus: float = 0,
    address: str | None = None,
    *,
    cpus_per_worker: float = 1,
    environment: Mapping[str, str] | None = None,
    working_dir: Path | None = None,
) -> RaySession:
    """Connects this process to Ray, or uses the connection it has.

    If the head node of a cluster is lost, Ray ends this process after about a minute **without an exception**: whatever
    must survive has to be on disk before (which is why a search journals first).

    Args:
        workers: how many workers a local Ray must have room for.
        gpus: GPUs of a local Ray (logical ones are possible: Ray does not look for the device).
        address: of a running cluster; None or ``local`` starts Ray on this machine for this process.
        cpus_per_worker: CPUs one worker reserves.
        environment: variables of all workers, if Ray is started here.
        working_dir: folder that is shipped to the hosts of a cluster and imported from there; if None, the present one.

    Raises:
        ConnectionError: if there is no cluster at ``address``.
    """
    if ray.is_initialized():
        return RaySession(started=False)
    local = address in (None, "local")
    _prefer(_DEFAULTS)
    settings: dict[str, Any] = {"runtime_env": {"env_vars": dict(environment or {})}}
    if local:
        _prefer(_LOCAL_DEFAULTS)
        Config.initialize("")  # Ray read its environment when it was imported, before these were set
        cpus = max(1, math.ceil(workers * cpus_per_worker))
        settings |= {"num_cpus": cpus, "num_gpus": math.ceil(gpus), "include_dashboard": False}
    elif _SUBMITTED in os.environ:
        settings["runtime_env"] = {}  # `ray job submit` has made the environment; Ray merges no second one into it
    else:
        settings["runtime_env"]["working_dir"] = str(working_dir or Path.cwd())
    ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **settings)
    return RaySession(started=True)


def worker_environment(threads: int, extra: Mapping[str, str] | None = None, *, local: bool = True) -> dict[str, str]:
    """Variables of a worker's process.

    Threads are fixed, because results depend on them in the last bits; the allocator keeps memory instead of returning
    it page by page. On this machine the workers also import from where the driver does.

    Args:
        threads: of one worker's numerical libraries.
        extra: the caller's variables, which win.
        local: whether the workers share this machine's files.
    """
    fixed = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    malloc = {name: os.environ.get(name, value) for name, value in _MALLOC.items()}
    paths = {"PYTHONPATH": os.pathsep.join(_own_paths())} if local else {}
    return {**fixed, **malloc, **paths, **(extra or {})}


def require_resources(workers: int, cpus: float, gpus: float) -> None:
    """Refuses a pool that the connected Ray can never hold.

    Raises:
        ExecutionError: naming what is needed and what there is.
    """
    have: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for name, needed in (("CPU", workers * cpus), ("GPU", workers * gpus)):
        if needed > have.get(name, 0) + 1e-9:
            raise ExecutionError(
                f"{workers} workers need {needed:g} {name}, but the Ray that this process is connected to has "
                f"{have.get(name, 0):g}; lower execution.workers or start Ray with more"
            )


def assigned_device() -> str:
    """The device a program should compute on: ``cuda:0`` where a GPU is meant for this process, else ``cpu``.

    In a Ray worker this is the GPU (or share of one) that Ray assigned, which is always the first visible one; without
    an assignment it is the CPU. Outside of Ray's workers it is the first GPU, if there is one.
    """
    if not torch.cuda.is_available():
        return "cpu"
    in_worker = ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None
    return "cuda:0" if not in_worker or ray.get_gpu_ids() else "cpu"


def _prefer(defaults: Mapping[str, str]) -> None:
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _own_paths() -> list[str]:
    """Entries of sys.path that are not the interpreter's own (the working directory is written as '')."""
    own = [Path(entry).absolute() for entry in sys.path]
    roots = [Path(root).absolute() / "lib" for root in (sys.prefix, sys.base_prefix)]
    return list(
        dict.fromkeys(str(entry) for entry in own if entry.exists() and not any(map(entry.is_relative_to, roots)))
    )
