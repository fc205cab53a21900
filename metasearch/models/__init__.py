"""Networks as pure functions of parameters that carry a leading task axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metasearch.core.registry import ADAPTERS, build, registry

if TYPE_CHECKING:
    from metasearch.core.contracts import Model
    from metasearch.core.values import TaskSpec

__all__ = ["build_model"]

for _name, _part in {
    "conv4": "metasearch.models.conv4:Conv4",
    "mlp": "metasearch.models.mlp:MLP",
    "module": "metasearch.models.module:ModuleModel",
    "cells": "metasearch.models.architectures.model:CellModel",
    "macro": "metasearch.models.architectures.model:MacroModel",
}.items():
    registry("model").add(_name, _part)


def build_model(given: Any, spec: TaskSpec, path: str = "model") -> Model:
    """The network that an experiment names.

    Args:
        given: ``{type: ..., **settings}``, a name, an ``nn.Module`` class (built without arguments) or object.
        spec: shapes of the tasks.
        path: where it is named, for messages.

    Raises:
        ConfigError: if it cannot be built.
    """
    if isinstance(given, Mapping | str):
        return build("model", given, path, spec=spec)
    if isinstance(given, type):
        return build("model", {"type": given}, path, spec=spec)
    return build("model", {"type": "module", "factory": given}, path, spec=spec)


def _own_module(part: Any, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """An ``nn.Module`` class where a model is expected: its settings are its keyword arguments."""
    from torch import nn

    from metasearch.models.module import ModuleModel

    if isinstance(part, type) and issubclass(part, nn.Module):
        return ModuleModel, {"factory": part, "arguments": settings}
    return part, settings


ADAPTERS.setdefault("model", []).append(_own_module)
