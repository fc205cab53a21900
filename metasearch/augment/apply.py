"""What is drawn for a batch of images, and the images after it: all that have an operation in common go at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasearch.augment.geometry import warp
from metasearch.augment.operations import OPERATIONS

__all__ = ["Plan", "Place", "apply", "transform"]


@dataclass(frozen=True)
class Place:
    """What happens to each of n images in one place of a policy.

    Args:
        operation: ``[n]``, indexes into :data:`~metasearch.augment.operations.OPERATIONS`; -1 for nothing.
        level: ``[n]`` in [0, 1]; may need a gradient.
        sign: ``[n]``, -1 or 1.
        where: ``[n, 2]`` in [0, 1), on the CPU: a place, or (its first number) a partner.
    """

    operation: NDArray[np.int64]
    level: Tensor
    sign: Tensor
    where: NDArray[np.float64]


Plan = tuple[Place, ...]
"""One place after the other."""


def apply(plan: Plan, x: Tensor, group: int | None = None, fill: float = 0.0) -> Tensor:
    """Images ``[n, C, H, W]`` in [0, 1] after a plan.

    Args:
        plan: drawn for n images, on the images' device.
        x: the images.
        group: partners are among so many images that follow each other (those of one task); None means all n.
        fill: value of what moves into the picture and of what is cut out.
    """
    for place in plan:
        x = transform(place, x, group, fill)
    return x


def transform(place: Place, x: Tensor, group: int | None = None, fill: float = 0.0) -> Tensor:
    """Images ``[n, C, H, W]`` after the operations of one place; arguments as for :func:`apply`."""
    operations = place.operation
    order = np.argsort(operations, kind="stable")
    present, starts = np.unique(operations[order], return_index=True)
    if len(present) == 0 or (len(present) == 1 and present[0] < 0):
        return x
    whole = bool((order == np.arange(len(order))).all())
    rows = torch.from_numpy(order).to(x.device)
    source, level, sign = x, place.level, place.sign
    if not whole:
        source, level, sign = (value.index_select(0, rows) for value in (x, level, sign))

    def rest(kind: str, own: NDArray[np.int64]) -> tuple[Any, ...]:
        """What an operation of a kind is given besides its value."""
        if kind == "place":
            return torch.from_numpy(place.where[own]).to(x.device, x.dtype), fill
        if kind == "pair":
            size = len(x) if group is None else group
            picked = (own // size) * size + np.minimum((place.where[own, 0] * size).astype(np.int64), size - 1)
            return (x.index_select(0, torch.from_numpy(picked).to(x.device)),)
        return ()

    ends = [*starts[1:].tolist(), len(order)]
    parts = [
        (int(number), slice(int(start), int(end))) for number, start, end in zip(present, starts, ends, strict=True)
    ]
    pieces: list[Tensor] = []
    maps: list[Tensor] = []
    first = 0
    aspect = x.shape[-2] / x.shape[-1]
    for index, (number, part) in enumerate(parts):
        if number < 0:
            pieces.append(source[part])
            continue
        operation = OPERATIONS[number]
        value = operation.value(level[part], sign[part])
        if operation.kind == "map":
            first = part.start if not maps else first
            maps.append(operation.function(value, aspect))
            follows = index + 1 < len(parts) and OPERATIONS[parts[index + 1][0]].kind == "map"
            if not follows:  # maps stand first among the operations, so they are one piece
                pieces.append(warp(source[first : part.stop], torch.cat(maps), fill))
            continue
        if operation.has_level:
            pieces.append(operation.function(source[part], value, *rest(operation.kind, order[part])))
        else:
            pieces.append(operation.function(source[part]))
    done = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    if whole:
        return done
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return done.index_select(0, torch.from_numpy(back).to(x.device))
