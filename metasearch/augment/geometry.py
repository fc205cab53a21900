"""Operations that move pixels: one affine map an image, sampled bilinearly, for all images at once.

A map is what ``torch.nn.functional.affine_grid`` takes: from places in the result to places in the source, both counted
from -1 to 1 over a side. Shears hold the upper left corner, rotations the middle, as the published policies were
searched with (Pillow's ``Image.transform`` and ``rotate``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["rotation", "shear_x", "shear_y", "translation_x", "translation_y", "warp"]


def shear_x(value: Tensor, aspect: float) -> Tensor:
    """Maps ``[n, 2, 3]`` that shift each row to the left by ``value [n]`` times its distance from the upper edge.

    Args:
        value: pixels a pixel.
        aspect: height over width of the images.
    """
    return _maps(value, b=value * aspect, c=value * aspect)


def shear_y(value: Tensor, aspect: float) -> Tensor:
    """Maps that shift each column upwards by ``value`` times its distance from the left edge."""
    return _maps(value, d=value / aspect, f=value / aspect)


def translation_x(value: Tensor, aspect: float) -> Tensor:
    """Maps that shift the content to the left by ``value`` widths."""
    return _maps(value, c=2 * value)


def translation_y(value: Tensor, aspect: float) -> Tensor:
    """Maps that shift the content upwards by ``value`` heights."""
    return _maps(value, f=2 * value)


def rotation(value: Tensor, aspect: float) -> Tensor:
    """Maps that turn the content counter-clockwise by ``value`` degrees."""
    radians = value * (math.pi / 180)
    cosine, sine = radians.cos(), radians.sin()
    return _maps(value, a=cosine, b=-sine * aspect, d=sine / aspect, e=cosine)


def warp(x: Tensor, maps: Tensor, fill: float) -> Tensor:
    """Images ``[n, C, H, W]`` under maps ``[n, 2, 3]``; what lies outside is ``fill``.

    The derivative in the maps is that of bilinear interpolation: it jumps where samples fall on pixels' middles, as all
    do for the identity.
    """
    grid = F.affine_grid(maps, list(x.shape), align_corners=False)
    moved = F.grid_sample(x - fill if fill else x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.add_(fill) if fill else moved


def _maps(like: Tensor, **entries: Tensor) -> Tensor:
    one, zero = torch.ones_like(like), torch.zeros_like(like)
    identity = {"a": one, "b": zero, "c": zero, "d": zero, "e": one, "f": zero}
    found = {**identity, **entries}
    return torch.stack([found[name] for name in "abcdef"], -1).unflatten(-1, (2, 3))
