"""The LSTM meta-learner: gradient descent as the update of a cell state, with gates that are learned.

Ravi and Larochelle 2017, "Optimization as a model for few-shot learning", ICLR, Sec. 3; what the paper leaves open is
taken from its published code (twitter-research/meta-learning-lstm).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor

from metasearch.components.base import Component
from metasearch.components.rules.flat import Block, joined
from metasearch.components.rules.lstm import log_sign, lstm_layer
from metasearch.core.config import Config as BaseConfig
from metasearch.core.seeds import Draws
from metasearch.core.values import Tensors

__all__ = ["MetaLstm"]


class MetaLstm(Component):
    """``theta' = f * theta - i * gradient``, where theta is the cell state of an LSTM and f, i are its gates.

    Each coordinate has gates of its own, from weights that all share::

        h  = LSTM(log_sign(loss), log_sign(gradient))
        f' = w_f . [h, theta, f] + b_f        i' = w_i . [h, theta, i] + b_i
        theta' = sigmoid(f') * theta - sigmoid(i') * gradient

    The gates of the step before enter as f' and i', before the sigmoid, and are 0 at first (so in the published code;
    Eqs. 3 and 4 of the paper write them after it). The first cell state is the initialization: with the slot
    ``initialization: {type: tensors}`` it is learned along. Loss and gradient are constants to phi's gradient.

    phi holds ``lstm.input`` ``[4 H, 4]``, ``lstm.hidden`` ``[4 H, H]``, ``lstm.bias`` ``[4 H]`` and, for forget and
    input gate, ``forget.weight`` and ``input.weight`` ``[H + 2]``, ``forget.bias`` and ``input.bias``.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            hidden: units of the LSTM.
            p: of the preprocessing, see :class:`~metasearch.components.rules.lstm.LstmRule`.
            forget: range that the forget gate's bias is drawn from; from 4 to 5 it is nearly open.
            input: range of the input gate's bias; from -5 to -4, steps begin as gradient descent at a rate near 0.01.
        """

        hidden: PositiveInt = 20
        p: float = Field(default=10.0, gt=0)
        forget: tuple[float, float] = (4.0, 5.0)
        input: tuple[float, float] = (-5.0, -4.0)

    @property
    def constant_gradients(self) -> bool:
        return True

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        """All weights uniform in [-0.01, 0.01], the biases of the gates in their ranges."""
        draws, hidden = Draws([seed], "meta lstm"), self.config.hidden

        def uniform(*shape: int, low: float = -0.01, high: float = 0.01) -> Tensor:
            return torch.from_numpy(draws.uniform(math.prod(shape), low, high)[0]).to(torch.float32).reshape(shape)

        found = {
            "lstm.input": uniform(4 * hidden, 4),
            "lstm.hidden": uniform(4 * hidden, hidden),
            "lstm.bias": uniform(4 * hidden),
        }
        for name in ("forget", "input"):
            low, high = getattr(self.config, name)
            found |= {f"{name}.weight": uniform(hidden + 2), f"{name}.bias": uniform(low=low, high=high)}
        return found, {}

    def begin_update(
        self, values: Tensors, theta: Tensors, seeds: NDArray[np.int64] | None = None
    ) -> dict[str, Tensor]:
        """Zeros: ``hidden`` and ``cell`` ``[T, n, H]``, ``forget`` and ``input`` ``[T, n]``, ``loss`` ``[T]``."""
        cells = joined([theta[name] for name in self.context.adapted])
        zeros = cells.new_zeros(self.config.hidden, *cells.shape).permute(1, 2, 0)
        gate = torch.zeros_like(cells)
        return {"hidden": zeros, "cell": zeros, "forget": gate, "input": gate, "loss": cells.new_zeros(len(cells))}

    def observe(self, values: Tensors, loss: Tensor, state: Any, step: int) -> dict[str, Tensor]:
        return {**state, "loss": loss.detach()}

    def update(
        self, values: Tensors, theta: Tensors, gradients: Tensors, rates: Tensors, state: Any, step: int
    ) -> tuple[Tensors, Any]:
        """Rates are not used: the input gate is the rate."""
        names = tuple(gradients)
        block = Block(names, tuple(gradients[name][0].numel() for name in names))
        cells, gradient = joined([theta[name] for name in names]), joined([gradients[name] for name in names]).detach()
        (tasks, n), p = cells.shape, self.config.p
        loss = state["loss"].unsqueeze(1).expand(tasks, n)
        x = torch.stack([*log_sign(loss, p), *log_sign(gradient, p)]).flatten(1)
        before = (state[name].permute(2, 0, 1).flatten(1) for name in ("hidden", "cell"))
        weights = (values[f"lstm.{name}"] for name in ("input", "hidden", "bias"))
        hidden, cell = lstm_layer(x, *before, *weights)
        after = {"loss": state["loss"]}
        for name, value in (("hidden", hidden), ("cell", cell)):
            after[name] = value.view(-1, tasks, n).permute(1, 2, 0)
        for name in ("forget", "input"):
            from_hidden, from_cell, from_gate = values[f"{name}.weight"].split((self.config.hidden, 1, 1))
            seen = (from_hidden @ hidden).view(tasks, n)
            after[name] = seen + from_cell * cells + from_gate * state[name] + values[f"{name}.bias"]
        moved = torch.sigmoid(after["forget"]) * cells - torch.sigmoid(after["input"]) * gradient
        parts = zip(names, moved.split(block.sizes, 1), strict=True)
        return {**theta, **{name: part.view(theta[name].shape) for name, part in parts}}, after
