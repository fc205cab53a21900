"""Operations with a place or a partner: a square is cut out, another image is mixed in."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cutout", "sample_pairing"]


def cutout(x: Tensor, value: Tensor, where: Tensor, fill: float) -> Tensor:
    """Paints a square around a place, cut off at the edges (DeVries and Taylor 2017, arXiv:1708.04552).

    Derivative in the side: that of a logistic edge one pixel wide in the place of the sharp one.

    Args:
        x: images ``[n, C, H, W]``.
        value: side of the square, ``[n]``, in widths of the image.
        where: its middle, ``[n, 2]`` in [0, 1): to the right and down.
        fill: what it is painted with.
    """
    height, width = x.shape[-2:]
    half = (value * (width / 2))[:, None]
    across = (torch.arange(width, device=x.device, dtype=x.dtype) + 0.5 - where[:, :1] * width).abs()
    down = (torch.arange(height, device=x.device, dtype=x.dtype) + 0.5 - where[:, 1:] * height).abs()
    mask = _inside(down, half)[:, None, :, None] * _inside(across, half)[:, None, None, :]
    return x + mask * (fill - x)


def sample_pairing(x: Tensor, value: Tensor, other: Tensor) -> Tensor:
    """``(1 - value) x + value other`` (Inoue 2018, arXiv:1801.02929); the label stays that of x."""
    return x + value[:, None, None, None] * (other - x)


def _inside(distance: Tensor, half: Tensor) -> Tensor:
    sharp = (distance < half).to(distance.dtype)
    if not half.requires_grad:
        return sharp
    soft = torch.sigmoid(half - distance)
    return sharp + (soft - soft.detach())
