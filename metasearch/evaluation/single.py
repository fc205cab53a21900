"""The driver's half of an evaluation that is one call, whatever a worker does in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from metasearch.core.values import Call, Estimate, Measurement

__all__ = ["SingleCall"]


class SingleCall:
    """One call a proposal, whose measurement is the estimate."""

    gives_gradient: ClassVar[bool] = False
    carries: ClassVar[bool] = False
    extra: ClassVar[Mapping[str, Any]] = {}
    shard: int = 1

    def calls(self, proposal: int, phi: Any, carried: Sequence[Any] | None, seed: int) -> list[Call]:
        """The single call of a proposal."""
        return [Call(proposal, 0, "train", phi, (seed,), seed, extra=self.extra)]

    def combine(self, measurements: Sequence[Measurement]) -> tuple[Estimate, list[Any] | None]:
        """What the call was answered with."""
        (one,) = measurements
        finite = bool(np.isfinite(one.query).all())
        metrics = {name: float(values[0]) for name, values in one.metrics.items()}
        value = float(one.query[0])
        return Estimate(value, value, metrics, one.query, diverged=() if finite else (0,)), None
