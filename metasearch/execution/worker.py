"""What a Ray worker does; a plain class, so that it runs and is tested without Ray."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cloudpickle
import ray
import torch

from metasearch.core.values import Call, Failure, Measurement
from metasearch.execution.failures import attempt
from metasearch.execution.packing import Packed, pack, unpack

if TYPE_CHECKING:
    from metasearch.core.contracts import Program

__all__ = ["Worker", "load_program"]


def load_program(setup: bytes, threads: int) -> Program:
    """Builds a program in this process, whose numerical libraries get ``threads`` threads."""
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
        self._phi: tuple[Any, Packed] | None = None

    def start(self) -> tuple[int, Failure | None]:
        """Builds the program; the process id, and why the program could not be built."""
        built = attempt(load_program, self._setup, self._threads)
        if isinstance(built, Failure):
            return os.getpid(), built
        self._program = built
        return os.getpid(), None

    def measure(self, packed: Packed, phi: list[Any], carried: list[Any]) -> Packed:
        """Answers one call with a packed measurement or failure.

        Args:
            packed: the call, without what it refers to.
            phi: the reference to phi alone in a list (which keeps Ray from fetching it again for each call), or empty.
            carried: the reference to the carried state likewise.
        """
        references = {"phi": self._fetch(phi[0])} if phi else {}
        if carried:
            references["carried"] = ray.get(carried[0])
        return pack(attempt(self._answer, packed, references))

    def _answer(self, packed: Packed, references: dict[str, Packed]) -> Measurement:
        if self._program is None:
            raise RuntimeError("start() must be called before the first call")
        call: Call = unpack(packed)
        call = replace(call, **{name: unpack(value) for name, value in references.items()})
        return self._program.measure(call)

    def _fetch(self, reference: Any) -> Packed:
        """Phi's shared memory; the last one is kept, since many calls of a step refer to it."""
        if self._phi is None or self._phi[0] != reference:
            self._phi = None  # let go of the old one first
            self._phi = (reference, ray.get(reference))
        return self._phi[1]
