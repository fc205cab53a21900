"""The memory-augmented network: an LSTM that writes what it sees to an external memory, where it was least used."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from metasearch.core.errors import ConfigError
from metasearch.core.values import Tensors
from metasearch.learners.reader.layers import Layer, affine
from metasearch.learners.reader.recurrent import LSTMLayer, lstm_step
from metasearch.learners.reader.sequence import SequenceReader
from metasearch.models.initial import Initializer

__all__ = ["MANN", "MemoryLayer", "State", "least_used"]


class MANN(SequenceReader):
    """One-shot learning with a memory and least-recently-used access.

    Santoro, Bartunov, Botvinick, Wierstra, Lillicrap 2016, arXiv:1605.06065. An example is shown with the label of the
    one before, and is judged at every place of the episode; ``accuracy_k`` is the accuracy at the k-th example of a
    class. Its "1-shot" accuracy in later tables is that of the second.

    The paper itself was not at hand. Where memory of it left a choice, the public port that gives figures by instance
    (github.com/tristandeleu/ntm-one-shot) was followed: the i-th head writes at the i-th least used slot, the least
    used slot is emptied first, the memory starts at 1e-6, and each head stores a vector of its own (``stores:
    content``), where the paper, from memory, stores the key it reads by.
    """

    class Config(SequenceReader.Config):
        """Settings, besides those of every sequence reader.

        Args:
            hidden: units of the controller.
            rows: slots of the memory.
            word: numbers in a row.
            heads: reads, and writes, at each step.
            decay: of the usage of slots, a step.
            stores: what a head writes: ``content``, a vector of its own, or the ``key`` that it reads by.
            strength: factor on the cosine similarities before their softmax; 1 in the paper.
        """

        labels: Literal["paired", "shifted"] = "shifted"
        loss: Literal["query", "sequence"] = "sequence"
        instances: int = Field(10, ge=0)
        hidden: PositiveInt = 200
        rows: PositiveInt = 128
        word: PositiveInt = 40
        heads: PositiveInt = 4
        decay: float = Field(0.95, ge=0, lt=1)
        stores: Literal["content", "key"] = "content"
        strength: float = Field(1.0, gt=0)

    def stack(self, inputs: int) -> list[Layer]:
        if self.config.heads > self.config.rows:
            raise ConfigError("heads", f"each writes at a slot of its own, and there are {self.config.rows} slots")
        return [MemoryLayer(inputs, self.config)]


class State(NamedTuple):
    """What the network holds between two steps; ``...`` is the task axis, or tasks and queries."""

    hidden: Tensor
    """``[..., hidden]``"""
    cell: Tensor
    """``[..., hidden]``"""
    memory: Tensor
    """``[..., slots, word]``"""
    read: Tensor
    """``[..., heads * word]``, what was read last."""
    weights: Tensor
    """``[..., heads, slots]``, where it was read; each head's sum to one."""
    usage: Tensor
    """``[..., slots]``, decaying sum of all weights of reading and writing."""


class MemoryLayer:
    """An LSTM controller with a memory; its outputs are the hidden state beside what was read.

        w_t^w = s w_{t-1}^r + (1 - s) w_{t-1}^lu,  M_t = M_{t-1} (least used slot emptied) + sum of w_t^w a_t,
        w_t^r = softmax(cosine(k_t, M_t)),  r_t = w_t^r M_t,  w_t^u = decay w_{t-1}^u + sum of w_t^r and w_t^w

    with a gate ``s``, content ``a_t`` and key ``k_t`` for each head, all from the hidden state (Sec. 3.2 there).

    Args:
        inputs: channels of a token.
        config: settings of :class:`MANN`.
    """

    def __init__(self, inputs: int, config: MANN.Config) -> None:
        self.config = config
        self.controller = LSTMLayer(inputs + config.heads * config.word, config.hidden)
        self.inputs, self.width = inputs, config.hidden + config.heads * config.word

    def init(self, draw: Initializer) -> Tensors:
        config = self.config
        size = config.heads * config.word
        tensors = {f"controller.{name}": value for name, value in self.controller.init(draw).items()}
        tensors |= affine(draw, "key", size, config.hidden) | affine(draw, "gate", config.heads, config.hidden)
        return tensors if config.stores == "key" else tensors | affine(draw, "content", size, config.hidden)

    def start(self, like: Tensor) -> State:
        """The state before the first step; all has been read from, and only used, the first slot."""
        config, shape = self.config, like.shape[:-1]
        first = F.one_hot(torch.zeros(shape, dtype=torch.int64, device=like.device), config.rows).to(like.dtype)
        return State(
            like.new_zeros(*shape, config.hidden),
            like.new_zeros(*shape, config.hidden),
            like.new_full((*shape, config.rows, config.word), 1e-6),
            like.new_zeros(*shape, config.heads * config.word),
            first.unsqueeze(-2).expand(*shape, config.heads, config.rows),
            first,
        )

    def read(self, p: Tensors, x: Tensor) -> tuple[Tensor, Any]:
        seen, state = self._seen(p, x), self.start(x[:, 0])
        outputs = []
        for place in range(x.shape[1]):
            state = self.step(p, seen[:, place], state)
            outputs.append(torch.cat([state.hidden, state.read], -1))
        return torch.stack(outputs, 1), state

    def answer(self, p: Tensors, x: Tensor, kept: Any) -> Tensor:
        state = self.step(p, self._seen(p, x), State(*(one.unsqueeze(1) for one in kept)))
        return torch.cat([state.hidden, state.read], -1)

    def step(self, p: Tensors, seen: Tensor, state: State) -> State:
        """The state after one example, of which the controller's gates have seen ``[..., 4 hidden]``."""
        config = self.config
        recurrent = F.linear(state.read, p["controller.inputs.weight"][:, self.inputs :])
        gates = seen + recurrent + F.linear(state.hidden, p["controller.state.weight"])
        hidden, cell = lstm_step(gates, state.cell)
        key = self._rows(p, "key", hidden)
        content = key if config.stores == "key" else self._rows(p, "content", hidden)
        gate = torch.sigmoid(F.linear(hidden, p["gate.weight"], p["gate.bias"])).unsqueeze(-1)
        least = least_used(state.usage, config.heads).to(hidden.dtype)
        writing = gate * state.weights + (1.0 - gate) * least
        emptied = state.memory * (1.0 - least[..., 0, :, None])
        memory = emptied + writing.mT @ content
        similar = F.normalize(key, dim=-1, eps=1e-8) @ F.normalize(memory, dim=-1, eps=1e-8).mT
        weights = torch.softmax(config.strength * similar, -1)
        usage = config.decay * state.usage + (weights + writing).sum(-2).detach()
        return State(hidden, cell, memory, (weights @ memory).flatten(-2), weights, usage)

    def _seen(self, p: Tensors, x: Tensor) -> Tensor:
        return F.linear(x, p["controller.inputs.weight"][:, : self.inputs], p["controller.bias"])

    def _rows(self, p: Tensors, name: str, hidden: Tensor) -> Tensor:
        """``[..., heads, word]`` in (-1, 1)."""
        rows = torch.tanh(F.linear(hidden, p[f"{name}.weight"], p[f"{name}.bias"]))
        return rows.reshape(*rows.shape[:-1], self.config.heads, self.config.word)


def least_used(usage: Tensor, heads: int) -> Tensor:
    """One-hot rows ``[..., heads, slots]`` at the slots of least usage ``[..., slots]``, the very least first.

    >>> least_used(torch.tensor([0.5, 0.1, 0.3]), 2).tolist()
    [[0, 1, 0], [0, 0, 1]]
    """
    return F.one_hot(torch.argsort(usage, dim=-1, stable=True)[..., :heads], usage.shape[-1])
