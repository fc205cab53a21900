"""``metasearch doctor``: what works here, and what to do about what does not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
import urllib.error
import urllib.request
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import metasearch
from metasearch.core.errors import MetasearchError
from metasearch.display.figures import count, duration, place

__all__ = ["Finding", "doctor"]

_PACKAGES = ("torch", "numpy", "ray", "mlflow", "optuna", "pydantic", "safetensors")
_GB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        status: ``ok``, ``note`` (a search works, less well) or ``fail``.
        subject: what was looked at.
        text: what was found.
        advice: what to do about it.
    """

    status: Literal["ok", "note", "fail"]
    subject: str
    text: str
    advice: str = ""


def doctor(given: Namespace) -> int:
    """Prints all findings as they come; the exit status is 1 if something does not work."""
    checks: list[Callable[[], Iterator[Finding]]] = [_versions, _devices, _compiler, _mlflow, _data, _disk]
    if given.ray:
        checks.append(_ray)
    failed = False
    for check in checks:
        for finding in _safely(check):
            failed |= finding.status == "fail"
            print(f"{finding.status:<5} {finding.subject:<13} {finding.text}", flush=True)
            if finding.advice:
                print(f"{'':<19} -> {finding.advice}", flush=True)
    if not given.ray:
        print(f"{'-':<5} {'ray':<13} not tried; `metasearch doctor --ray` starts one and stops it again")
    return 1 if failed else 0


def _safely(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check that breaks is a finding, too: the others are still wanted."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - whatever is broken here is what is being looked for
        first = next(iter(str(error).splitlines()), "")
        yield Finding("fail", check.__name__.strip("_"), f"{type(error).__name__}: {first}")


def _versions() -> Iterator[Finding]:
    yield Finding("ok", "python", f"{platform.python_version()} ({sys.executable})")
    yield Finding("ok", "metasearch", f"{metasearch.__version__} ({Path(metasearch.__file__).parent})")
    for name in _PACKAGES:
        try:
            yield Finding("ok", name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("fail", name, "not installed", f"pip install {name}")


def _devices() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("ok", "cpu", f"{count(cores, 'core')}: up to {count(cores, 'worker')} (execution.workers)")
    if not torch.cuda.is_available():
        built = "this torch is a CPU build" if torch.version.cuda is None else "torch sees none"
        yield Finding("ok", "gpu", f"none ({built}); searches run on the CPU")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        yield Finding(
            "ok", f"gpu {index}", f"{torch.cuda.get_device_name(index)}, {free / _GB:.0f} of {total / _GB:.0f} GiB free"
        )
    yield Finding("ok", "gpu", "use it with --gpus-per-worker 1 (or a fraction)")


def _compiler() -> Iterator[Finding]:
    """Compiles a small second derivative, as a search does."""
    import torch

    from metasearch.estimators.compile import compile_graph

    advice = "install one (Debian, Ubuntu: apt install g++ python3-dev); until then searches run several times slower"
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        yield Finding("note", "c++ compiler", "none found", advice)
        return

    def curvature(values: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        point = values[0].requires_grad_()
        (slope,) = torch.autograd.grad(point.sin().sum(), point, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), point)

    started = time.monotonic()
    try:
        (value,) = compile_graph(curvature, [torch.ones(8)], "always")([torch.ones(8)])
    except MetasearchError as error:
        yield Finding("note", "c++ compiler", f"{compiler} does not compile a gradient: {error}", advice)
        return
    expected = -2 * torch.ones(8).sin() * torch.ones(8).cos()
    if not torch.allclose(value, expected, atol=1e-6):
        yield Finding(
            "fail", "c++ compiler", "the compiled gradient is wrong", "set numerics.compile to never, and report this"
        )
        return
    yield Finding("ok", "c++ compiler", f"{compiler}, compiled a gradient in {duration(time.monotonic() - started)}")


def _mlflow() -> Iterator[Finding]:
    from metasearch.tracking.mlflow_store import default_uri

    uri = default_uri()
    if uri.startswith(("http://", "https://")):
        yield _server(uri)
    elif uri.startswith("sqlite:///"):
        yield _database(Path(uri.removeprefix("sqlite:///")))
    else:
        yield Finding(
            "note", "mlflow store", f"{uri}: not looked into", "a search says at its start whether it can write there"
        )


def _server(uri: str) -> Finding:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
            return Finding("ok", "mlflow store", f"{uri} answers")
    except (urllib.error.URLError, OSError, ValueError) as error:
        advice = "start it, or unset MLFLOW_TRACKING_URI; a search runs without it and catches up later"
        return Finding("note", "mlflow store", f"{uri} does not answer ({error})", advice)


def _database(file: Path) -> Finding:
    if not file.exists():
        if os.access(file.parent, os.W_OK):
            return Finding("ok", "mlflow store", f"{place(file)}: made by the first search")
        return Finding(
            "fail",
            "mlflow store",
            f"{file.parent} cannot be written",
            "go to a folder of yours, or set MLFLOW_TRACKING_URI",
        )
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        try:
            (experiments,) = connection.execute("select count(*) from experiments").fetchone()
            (runs,) = connection.execute("select count(*) from runs").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        return Finding(
            "fail", "mlflow store", f"{place(file)}: {error}", "move the file away; the next search makes a new one"
        )
    return Finding(
        "ok", "mlflow store", f"{place(file)}: {count(experiments, 'experiment')}, {count(runs, 'run')}; metasearch ui"
    )


def _data() -> Iterator[Finding]:
    from metasearch.tasks import datasets

    for name, dataset in datasets.DATASETS.items():
        found = datasets.place(name)
        if found is None:
            yield Finding("ok", "data", f"{name}: not here; metasearch datasets get {name}")
            continue
        where, path = found
        try:
            datasets.verify(name, path)
        except MetasearchError as error:
            advice = (
                "nothing, if these files are your own"
                if where in ("folder", "METASEARCH_DATA")
                else f"delete {path} and fetch it again"
            )
            yield Finding("note", "data", f"{name}: {error}", advice)
        else:
            yield Finding("ok", "data", f"{name}: {place(path)} ({where}), checksums right; licence: {dataset.licence}")


def _disk() -> Iterator[Finding]:
    for subject, folder in (("disk here", Path.cwd()), ("disk, temp", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free / _GB
        advice = "" if free >= 1 else "make room: checkpoints, Ray's and the compiler's files go there"
        yield Finding("ok" if free >= 1 else "note", subject, f"{free:.1f} GiB free in {folder}", advice)


def _ray() -> Iterator[Finding]:
    from metasearch.execution import start_ray

    started = time.monotonic()
    session = start_ray(1)
    try:
        yield Finding("ok", "ray", f"a local one started in {duration(time.monotonic() - started)}")
    finally:
        session.close()
