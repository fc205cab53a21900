"""Compiled forms of one function, kept by what they were traced for."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from metasearch.estimators.compile import Compiled, CompileMode

__all__ = ["Graphs"]


class Graphs:
    """Traces functions of trees of tensors once for each combination of shapes, and calls the traced form after that.

    Args:
        mode: see :data:`~metasearch.estimators.compile.CompileMode`.
    """

    def __init__(self, mode: CompileMode) -> None:
        self._mode = mode
        self._kept: dict[Hashable, tuple[Compiled, list[TreeSpec]]] = {}

    def call(self, function: Callable[[Any], Any], given: Any, key: Hashable) -> Any:
        """``function(given)``.

        Args:
            function: a fixed function of the tensors in a tree (dicts, lists, tuples) for a given ``key``; what it
                returns is a tree of tensors.
            given: the tree.
            key: all that the function depends on besides.
        """
        if self._mode == "never":
            return function(given)
        leaves, form = tree_flatten(given)
        full = (key, form, tuple((tuple(one.shape), one.dtype, str(one.device)) for one in leaves))
        if full not in self._kept:
            forms: list[TreeSpec] = []  # of what the function returns, known when it has run

            def flat(values: list[Tensor]) -> tuple[Tensor, ...]:
                results, forms[:] = _flattened(function(tree_unflatten(values, form)))
                return results

            self._kept[full] = (Compiled(flat, self._mode), forms)
        compiled, forms = self._kept[full]
        return tree_unflatten(compiled(leaves), forms[0])


def _flattened(tree: Any) -> tuple[tuple[Tensor, ...], list[TreeSpec]]:
    leaves, form = tree_flatten(tree)
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    return tuple(leaves), [form]
