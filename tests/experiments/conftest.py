"""What tests of experiments in parts share."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def modules() -> Iterator[Callable[[str], dict[str, Any]]]:
    """Modules of an experiment and of what experiments have in common, by name."""
    sys.path.insert(0, str(ROOT))

    def of(name: str) -> dict[str, Any]:
        return {
            path.stem: importlib.import_module(f"experiments.{folder}.{path.stem}")
            for folder in ("common", name)
            for path in sorted((ROOT / "experiments" / folder).glob("*.py"))
        }

    yield of
    sys.path.remove(str(ROOT))


@pytest.fixture(scope="session")
def done() -> Callable[..., list[dict[str, Any]]]:
    """Does those jobs of a part whose labels and settings are the wanted ones: their rows, its files being written."""

    def do(parts: dict[str, Any], plan: Any, out: Path, part: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        jobs = [
            job
            for job in parts["parts"].PARTS[part](plan)
            if all({**job.given, **job.labels}.get(key) in values for key, values in wanted.items())
        ]
        store = parts["jobs"].Store(out)
        assert store.work(jobs, plan.scale, time.monotonic() + 600)
        rows: list[dict[str, Any]] = store.rows(jobs)
        parts["__main__"].written(part, store, jobs, out)
        assert (out / f"{part}.png").read_bytes()[:4] == b"\x89PNG"
        assert (out / f"{part}.csv").read_text().count("\n") == 1 + len(rows)
        return rows

    return do
