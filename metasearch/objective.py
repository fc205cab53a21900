"""An evaluation that is a user's own training function: ``train(config, trial) -> L``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pydantic import Field

from metasearch.core.config import Config as BaseConfig
from metasearch.core.contracts import Trial
from metasearch.core.errors import ConfigError
from metasearch.core.registry import resolve
from metasearch.core.values import Call, Measurement
from metasearch.evaluation.single import SingleCall

__all__ = ["Objective", "TrialCalls", "measurement"]


class TrialCalls(SingleCall):
    """The driver's half of an evaluation that is one training run."""

    extra = {"trial": True}  # noqa: RUF012 - a constant


def measurement(result: float | Mapping[str, float], seconds: float) -> Measurement:
    """The measurement that a training function's return value means: L, or metrics with ``L`` among them.

    Raises:
        ConfigError: if there is no ``L``.
    """
    metrics = dict(result) if isinstance(result, Mapping) else {"L": result}
    if "L" not in metrics or metrics["L"] is None:
        raise ConfigError(
            "evaluation.function", f"must return L (a number, lower is better) or a mapping with 'L', got {result!r}"
        )
    value = np.array([float(metrics.pop("L"))])
    return Measurement(value, value, {name: np.array([float(one)]) for name, one in metrics.items()}, seconds=seconds)


class Objective(TrialCalls):
    """Calls ``function(config, trial)`` for each proposal.

    Args:
        config: its settings.
        program: the worker's program.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            function: a callable, or ``module:name`` of one; returns L, lower is better, or a mapping with ``L``.
            config: what it is given: plain values, and ranges for the searcher.
        """

        function: Any
        config: dict[str, Any] = Field(default_factory=dict)

    def __init__(self, config: Any, program: Any) -> None:
        self._program = program
        function = config.function
        self._function: Callable[..., Any] = (
            resolve(function, "evaluation.function") if isinstance(function, str) else function
        )
        if not callable(self._function):
            raise ConfigError("evaluation.function", f"must be callable as train(config, trial), got {function!r}")

    def run(self, call: Call, trial: Trial) -> Measurement:
        """One training run, with the proposal's values in place."""
        start = time.perf_counter()
        configuration = self._program.blueprint.configuration(call.phi.choices)["evaluation"].get("config", {})
        return measurement(self._function(configuration, trial), time.perf_counter() - start)
