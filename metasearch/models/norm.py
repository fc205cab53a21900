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
    """Normalizes by the statistics of the batch at hand; in evaluation by moving averages of them if it keeps any.

    Args:
        channels: size of the second axis.
        affine: parameters ``weight`` and ``bias``, ``bias`` alone, or none.
        eps: added to the variance.
        momentum: weight of a batch in the averages ``running_mean`` and ``running_var``; None keeps none.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, channels: int, affine: Affine = "both", eps: float = 1e-5, momentum: float | None = None
    ) -> None:
        super().__init__()
        self.channels, self.eps, self.momentum = channels, eps, momentum
        if momentum is not None:
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))
        self.weight = nn.Parameter(torch.ones(channels)) if affine == "both" else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine != "none" else None

    def forward(self, x: Tensor) -> Tensor:
        """``x`` is ``[n, C, ...]`` with any number of further axes; the shape is kept."""
        over, shape = (0, *range(2, x.dim())), (1, -1) + (1,) * (x.dim() - 2)
        if self.momentum is not None and not self.training:
            y = (x - self.running_mean.reshape(shape)) * torch.rsqrt(self.running_var.reshape(shape) + self.eps)
        else:
            centered = x - x.mean(over, keepdim=True)
            y = centered * torch.rsqrt((centered * centered).mean(over, keepdim=True) + self.eps)
            if self.momentum is not None:
                with torch.no_grad():
                    variance, mean = torch.var_mean(x, over, correction=1)
                    self.running_mean.add_(self.momentum * (mean - self.running_mean))
                    self.running_var.add_(self.momentum * (variance - self.running_var))
        if self.weight is not None:
            y = y * self.weight.reshape(shape)
        return y if self.bias is None else y + self.bias.reshape(shape)

    def extra_repr(self) -> str:
        kept = "batch statistics" if self.momentum is None else f"momentum={self.momentum}"
        return f"{self.channels}, eps={self.eps}, {kept}"
