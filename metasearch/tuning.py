"""Our searchers inside a ``tune.Tuner`` of one's own."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import metasearch.searchers  # noqa: F401  (lists the built-in searchers)
from metasearch.core.registry import build
from metasearch.execution.tune_searcher import TuneAdapter

__all__ = ["TuneSearcher"]


class TuneSearcher(TuneAdapter):
    """A searcher of choices as Ray Tune's ``search_alg``.

    It can be wrapped in Tune's ``ConcurrencyLimiter``, and comes back with ``Tuner.restore``. Tune stops, places and
    records the trials; nothing of this is written to a run directory of ours.

    Args:
        searcher: the block of an experiment file, ``{"type": "evolution", "population": 10}``, or its type.
        space: the configuration with its ranges, as experiment files write them (``{"lr": {"float": [1e-4, 1], "log":
            True}}``) or as Tune does (``tune.loguniform(1e-4, 1)``); None takes the Tuner's ``param_space``.
        metric: reported figure to search by; None takes that of ``TuneConfig``.
        mode: ``min`` or ``max``; None takes that of ``TuneConfig``.
        seed: of all draws.

    Raises:
        ConfigError: if the searcher or the space is none.

    Example:
        >>> from ray import tune
        >>> search = TuneSearcher("random", {"lr": tune.loguniform(1e-4, 1e-1), "width": 8}, metric="loss", mode="min")
        >>> config = search.suggest("first")
        >>> config["width"], 1e-4 <= config["lr"] <= 1e-1
        (8, True)
    """

    def __init__(
        self,
        searcher: str | Mapping[str, Any],
        space: Mapping[str, Any] | None = None,
        *,
        metric: str | None = None,
        mode: str | None = None,
        seed: int = 0,
    ) -> None:
        make = functools.partial(build, "searcher", searcher, "searcher")
        super().__init__(make, space, metric=metric, mode=mode, seed=seed)
