"""Puts a learned initialization into a module of the same architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from metasearch.core.errors import ArtifactError

__all__ = ["InitializationReport", "fill", "initialize"]

Shapes = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class InitializationReport:
    """What became of each parameter.

    Args:
        loaded: names of parameters and buffers that now have their learned values.
        zero: names of parameters that are zero now, as at the start of every task of the search.
        made: names of those that stayed as the module had them, since every task makes its own of its support set.
        fresh: names of those that stayed as the module had them, each with its learned and its actual shape.
        notes: what else to know.
    """

    loaded: tuple[str, ...]
    fresh: Mapping[str, Shapes] = field(default_factory=dict)
    zero: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"loaded {len(self.loaded)}: {', '.join(self.loaded)}"]
        if self.zero:
            lines.append(f"zero {len(self.zero)}, where every task of the search started: {', '.join(self.zero)}")
        if self.made:
            lines.append(f"left {len(self.made)}, which a task makes of its support set: {', '.join(self.made)}")
        if self.fresh:
            one = [
                f"{name} (learned {list(learned)}, here {list(here)})" for name, (learned, here) in self.fresh.items()
            ]
            lines.append(f"fresh {len(one)}, for another number of outputs: {', '.join(one)}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def initialize(
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    outputs: int | None,
    zero: Sequence[str] = (),
    made: Sequence[str] = (),
) -> InitializationReport:
    """Copies learned values into a module, which is left untouched if they do not fit.

    Args:
        module: of the architecture that phi was learned with: the same parameter names, in any dtype and on any device.
        parameters: learned values by name.
        buffers: likewise.
        outputs: number of outputs they were learned for; the one layer whose first dimension it is may have another
            one in the module, and then stays as it is.
        zero: patterns of parameters that started from zero in every task and were not learned; they become zero.
        made: patterns of parameters that every task made of its support set; they stay as the module has them.

    Raises:
        ArtifactError: naming what is missing or too much, or the two shapes that differ.
    """
    here = {name: tuple(value.shape) for name, value in module.named_parameters()}
    empty = [name for name in here if any(fnmatchcase(name, pattern) for pattern in zero)]
    left = [name for name in here if any(fnmatchcase(name, pattern) for pattern in made)]
    learned = {name: tuple(value.shape) for name, value in parameters.items()}
    missing, surplus = (
        [name for name in learned if name not in here],
        [name for name in here if name not in learned and name not in (*empty, *left)],
    )
    if missing or surplus:
        raise ArtifactError(
            f"the module {type(module).__name__} has other parameters than this phi: it lacks {missing or 'none'} and "
            f"has {surplus or 'none'} that were not learned; build the architecture that phi was learned with "
            "(.network() does)"
        )
    fresh = {name: (shape, here[name]) for name, shape in learned.items() if shape != here[name]}
    _check_last_layer(fresh, outputs)
    inside = {name: tuple(value.shape) for name, value in module.named_buffers()}
    for name, value in buffers.items():
        if inside.get(name) != tuple(value.shape):
            found = list(inside[name]) if name in inside else "no such buffer"
            raise ArtifactError(f"the buffer {name} was learned with shape {list(value.shape)}, the module has {found}")
    fill(module, {name: value for name, value in parameters.items() if name not in fresh}, buffers)
    with torch.no_grad():
        for name in empty:
            module.get_parameter(name).zero_()
    names = [name for name in here if name in learned and name not in fresh]
    return InitializationReport((*names, *buffers), fresh, tuple(empty), tuple(left), _notes(module))


@torch.no_grad()
def fill(module: nn.Module, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
    """Copies values of fitting shapes into a module's parameters and buffers."""
    targets = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, value in {**parameters, **buffers}.items():
        targets[name].copy_(value)


def _check_last_layer(differing: Mapping[str, Shapes], outputs: int | None) -> None:
    """Refuses every difference but one: a single layer with another number of outputs, its first dimension."""
    layers = {name.rpartition(".")[0] for name in differing}
    counts = {here[:1] for _, here in differing.values()}
    for name, (learned, here) in differing.items():
        only_outputs = learned[:1] == (outputs,) and len(here) == len(learned) and here[1:] == learned[1:]
        if not only_outputs or len(layers) > 1 or len(counts) > 1:
            raise ArtifactError(
                f"{name} was learned with shape {list(learned)}, the module has {list(here)}; only the last layer may "
                f"differ, in its number of outputs ({outputs} in this phi)"
            )


def _notes(module: nn.Module) -> tuple[str, ...]:
    if not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules()):
        return ()
    note = (
        "this module has batch norm layers with running statistics, which are no part of phi: the search normalized by "
        "the batch at hand (metasearch.models.module.on_batch_statistics(module) gives such layers)"
    )
    return (note,)
