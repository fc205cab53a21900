"""Batch norm on the batch's own statistics, as an ordinary module.

Written out in operations that ``torch.func`` transforms correctly; :mod:`metasearch.models.normalize` is the fast form.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Affine", "BatchNorm"]

Affine = Literal["both", "bias", "none"]
"""Which of scale and shift a norm layer has."""


class BatchNorm(nn.Module):
    """Normalizes by the statistics of the batch at hand, in training and evaluation alike; keeps no running ones.

    Args:
        channels: size of the second axis.
        affine: parameters ``weight`` and ``bias``, ``bias`` alone, or none.
        eps: added to the variance.
    """

    def __init__(self, channels: int, affine: Affine = "both", eps: float = 1e-5) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine == "both" else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine != "none" else None

    def forward(self, x: Tensor) -> Tensor:
        """``x`` is ``[n, C, ...]`` with any number of further axes; the shape is kept."""
        over = (0, *range(2, x.dim()))
        centered = x - x.mean(over, keepdim=True)
        y = centered * torch.rsqrt((centered * centered).mean(over, keepdim=True) + self.eps)
        shape = (1, -1) + (1,) * (x.dim() - 2)
        if self.weight is not None:
            y = y * self.weight.reshape(shape)
        return y if self.bias is None else y + self.bias.reshape(shape)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}, batch statistics"
