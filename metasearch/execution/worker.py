"""What a Ray worker does; a plain class, so that it runs and is tested without Ray."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cloudpickle
import ray
import torch

from metasearch.core.values import Call, Failure, Measurement
from metasearch.execution.failures import attempt
from metasearch.execution.memory import keep_freed_memory
from metasearch.execution.packing import pack, unpack

if TYPE_CHECKING:
    from metasearch.core.contracts import Program

__all__ = ["Worker", "load_program"]


def load_program(setup: bytes, threads: int) -> Program:
    """Builds a program in this process, a worker's own, whose numerical libraries get ``threads`` threads."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    program: Program = cloudpickle.loads(setup)()
    return program


class Worker:
    """Holds the program and answers calls.

    Args:
        setup: the cloudpickled function that makes the program.
        threads: for the numerical libraries.
    """

    def __init__(self, setup: bytes, threads: int) -> None:
        self._setup = setup
        self._threads = threads
        self._program: Program | None = None
        self._kept: dict[str, tuple[Any, bytes]] = {}

    def start(self) -> tuple[int, Failure | None]:
        """Builds the program; the process id, and why the program could not be built."""
        built = attempt(load_program, self._setup, self._threads)
        if isinstance(built, Failure):
            return os.getpid(), built
        self._program = built
        return os.getpid(), None

    def measure(self, packed: bytes, references: Mapping[str, Any] | None = None) -> bytes:
        """Answers one call with a packed measurement or failure.

        Args:
            packed: the call, without what it refers to.
            references: Ray's references to the call's ``phi`` and ``carried``, where they were put (inside a mapping,
                Ray leaves it to this method to fetch them).
        """
        values = {name: self._fetch(name, reference) for name, reference in (references or {}).items()}
        return pack(attempt(self._answer, packed, values))

    def _answer(self, packed: bytes, values: Mapping[str, bytes]) -> Measurement:
        if self._program is None:
            raise RuntimeError("start() must be called before the first call")
        call: Call = unpack(packed)
        if values:
            call = replace(call, **{name: unpack(value) for name, value in values.items()})
        return self._program.measure(call)

    def _fetch(self, name: str, reference: Any) -> bytes:
        """A value that was put; the last one of each name is kept, since many calls of a step refer to one phi."""
        if name not in self._kept or self._kept[name][0] != reference:
            self._kept.pop(name, None)  # let go of the old one first
            self._kept[name] = (reference, ray.get(reference))
        return self._kept[name][1]
