"""The outer decisions, by ask and tell: numbers and spaces, no knowledge of learning.

Built-in searchers are listed by import path, so that reading an experiment imports only those it names.
"""

from __future__ import annotations

from typing import Any

from metasearch.core.registry import registry, resolve

__all__ = ["Evolution", "Genetic", "Gradient", "Joint", "Optuna", "Policy", "Random", "compose"]

_PLACES = {
    "Evolution": "metasearch.searchers.evolution:Evolution",
    "Genetic": "metasearch.searchers.evolution:Genetic",
    "Gradient": "metasearch.searchers.gradient:Gradient",
    "Joint": "metasearch.searchers.joint:Joint",
    "Optuna": "metasearch.searchers.optuna:Optuna",
    "Policy": "metasearch.searchers.policy:Policy",
    "Random": "metasearch.searchers.random:Random",
    "compose": "metasearch.searchers.joint:compose",
}

for _name in ("Evolution", "Genetic", "Gradient", "Optuna", "Policy", "Random"):
    registry("searcher").add(_name.lower(), _PLACES[_name])


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve(_PLACES[name])
