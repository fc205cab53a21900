"""Batch norm on the batch's own statistics, as an ordinary module."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from metasearch.models.functional import batch_norm

__all__ = ["Affine", "BatchNorm"]

Affine = Literal["both", "bias", "none"]
"""Which of scale and shift a norm layer has."""


class BatchNorm(nn.Module):
    """Normalizes by the statistics of the batch at hand, in training and in evaluation mode alike; keeps no running ones.

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
        weight, bias = (None if value is None else value.unsqueeze(0) for value in (self.weight, self.bias))
        return batch_norm(x.unsqueeze(0), weight, bias, eps=self.eps).squeeze(0)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}, batch statistics"
