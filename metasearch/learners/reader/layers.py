"""The parts of sequence readers: layers that read a support set once and then answer any number of queries.

A query stands at the place after the last support example, and queries do not see each other. So a layer that has read
``S`` examples keeps what a query needs of them, and the cost is that of ``S + Q`` examples, not of ``Q`` sequences.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from metasearch.core.values import Tensors
from metasearch.models.initial import Initializer

__all__ = ["Layer", "Normalize", "Project", "affine", "attend", "attend_with_self"]


class Layer(Protocol):
    """A layer of a sequence reader; its tensors have no task axis."""

    width: int
    """Channels of its outputs."""

    def init(self, draw: Initializer) -> Tensors:
        """Fresh values of its tensors."""
        ...

    def read(self, p: Tensors, x: Tensor) -> tuple[Tensor, Any]:
        """Outputs ``[T, S, width]`` for examples ``[T, S, C]``, and what queries need of them."""
        ...

    def answer(self, p: Tensors, x: Tensor, kept: Any) -> Tensor:
        """Outputs ``[T, Q, width]`` for queries ``[T, Q, C]``, each as the next after what was read."""
        ...


def affine(draw: Initializer, name: str, outputs: int, inputs: int) -> Tensors:
    """Fresh weight ``[outputs, inputs]`` (Xavier) and bias (0) of a linear map."""
    return {f"{name}.weight": draw.xavier_uniform(outputs, inputs), f"{name}.bias": torch.zeros(outputs)}


def attend(query: Tensor, keys: Tensor, values: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention among ``n`` places; a causal one looks at its own place and those before.

    Args:
        query: ``[..., n, k]``.
        keys: ``[..., n, k]``.
        values: ``[..., n, v]``.
        causal: whether later places are hidden.

    Returns:
        ``[..., n, v]``, and the weights ``[..., n, n]``, which sum to one over the last axis.

    Reference: Vaswani et al. 2017, arXiv:1706.03762, Eq. 1.
    """
    scores = query @ keys.mT / math.sqrt(query.shape[-1])
    if causal:
        places = torch.arange(query.shape[-2], device=query.device)
        scores = torch.where(places[:, None] >= places, scores, -math.inf)
    weights = torch.softmax(scores, -1)
    return weights @ values, weights


def attend_with_self(query: Tensor, own: tuple[Tensor, Tensor], keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of single places to what was read and each to itself.

    Args:
        query: ``[..., Q, k]``.
        own: key ``[..., Q, k]`` and value ``[..., Q, v]`` of each place itself.
        keys: ``[..., S, k]``.
        values: ``[..., S, v]``.

    Returns:
        ``[..., Q, v]``, and the weights ``[..., Q, S + 1]``, its own last.
    """
    scores = torch.cat([query @ keys.mT, (query * own[0]).sum(-1, keepdim=True)], -1)
    weights = torch.softmax(scores / math.sqrt(query.shape[-1]), -1)
    return weights[..., :-1] @ values + weights[..., -1:] * own[1], weights


class Project:
    """A linear map of each example by itself, with the place in the sequence added if there is an order.

    Args:
        inputs, width: channels.
        places: whether to add the sines and cosines of Vaswani et al. 2017, Sec. 3.5.
    """

    def __init__(self, inputs: int, width: int, *, places: bool) -> None:
        self.inputs, self.width, self.places = inputs, width, places

    def init(self, draw: Initializer) -> Tensors:
        return affine(draw, "linear", self.width, self.inputs)

    def read(self, p: Tensors, x: Tensor) -> tuple[Tensor, Any]:
        return self._map(p, x, torch.arange(x.shape[1], device=x.device)), x.shape[1]

    def answer(self, p: Tensors, x: Tensor, kept: Any) -> Tensor:
        return self._map(p, x, torch.full((1,), kept, device=x.device))

    def _map(self, p: Tensors, x: Tensor, place: Tensor) -> Tensor:
        y = F.linear(x, p["linear.weight"], p["linear.bias"])
        if not self.places:
            return y
        half = (self.width + 1) // 2
        rates = torch.exp(torch.arange(half, device=x.device, dtype=x.dtype) * (-math.log(10000.0) / half))
        angles = place[:, None].to(x.dtype) * rates
        return y + torch.cat([torch.sin(angles), torch.cos(angles)], -1)[:, : self.width]


class Normalize:
    """Layer norm of each example by itself (Ba, Kiros, Hinton 2016, arXiv:1607.06450)."""

    def __init__(self, width: int) -> None:
        self.width = width

    def init(self, draw: Initializer) -> Tensors:
        return {"weight": torch.ones(self.width), "bias": torch.zeros(self.width)}

    def read(self, p: Tensors, x: Tensor) -> tuple[Tensor, Any]:
        return self.answer(p, x, None), None

    def answer(self, p: Tensors, x: Tensor, kept: Any) -> Tensor:
        return F.layer_norm(x, (self.width,), p["weight"], p["bias"])
