"""A transformer that reads the support set in context: as a sequence, or as a set that has no order."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from metasearch.core.errors import ConfigError
from metasearch.core.values import Tensors
from metasearch.learners.reader.layers import Layer, Normalize, Project, affine, attend, attend_with_self
from metasearch.learners.reader.sequence import SequenceReader
from metasearch.models.initial import Initializer

__all__ = ["Block", "Transformer"]


class Transformer(SequenceReader):
    """Blocks of attention and a two-layer network, with layer norm before each (Xiong et al. 2020, arXiv:2002.04745).

    As a ``set``, all support examples see each other and there are no places, so the answers do not depend on the
    support set's order. As a ``causal`` sequence, each sees those before it, and places are added (Vaswani et al. 2017,
    arXiv:1706.03762, Sec. 3.5). A query sees the support set and itself, never another query.

    Reading labelled examples in context as meta-learning: Garg et al. 2022, arXiv:2208.01066; Kirsch et al. 2022,
    arXiv:2212.04458. The sizes are our own.

    Raises:
        ConfigError: if the width is no multiple of the number of heads.
    """

    class Config(SequenceReader.Config):
        """Settings, besides those of every sequence reader.

        Args:
            form: ``set`` or ``causal``.
            width: channels.
            heads: of each attention; they share the width.
            blocks: how many.
            expansion: hidden units of the two-layer networks, in widths.
        """

        form: Literal["set", "causal"] = "set"
        width: PositiveInt = 128
        heads: PositiveInt = 4
        blocks: PositiveInt = 3
        expansion: PositiveInt = 2

    @property
    def causal(self) -> bool:  # type: ignore[override]
        """Whether the future is hidden."""
        return self.config.form == "causal"

    @property
    def ordered(self) -> bool:  # type: ignore[override]
        """Whether the order of the examples matters."""
        return self.config.form == "causal"

    def stack(self, inputs: int) -> list[Layer]:
        config = self.config
        if config.width % config.heads:
            raise ConfigError("width", f"must be a multiple of heads ({config.heads}), got {config.width}")
        blocks = [Block(config.width, config.heads, config.expansion, causal=self.causal) for _ in range(config.blocks)]
        return [Project(inputs, config.width, places=self.causal), *blocks, Normalize(config.width)]


class Block:
    """``x + attention(norm(x))``, then ``x + network(norm(x))`` with GELU.

    Args:
        width: channels.
        heads: of the attention.
        expansion: hidden units, in widths.
        causal: whether later places are hidden.
    """

    def __init__(self, width: int, heads: int, expansion: int, *, causal: bool) -> None:
        self.width, self.heads, self.expansion, self.causal = width, heads, expansion, causal
        self._norm = Normalize(width)

    def init(self, draw: Initializer) -> Tensors:
        norms = {f"{name}.{key}": one for name in ("norm1", "norm2") for key, one in self._norm.init(draw).items()}
        width, inner = self.width, self.width * self.expansion
        query, value = draw.xavier_uniform(width, width), draw.xavier_uniform(width, width)
        return {
            **norms,
            "attention.weight": torch.cat([query, query, value]),  # equal keys: attention starts as a similarity
            "attention.bias": torch.zeros(3 * width),
            **affine(draw, "joined", width, width),
            **affine(draw, "up", inner, width),
            **affine(draw, "down", width, inner),
        }

    def read(self, p: Tensors, x: Tensor) -> tuple[Tensor, Any]:
        query, key, value = self._split(p, x)
        found, _ = attend(query, key, value, causal=self.causal)
        return self._rest(p, x, found), (key, value)

    def answer(self, p: Tensors, x: Tensor, kept: Any) -> Tensor:
        query, key, value = self._split(p, x)
        found, _ = attend_with_self(query, (key, value), *kept)
        return self._rest(p, x, found)

    def _split(self, p: Tensors, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each ``[T, heads, n, width / heads]``."""
        y = F.layer_norm(x, (self.width,), p["norm1.weight"], p["norm1.bias"])
        y = F.linear(y, p["attention.weight"], p["attention.bias"])
        query, key, value = y.reshape(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def _rest(self, p: Tensors, x: Tensor, found: Tensor) -> Tensor:
        x = x + F.linear(found.transpose(1, 2).flatten(2), p["joined.weight"], p["joined.bias"])
        y = F.layer_norm(x, (self.width,), p["norm2.weight"], p["norm2.bias"])
        y = F.gelu(F.linear(y, p["up.weight"], p["up.bias"]))
        return x + F.linear(y, p["down.weight"], p["down.bias"])
