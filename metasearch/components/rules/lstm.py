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
        """Uniform weights of variance 1 / (3 fan-in); forget gates start open (bias 1)."""
        draws, hidden = Draws([seed], "lstm rule"), self.config.hidden
        found: Tensors = {}
        for layer in range(self.config.layers):
            inputs = hidden if layer else self._inputs
            found[f"{layer}.input"] = _uniform(draws, (4 * hidden, inputs), inputs + hidden)
            found[f"{layer}.hidden"] = _uniform(draws, (4 * hidden, hidden), inputs + hidden)
            bias = torch.zeros(4 * hidden)
            bias[hidden : 2 * hidden] = 1.0
            found[f"{layer}.bias"] = bias
        found["out.weight"] = _uniform(draws, (hidden,), hidden)
        found["out.bias"] = torch.zeros(())
        return found, {}

    def start(self, values: Tensors, theta: Tensor) -> State:
        shape = (*theta.shape, self.config.hidden)
        names = [f"{kind}{layer}" for layer in range(self.config.layers) for kind in ("hidden", "cell")]
        return {name: theta.new_zeros(shape) for name in names}

    def features(self, values: Tensors, theta: Tensor, gradient: Tensor, state: State) -> Tensor:
        if self.config.preprocess == "none":
            return gradient.unsqueeze(0)
        p = self.config.p
        size = gradient.abs()
        large = size >= math.exp(-p)
        first = torch.where(large, size.clamp_min(math.exp(-p)).log() / p, -1.0)
        return torch.stack([first, torch.where(large, gradient.sign(), math.exp(p) * gradient)])

    def decide(
        self, values: Tensors, features: Tensor, state: State, step: int, block: Block
    ) -> tuple[Tensor, State]:
        shape = features.shape[1:]
        x = features.flatten(1).T
        after: State = {}
        for layer in range(self.config.layers):
            hidden, cell = (state[f"{kind}{layer}"].flatten(0, 1) for kind in ("hidden", "cell"))
            gates = torch.addmm(values[f"{layer}.bias"], x, values[f"{layer}.input"].T)
            gates = torch.addmm(gates, hidden, values[f"{layer}.hidden"].T)
            x, cell = _cell(gates, cell, differentiable=self.config.second_order)
            after[f"hidden{layer}"], after[f"cell{layer}"] = x.view(*shape, -1), cell.view(*shape, -1)
        moved = torch.addmv(values["out.bias"].expand(x.shape[0]), x, values["out.weight"])
        return (self.config.scale * moved).view(shape), after

    @property
    def _inputs(self) -> int:
        return 1 if self.config.preprocess == "none" else 2


def _cell(gates: Tensor, cell: Tensor, *, differentiable: bool) -> tuple[Tensor, Tensor]:
    """Hidden and cell state ``[C, H]`` after gates ``[C, 4 H]``; ``differentiable`` means more than once."""
    if not differentiable and torch.is_grad_enabled():
        found: tuple[Tensor, Tensor] = _Cell.apply(gates, cell)
        return found
    i, f, g, o = gates.chunk(4, 1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


class _Cell(torch.autograd.Function):
    """The same with its derivative by hand: a third of the memory traffic of autograd's."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        width = cell.shape[1]
        active = torch.sigmoid(gates)
        torch.tanh(gates[:, 2 * width : 3 * width], out=active[:, 2 * width : 3 * width])
        i, f, g, o = active.chunk(4, 1)
        after = torch.addcmul(f * cell, i, g)
        squashed = torch.tanh(after)
        ctx.save_for_backward(active, cell, squashed)
        return o * squashed, after

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, hidden_bar: Tensor, cell_bar: Tensor) -> tuple[Tensor, Tensor]:
        active, cell, squashed = ctx.saved_tensors
        i, f, g, o = active.chunk(4, 1)
        cell_bar = torch.addcmul(cell_bar, hidden_bar * o, 1 - squashed.square())
        gates_bar = torch.empty_like(active)
        i_bar, f_bar, g_bar, o_bar = gates_bar.chunk(4, 1)
        torch.mul(cell_bar, g, out=i_bar)
        torch.mul(cell_bar, cell, out=f_bar)
        torch.mul(cell_bar, i, out=g_bar)
        torch.mul(hidden_bar, squashed, out=o_bar)
        slope = active * (1 - active)
        slope[:, 2 * cell.shape[1] : 3 * cell.shape[1]] = 1 - g.square()
        return gates_bar.mul_(slope), cell_bar * f


def _uniform(draws: Draws, shape: tuple[int, ...], fan_in: int) -> Tensor:
    bound = 1 / math.sqrt(fan_in)
    drawn = draws.uniform(math.prod(shape), -bound, bound)
    return torch.from_numpy(drawn[0]).to(torch.float32).reshape(shape)
