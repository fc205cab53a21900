"""A recurrent network as the update rule: one small LSTM, shared by all coordinates, each with a state of its own.

Andrychowicz et al. 2016, "Learning to learn by gradient descent by gradient descent", arXiv:1606.04474, Sec. 2 and
appendix A.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from metasearch.components.rules.flat import Block, FlatRule, State
from metasearch.core.seeds import Draws
from metasearch.core.values import Tensors

__all__ = ["LstmRule"]


class LstmRule(FlatRule):
    """``theta' = theta + scale * (w . h + b)`` with ``h`` from a stack of LSTM layers that reads the gradient.

    phi holds, for each layer l, ``l.input`` ``[4 H, F]``, ``l.hidden`` ``[4 H, H]`` and ``l.bias`` ``[4 H]`` (gates in
    the order input, forget, cell, output), and ``out.weight`` ``[H]``, ``out.bias``.
    """

    class Config(FlatRule.Config):
        """Settings.

        Args:
            layers: LSTM layers.
            hidden: units of each layer.
            preprocess: ``log_sign`` gives the network ``(log|g| / p, sign g)`` where ``|g| >= e^-p``, and
                ``(-1, e^p g)`` below that; ``none`` gives it g.
            p: of ``log_sign``.
            scale: factor on what the network puts out.
        """

        layers: PositiveInt = 2
        hidden: PositiveInt = 20
        preprocess: Literal["none", "log_sign"] = "log_sign"
        p: float = Field(default=10.0, gt=0)
        scale: float = Field(default=0.01, gt=0)

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        """Uniform weights of variance 1 / (3 fan-in), in the last layer a tenth of that deviation: the untrained rule
        takes small steps. Forget gates start open (bias 1).
        """
        draws, hidden = Draws([seed], "lstm rule"), self.config.hidden
        found: Tensors = {}
        for layer in range(self.config.layers):
            inputs = hidden if layer else self._inputs
            found[f"{layer}.input"] = _uniform(draws, (4 * hidden, inputs), inputs + hidden)
            found[f"{layer}.hidden"] = _uniform(draws, (4 * hidden, hidden), inputs + hidden)
            bias = torch.zeros(4 * hidden)
            bias[hidden : 2 * hidden] = 1.0
            found[f"{layer}.bias"] = bias
        found["out.weight"] = _uniform(draws, (hidden,), 100 * hidden)
        found["out.bias"] = torch.zeros(())
        return found, {}

    def start(self, values: Tensors, theta: Tensor) -> State:
        names = [f"{kind}{layer}" for layer in range(self.config.layers) for kind in ("hidden", "cell")]
        return {name: theta.new_zeros(self.config.hidden, *theta.shape).permute(1, 2, 0) for name in names}

    def features(self, values: Tensors, theta: Tensor, gradient: Tensor, state: State) -> Tensor:
        if self.config.preprocess == "none":
            return gradient.unsqueeze(0)
        p = self.config.p
        size = gradient.abs()
        large = size >= math.exp(-p)
        first = torch.where(large, size.clamp_min(math.exp(-p)).log() / p, -1.0)
        return torch.stack([first, torch.where(large, gradient.sign(), math.exp(p) * gradient)])

    def decide(self, values: Tensors, features: Tensor, state: State, step: int, block: Block) -> tuple[Tensor, State]:
        (tasks, n), x = features.shape[1:], features.flatten(1)
        after: State = {}
        for layer in range(self.config.layers):
            # Units come first in memory, whatever the axes say: gates and states are then contiguous.
            hidden, cell = (state[f"{kind}{layer}"].permute(2, 0, 1).flatten(1) for kind in ("hidden", "cell"))
            gates = torch.addmm(values[f"{layer}.bias"].unsqueeze(1), values[f"{layer}.input"], x)
            gates = torch.addmm(gates, values[f"{layer}.hidden"], hidden)
            x, cell = _cell(gates, cell, differentiable=self.config.second_order)
            after[f"hidden{layer}"] = x.view(-1, tasks, n).permute(1, 2, 0)
            after[f"cell{layer}"] = cell.view(-1, tasks, n).permute(1, 2, 0)
        moved = torch.mv(x.T, values["out.weight"]) + values["out.bias"]
        return (self.config.scale * moved).view(tasks, n), after

    @property
    def _inputs(self) -> int:
        return 1 if self.config.preprocess == "none" else 2


def _cell(gates: Tensor, cell: Tensor, *, differentiable: bool) -> tuple[Tensor, Tensor]:
    """Hidden and cell state ``[H, C]`` after gates ``[4 H, C]``; ``differentiable`` means more than once."""
    if not differentiable and torch.is_grad_enabled():
        found: tuple[Tensor, Tensor] = _Cell.apply(gates, cell)
        return found
    i, f, g, o = gates.chunk(4)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


class _Cell(torch.autograd.Function):
    """The same with its derivative by hand: a third of the memory traffic of autograd's."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        active = torch.empty_like(gates)
        i, f, g, o = active.chunk(4)
        half = 2 * cell.shape[0]
        torch.sigmoid(gates[:half], out=active[:half])
        torch.tanh(gates[half : half + cell.shape[0]], out=g)
        torch.sigmoid(gates[-cell.shape[0] :], out=o)
        after = (f * cell).addcmul_(i, g)
        squashed = torch.tanh(after)
        ctx.save_for_backward(active, cell, squashed)
        return o * squashed, after

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, hidden_bar: Tensor, cell_bar: Tensor) -> tuple[Tensor, Tensor]:
        active, cell, squashed = ctx.saved_tensors
        gates_bar = torch.empty_like(active)
        (i, f, g, o), (i_bar, f_bar, g_bar, o_bar) = active.chunk(4), gates_bar.chunk(4)
        through = hidden_bar * o
        cell_bar = (cell_bar + through).addcmul_(through * squashed, squashed, value=-1)
        torch.mul(cell_bar * g, torch.addcmul(i, i, i, value=-1), out=i_bar)
        torch.mul(cell_bar * cell, torch.addcmul(f, f, f, value=-1), out=f_bar)
        inward = cell_bar * i
        torch.addcmul(inward, inward * g, g, value=-1, out=g_bar)
        torch.mul(hidden_bar * squashed, torch.addcmul(o, o, o, value=-1), out=o_bar)
        return gates_bar, cell_bar * f


def _uniform(draws: Draws, shape: tuple[int, ...], fan_in: int) -> Tensor:
    bound = 1 / math.sqrt(fan_in)
    drawn = draws.uniform(math.prod(shape), -bound, bound)
    return torch.from_numpy(drawn[0]).to(torch.float32).reshape(shape)
