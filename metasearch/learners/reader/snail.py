"""SNAIL: temporal convolutions gather what came before, causal attention finds single pieces of it."""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import PositiveInt, field_validator
from torch import Tensor
from torch.nn import functional as F

from metasearch.core.values import Tensors
from metasearch.learners.reader.layers import Layer, affine, attend, attend_with_self
from metasearch.learners.reader.sequence import SequenceReader
from metasearch.models.initial import Initializer

__all__ = ["CausalAttention", "DenseConvolution", "Snail"]


class Snail(SequenceReader):
    """The simple neural attentive learner.

    Attention, then for each further attention a block of dilated convolutions before it; each layer's output is joined
    to its input. Mishra, Rohaninejad, Chen, Abbeel 2018, arXiv:1707.03141, Sec. 3. The sizes of the defaults are those
    of the paper's Omniglot network as two public re-implementations agree on them; the paper's appendix was not at
    hand. Queries are judged one by one after the support set, as there; the number of shots is not drawn anew for each
    episode, as it is there, but that of the tasks.
    """

    class Config(SequenceReader.Config):
        """Settings, besides those of every sequence reader.

        Args:
            attentions: channels of keys and of values of each attention.
            filters: channels that each convolution adds.
            length: examples that a block of convolutions reaches back over: ``ceil(log2(length))`` of them, their
                dilations 1, 2, 4 ... Longer support sets are read all the same, by attention alone beyond this.
        """

        attentions: tuple[tuple[PositiveInt, PositiveInt], ...] = ((64, 32), (256, 128), (512, 256))
        filters: PositiveInt = 128
        length: PositiveInt = 32

        @field_validator("attentions")
        @classmethod
        def _some(cls, value: Any) -> Any:
            if not value:
                raise ValueError("give at least one attention: [[keys, values], ...]")
            return value

    def stack(self, inputs: int) -> list[Layer]:
        layers: list[Layer] = []
        width = inputs
        for index, (keys, values) in enumerate(self.config.attentions):
            for power in range(math.ceil(math.log2(self.config.length)) if index else 0):
                layers.append(DenseConvolution(width, self.config.filters, 2**power))
                width = layers[-1].width
            layers.append(CausalAttention(width, keys, values))
            width = layers[-1].width
        return layers


class DenseConvolution:
    """A gated causal convolution of two taps, its output joined to its input (the paper's DenseBlock, Fig. 2).

        y_t = [x_t, tanh(F [x_{t-d}, x_t]) * sigmoid(G [x_{t-d}, x_t])], with zeros before the start.

    Args:
        inputs: channels ``C`` of ``x``.
        filters: channels that are added.
        dilation: ``d``, in places.
    """

    def __init__(self, inputs: int, filters: int, dilation: int) -> None:
        self.inputs, self.filters, self.dilation = inputs, filters, dilation
        self.width = inputs + filters

    def init(self, draw: Initializer) -> Tensors:
        return affine(draw, "value", self.filters, 2 * self.inputs) | affine(
            draw, "gate", self.filters, 2 * self.inputs
        )

    def read(self, p: Tensors, x: Tensor) -> tuple[Tensor, Any]:
        earlier = F.pad(x, (0, 0, self.dilation, 0))[:, : x.shape[1]]
        before = x[:, -self.dilation, None] if self.dilation <= x.shape[1] else torch.zeros_like(x[:, :1])
        return self._joined(p, earlier, x), before

    def answer(self, p: Tensors, x: Tensor, kept: Any) -> Tensor:
        return self._joined(p, kept.expand_as(x), x)

    def _joined(self, p: Tensors, earlier: Tensor, x: Tensor) -> Tensor:
        taps = torch.cat([earlier, x], -1)
        value = torch.tanh(F.linear(taps, p["value.weight"], p["value.bias"]))
        gate = torch.sigmoid(F.linear(taps, p["gate.weight"], p["gate.bias"]))
        return torch.cat([x, value * gate], -1)


class CausalAttention:
    """One head of attention to all places up to its own, its output joined to its input (AttentionBlock, Fig. 2).

    Args:
        inputs: channels ``C``.
        keys, values: channels of keys and of values.
    """

    def __init__(self, inputs: int, keys: int, values: int) -> None:
        self.inputs, self.keys, self.values = inputs, keys, values
        self.width = inputs + values

    def init(self, draw: Initializer) -> Tensors:
        query, value = affine(draw, "query", self.keys, self.inputs), affine(draw, "value", self.values, self.inputs)
        key = {name.replace("query", "key"): one.clone() for name, one in query.items()}
        return query | key | value  # keys start equal to queries: attention starts as a similarity

    def read(self, p: Tensors, x: Tensor) -> tuple[Tensor, Any]:
        query, key, value = self._split(p, x)
        return torch.cat([x, attend(query, key, value, causal=True)[0]], -1), (key, value)

    def answer(self, p: Tensors, x: Tensor, kept: Any) -> Tensor:
        query, key, value = self._split(p, x)
        return torch.cat([x, attend_with_self(query, (key, value), *kept)[0]], -1)

    def _split(self, p: Tensors, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (F.linear(x, p[f"{part}.weight"], p[f"{part}.bias"]) for part in ("query", "key", "value"))
        return query, key, value
