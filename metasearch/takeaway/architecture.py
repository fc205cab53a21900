"""The architecture that a search has found: as an ordinary module, in words, as a drawing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metasearch.artifacts import Manifest
from metasearch.core.errors import ArtifactError, ConfigError
from metasearch.core.values import Phi
from metasearch.models.architectures import CellNetwork, MacroNetwork, count
from metasearch.models.architectures.cells import EDGES, NODES
from metasearch.models.architectures.model import CellModel, MacroModel
from metasearch.takeaway.rebuild import plain_config

__all__ = ["FoundArchitecture", "found", "with_learned"]

_SLOT, _TABLE = "learner.slots.architecture.", "evaluation."
_TABLES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "nasbench201": ("cells", {"channels": (16, 32, 64), "cells": 5, "in_channels": 3}),
    "nasbenchmacro": ("macro", {"channels": (32, 64, 64, 128, 128, 128, 256, 256), "in_channels": 3}),
}
"""The space of each table, and how large its networks are built unless other sizes are given."""


@dataclass(frozen=True)
class FoundArchitecture:
    """An architecture, and the size in which the search built it.

    Args:
        space: ``cells`` or ``macro``.
        operations: what stands at each place.
        settings: channels, cells, in_channels ...: what the network is built with.
        input_shape: of one example, if it is known.
    """

    space: str
    operations: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    input_shape: tuple[int, ...] | None = None

    def build(self, num_classes: int, **settings: Any) -> CellNetwork | MacroNetwork:
        """The network, with fresh weights drawn from torch's generator.

        Args:
            num_classes: outputs.
            settings: in place of those of the search, for example ``channels=(16, 32, 64), cells=5``.

        Raises:
            ArtifactError: if the network has no such setting.
        """
        made = CellNetwork if self.space == "cells" else MacroNetwork
        try:
            return made(num_classes, self.operations, **{**self.settings, **settings})
        except (TypeError, ConfigError) as error:
            raise ArtifactError(f"{made.__name__} cannot be built from {dict(settings)}: {error}") from error

    def describe(self, num_classes: int = 10) -> str:
        """Its places, one a line, and its size."""
        shape = self.input_shape or (self.settings.get("in_channels", 3), 32, 32)
        with torch.random.fork_rng(devices=[]):
            size = count(self.build(num_classes), shape)
        width = max(map(len, self.operations))
        head = (
            f"{self.space}: {size.parameters:,} parameters and {size.multiply_adds:,} multiply-adds for an example "
            f"{list(shape)} and {num_classes} classes"
        )
        return "\n".join([head, *(f"  {place:<{width}}  {name}" for place, name in self.operations.items())])

    def draw(self, path: str | Path) -> Path:
        """Draws the cell, or the chain of layers, into a file; its ending says how (``.png``, ``.svg``, ``.pdf``).

        Raises:
            ArtifactError: for an ending that nothing can write.
        """
        from matplotlib.figure import Figure

        target = Path(path)
        wide = 7.0 if self.space == "cells" else 1.3 * (len(self.operations) + 2)
        figure = Figure(figsize=(wide, 3.6 if self.space == "cells" else 1.6), layout="constrained")
        axes = figure.subplots()
        axes.set_axis_off()
        (_cell if self.space == "cells" else _chain)(axes, self.operations)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            figure.savefig(target, dpi=150)
        except ValueError as error:
            raise ArtifactError(f"cannot draw into {target.name}: {error}") from error
        return target


def found(manifest: Manifest, phi: Phi) -> FoundArchitecture:
    """The architecture that a phi holds, read from its manifest; no code is imported.

    Raises:
        ArtifactError: if it holds none.
    """
    table = str((manifest.config.get("evaluation") or {}).get("table"))
    if table in _TABLES:
        space, settings = _TABLES[table]
        chosen = _below(phi.choices, _TABLE)
        if not chosen:
            raise ArtifactError("this phi holds no architecture: no evaluation of its search succeeded")
        return FoundArchitecture(space, chosen, settings)
    tree = {name: manifest.config.get(name) for name in ("learner", "evaluation")}
    plain = plain_config(tree, phi.choices)
    parts = [part for part in plain.values() if isinstance(part, Mapping)]
    model = next((dict(part["model"]) for part in parts if isinstance(part.get("model"), Mapping)), {})
    space, given = str(model.pop("type", "")), model.pop("architecture", None)
    block: Mapping[str, Any] = next(
        (part["slots"]["architecture"] for part in parts if "architecture" in part.get("slots", {})), {}
    )
    chosen = {**(given or {}), **_below(phi.choices, _SLOT), **block.get("fixed", {})}
    if not chosen and not block:
        raise ArtifactError("this phi holds no architecture: the search had none to choose")
    if not chosen:
        raise ArtifactError(
            "this phi holds a supernet, of which no architecture was drawn; give the search test: {derive: {}}"
        )
    if space not in ("cells", "macro"):
        raise ArtifactError(f"this phi's architecture is of a model {space!r}; only cells and macro can be built")
    config = {"cells": CellModel, "macro": MacroModel}[space].Config.model_validate(model)
    shape = tuple(manifest.spec["input_shape"]) if "input_shape" in manifest.spec else None
    settings = config.model_dump(exclude={"norm", "architecture"}) | ({"in_channels": shape[0]} if shape else {})
    places = EDGES if space == "cells" else [f"layer_{number + 1}" for number in range(len(settings["channels"]))]
    try:
        return FoundArchitecture(space, {place: chosen[place] for place in places}, settings, shape)
    except KeyError as error:
        raise ArtifactError(f"nothing was chosen for {error} of this architecture") from error


def with_learned(module: nn.Module, phi: Phi) -> nn.Module:
    """Puts a supernet's weights into an architecture that is part of it.

    Raises:
        ArtifactError: if phi holds none, or they do not fit.
    """
    learned = {**phi.part("initialization"), **phi.buffers_of("initialization")}
    if not learned:
        raise ArtifactError("this phi holds no weights of a supernet; build it without learned=True")
    own = module.state_dict()
    try:
        module.load_state_dict({name: learned[name] for name in own})
    except (KeyError, RuntimeError) as error:
        raise ArtifactError(f"the supernet's weights do not fit this network: {error}") from error
    return module


def _below(choices: Mapping[str, Any], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): str(value) for name, value in choices.items() if name.startswith(prefix)}


_INK, _PALE = "#1f3a5f", "#9aa5b1"


def _cell(axes: Any, operations: Mapping[str, str]) -> None:
    """Nodes in a row, an arc for each edge with its operation; edges that pass nothing on are pale."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    axes.set_xlim(-0.4, 3.4)
    axes.set_ylim(-1.1, 1.9)
    for place, (start, end) in EDGES.items():
        reach = end - start
        side = -1 if (start, end) == (1, 3) else 1
        height = 0.0 if reach == 1 else side * (0.75 if reach == 2 else 1.5)
        pale = operations[place] == "none"
        color = _PALE if pale else _INK
        middle = (start + end) / 2
        curve = Curve([(start, 0), (middle, 2 * height), (end, 0)], [Curve.MOVETO, Curve.CURVE3, Curve.CURVE3])
        axes.add_patch(
            FancyArrowPatch(path=curve, color=color, arrowstyle="-", linestyle=":" if pale else "-", fill=False)
        )
        lift = 0.13 if not height else 0.13 * side
        axes.text(middle, height + lift, operations[place], ha="center", va="center", fontsize=9, color=color)
    for node in range(NODES):
        axes.plot(node, 0, "o", markersize=26, markerfacecolor="white", markeredgecolor=_INK, zorder=3)
        axes.text(
            node,
            0,
            "in" if node == 0 else "out" if node == NODES - 1 else str(node),
            ha="center",
            va="center",
            zorder=4,
        )


def _chain(axes: Any, operations: Mapping[str, str]) -> None:
    """Layers in a row."""
    names = ["in", *operations.values(), "out"]
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(-1, 1)
    for index, name in enumerate(names):
        axes.text(
            index, 0, name, ha="center", va="center", fontsize=8, bbox={"boxstyle": "round", "fc": "white", "ec": _INK}
        )
        if index:
            axes.annotate("", (index - 0.36, 0), (index - 0.64, 0), arrowprops={"arrowstyle": "-|>", "color": _INK})
    for index, place in enumerate(operations, 1):
        axes.text(index, -0.6, place, ha="center", fontsize=7, color=_PALE)
