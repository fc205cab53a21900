"""Compiled forms of one function, kept by what they were traced for."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from torch import Tensor

from metasearch.estimators.compile import Compiled, CompileMode

__all__ = ["Graphs"]

Function = Callable[[list[Tensor]], tuple[Tensor, ...]]


class Graphs:
    """Traces a function of tensors once for each combination of shapes, and calls the traced form from then on.

    Args:
        mode: see :data:`~metasearch.estimators.compile.CompileMode`.
    """

    def __init__(self, mode: CompileMode) -> None:
        self._mode = mode
        self._kept: dict[Hashable, tuple[Compiled, Any]] = {}

    def call(
        self, function: Function, flat: list[Tensor], key: Hashable, layout: Any
    ) -> tuple[tuple[Tensor, ...], Any]:
        """``function(flat)`` and the layout that belongs to it.

        Args:
            function: a fixed function of its tensors for a given ``key``; it fills ``layout`` when it runs.
            flat: its arguments.
            key: all that the function depends on besides its tensors.
            layout: what the function says about its outputs while it runs; that of the traced run is returned.
        """
        if self._mode == "never":
            return function(flat), layout
        full = (key, tuple((tuple(one.shape), one.dtype, str(one.device)) for one in flat))
        if full not in self._kept:
            self._kept[full] = (Compiled(function, self._mode), layout)
        compiled, kept = self._kept[full]
        return compiled(flat), kept
