"""The plain recurrent reader: an LSTM or a GRU whose state is all that it has learned of a task."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from metasearch.core.values import Tensors
from metasearch.learners.reader.layers import Layer
from metasearch.learners.reader.sequence import SequenceReader
from metasearch.models.initial import Initializer

__all__ = ["GRULayer", "LSTMLayer", "Recurrent", "lstm_step"]


class Recurrent(SequenceReader):
    """Layers of recurrent cells read the support set one example at a time; a query is one step from there.

    Hochreiter, Younger, Conwell 2001, "Learning to learn using gradient descent". With ``labels: shifted`` and ``loss:
    sequence`` it is the baseline of Santoro et al. 2016 (arXiv:1605.06065).
    """

    class Config(SequenceReader.Config):
        """Settings, besides those of every sequence reader.

        Args:
            cell: ``lstm`` or ``gru``.
            hidden: units of each layer.
            depth: layers.
        """

        cell: Literal["lstm", "gru"] = "lstm"
        hidden: PositiveInt = 200
        depth: PositiveInt = 1

    def stack(self, inputs: int) -> list[Layer]:
        cell = LSTMLayer if self.config.cell == "lstm" else GRULayer
        sizes = [inputs, *[self.config.hidden] * self.config.depth]
        return [cell(before, after) for before, after in itertools.pairwise(sizes)]


class LSTMLayer:
    """Long short-term memory with a forget gate (Gers, Schmidhuber, Cummins 2000), gates in the order i, f, g, o.

    Args:
        inputs: channels.
        width: units. The forget gate's bias starts at 1.
    """

    def __init__(self, inputs: int, width: int) -> None:
        self.inputs, self.width = inputs, width

    def init(self, draw: Initializer) -> Tensors:
        bias = torch.zeros(4 * self.width)
        bias[self.width : 2 * self.width] = 1.0
        return {
            "inputs.weight": _stacked(draw, 4, self.width, self.inputs),
            "state.weight": _stacked(draw, 4, self.width, self.width),
            "bias": bias,
        }

    def read(self, p: Tensors, x: Tensor) -> tuple[Tensor, Any]:
        found = F.linear(x, p["inputs.weight"], p["bias"])
        state = (x.new_zeros(x.shape[0], self.width),) * 2
        outputs = []
        for place in range(x.shape[1]):
            state = lstm_step(found[:, place] + F.linear(state[0], p["state.weight"]), state[1])
            outputs.append(state[0])
        return torch.stack(outputs, 1), state

    def answer(self, p: Tensors, x: Tensor, kept: Any) -> Tensor:
        hidden, cell = kept
        gates = F.linear(x, p["inputs.weight"], p["bias"]) + F.linear(hidden, p["state.weight"]).unsqueeze(1)
        return lstm_step(gates, cell.unsqueeze(1))[0]


class GRULayer:
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078), gates in the order r, z, n.

    The form of ``torch.nn.GRU``, whose reset gate acts on the state after its linear map.

    Args:
        inputs: channels.
        width: units.
    """

    def __init__(self, inputs: int, width: int) -> None:
        self.inputs, self.width = inputs, width

    def init(self, draw: Initializer) -> Tensors:
        return {
            "inputs.weight": _stacked(draw, 3, self.width, self.inputs),
            "inputs.bias": torch.zeros(3 * self.width),
            "state.weight": _stacked(draw, 3, self.width, self.width),
            "state.bias": torch.zeros(3 * self.width),
        }

    def read(self, p: Tensors, x: Tensor) -> tuple[Tensor, Any]:
        found = F.linear(x, p["inputs.weight"], p["inputs.bias"])
        state = x.new_zeros(x.shape[0], self.width)
        outputs = []
        for place in range(x.shape[1]):
            state = self._step(p, found[:, place], state)
            outputs.append(state)
        return torch.stack(outputs, 1), state

    def answer(self, p: Tensors, x: Tensor, kept: Any) -> Tensor:
        return self._step(p, F.linear(x, p["inputs.weight"], p["inputs.bias"]), kept.unsqueeze(1))

    def _step(self, p: Tensors, found: Tensor, state: Tensor) -> Tensor:
        of_state = F.linear(state, p["state.weight"], p["state.bias"])
        (r, z, n), (hr, hz, hn) = found.chunk(3, -1), of_state.chunk(3, -1)
        update = torch.sigmoid(z + hz)
        return update * state + (1.0 - update) * torch.tanh(n + torch.sigmoid(r + hr) * hn)


def lstm_step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden state and cell after a step, ``[..., width]``, from gates ``[..., 4 width]`` before their activation."""
    i, f, g, o = gates.chunk(4, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def _stacked(draw: Initializer, gates: int, width: int, inputs: int) -> Tensor:
    """Xavier for each gate by itself, one below the other."""
    return torch.cat([draw.xavier_uniform(width, inputs) for _ in range(gates)])
