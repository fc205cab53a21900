"""A recurrent network as the update rule: one small LSTM, shared by all coordinates, each with a state of its own.

Andrychowicz et al. 2016, "Learning to learn by gradient descent by gradient descent", arXiv:1606.04474, Sec. 2 and
appendix A.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from metasearch.components.rules.flat import Block, Features, FlatRule, State, stacked
from metasearch.core.errors import ConfigError
from metasearch.core.processor import AMD
from metasearch.core.seeds import Draws
from metasearch.core.values import Tensors

__all__ = ["LstmRule", "log_sign", "lstm_layer"]

PIECE = 4096
"""Coordinates that a layer works on at once."""


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
            centre: of ``log_sign``, what is added to its first feature before ``gain`` multiplies it.
            gain: of ``log_sign``. A move in proportion to the gradient, sign(g) e^(log|g|), takes a weight of p on the
                first feature; ``gain: 10`` with ``p: 10`` brings that to 1, near which weights start.
            forget: bias of the forget gates at the start.
            scale: factor on what the network puts out.
            through: coordinates of each tensor that phi's gradient goes through, drawn anew for each inner loop, each
                counted for those it stands for: an unbiased, noisier gradient in less time and memory. None means all.
                Not with ``second_order``; inner loops are not compiled then.
        """

        layers: PositiveInt = 2
        hidden: PositiveInt = 20
        preprocess: Literal["none", "log_sign"] = "log_sign"
        p: float = Field(default=10.0, gt=0)
        centre: float = 0.0
        gain: float = Field(default=1.0, gt=0)
        forget: float = 1.0
        scale: float = Field(default=0.01, gt=0)
        through: PositiveInt | None = None

        @model_validator(mode="after")
        def _first_order(self) -> LstmRule.Config:
            if self.through is not None and self.second_order:
                raise ConfigError("through", "needs gradients that are constants; leave out through or second_order")
            return self

    @property
    def through(self) -> int | None:
        found: int | None = self.config.through
        return found

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        """Uniform weights of variance 1 / (3 fan-in), in the last layer a tenth of that deviation: the untrained rule
        takes small steps. Forget gates start open (bias 1, unless ``forget`` says otherwise).
        """
        draws, hidden = Draws([seed], "lstm rule"), self.config.hidden
        found: Tensors = {}
        for layer in range(self.config.layers):
            inputs = hidden if layer else self._inputs
            found[f"{layer}.input"] = _uniform(draws, (4 * hidden, inputs), inputs + hidden)
            found[f"{layer}.hidden"] = _uniform(draws, (4 * hidden, hidden), inputs + hidden)
            bias = torch.zeros(4 * hidden)
            bias[hidden : 2 * hidden] = self.config.forget
            found[f"{layer}.bias"] = bias
        found["out.weight"] = _uniform(draws, (hidden,), 100 * hidden)
        found["out.bias"] = torch.zeros(())
        return found, {}

    def start(self, values: Tensors, theta: Tensor) -> State:
        names = [f"{kind}{layer}" for layer in range(self.config.layers) for kind in ("hidden", "cell")]
        return {name: theta.new_zeros(self.config.hidden, *theta.shape).permute(1, 2, 0) for name in names}

    def features(self, values: Tensors, theta: Tensor, gradient: Tensor, state: State) -> tuple[Tensor, ...]:
        if self.config.preprocess == "none":
            return (gradient,)
        size, sign = log_sign(gradient, self.config.p)
        if self.config.centre or self.config.gain != 1.0:
            size = self.config.gain * (size + self.config.centre)
        return size, sign

    def decide(
        self, values: Tensors, features: Features, state: State, step: int, block: Block
    ) -> tuple[Tensor, State]:
        (tasks, n), x = features[0].shape, stacked(features).flatten(1)
        after: State = {}
        for layer in range(self.config.layers):
            # Units come first in memory, whatever the axes say: gates and states are then contiguous.
            hidden, cell = (state[f"{kind}{layer}"].permute(2, 0, 1).flatten(1) for kind in ("hidden", "cell"))
            weights = values[f"{layer}.input"], values[f"{layer}.hidden"], values[f"{layer}.bias"]
            x, cell = lstm_layer(x, hidden, cell, *weights, differentiable=self.config.second_order)
            after[f"hidden{layer}"] = x.view(-1, tasks, n).permute(1, 2, 0)
            after[f"cell{layer}"] = cell.view(-1, tasks, n).permute(1, 2, 0)
        moved = torch.mv(x.T, values["out.weight"]) + values["out.bias"]
        return (self.config.scale * moved).view(tasks, n), after

    @property
    def _inputs(self) -> int:
        return 1 if self.config.preprocess == "none" else 2


def log_sign(x: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """``(log|x| / p, sign x)`` where ``|x| >= e^-p``, and ``(-1, e^p x)`` below that (appendix A of the paper)."""
    size = x.abs()
    large = size >= math.exp(-p)
    first = torch.where(large, size.clamp_min(math.exp(-p)).log() / p, -1.0)
    return first, torch.where(large, x.sign(), math.exp(p) * x)


def lstm_layer(
    x: Tensor,
    hidden: Tensor,
    cell: Tensor,
    inward: Tensor,
    across: Tensor,
    bias: Tensor,
    *,
    differentiable: bool = False,
) -> tuple[Tensor, Tensor]:
    """The next hidden and cell state of an LSTM layer that all coordinates share.

    Args:
        x: inputs ``[F, C]``.
        hidden: ``[H, C]``.
        cell: ``[H, C]``.
        inward: weights of the inputs ``[4 H, F]``; gates are in the order input, forget, cell, output.
        across: weights of the hidden state ``[4 H, H]``.
        bias: ``[4 H]``.
        differentiable: whether derivatives of derivatives are wanted.
    """
    if not differentiable:
        found: tuple[Tensor, Tensor] = _Layer.apply(x, hidden, cell, inward, across, bias)
        return found
    i, f, g, o = torch.addmm(torch.addmm(bias.unsqueeze(1), inward, x), across, hidden).chunk(4)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


class _Layer(torch.autograd.Function):
    """The same in pieces that fit the cache, with its derivative by hand, which computes the gates again: they are
    twice as large as all else together, and reading them from memory takes longer. All pieces use the same memory.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, hidden: Tensor, cell: Tensor, inward: Tensor, across: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        after, out = torch.empty_like(cell), torch.empty_like(cell)
        gates = _Gates(inward, across, bias)
        for at in _pieces(x.shape[1]):
            i, f, g, o = gates(x[:, at], hidden[:, at])
            now = torch.mul(f, cell[:, at], out=after[:, at]).addcmul_(i, g)
            torch.mul(_tanh(now, out=f), o, out=out[:, at])
        ctx.save_for_backward(x, hidden, cell, inward, across, bias, after)
        return out, after

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, out_bar: Tensor, after_bar: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, cell, inward, across, bias, after = ctx.saved_tensors
        needs_x, needs_hidden, needs_cell = ctx.needs_input_grad[:3]
        x_bar = torch.empty_like(x) if needs_x else None
        hidden_bar = torch.empty_like(hidden) if needs_hidden else None
        cell_bar = torch.empty_like(cell) if needs_cell else None
        gates = _Gates(inward, across, bias)
        turned = torch.zeros_like(gates.weights.T, memory_format=torch.contiguous_format)  # a quarter faster so
        bar = rooms = bias.new_empty(0, 0)
        for at in _pieces(x.shape[1]):
            i, f, g, o = gates(x[:, at], hidden[:, at])
            if bar.shape[1] != i.shape[1]:
                bar, rooms = torch.empty_like(gates.last), i.new_empty(3, *i.shape)
            squashed, through, inner = rooms
            _tanh(after[:, at], out=squashed)
            torch.mul(out_bar[:, at], o, out=through)
            torch.add(after_bar[:, at], through, out=inner)
            inner.addcmul_(through.mul_(squashed), squashed, value=-1)
            i_bar, f_bar, g_bar, o_bar = bar.chunk(4)
            torch.mul(inner, g, out=i_bar)
            torch.mul(inner, cell[:, at], out=f_bar)
            torch.mul(inner, i, out=g_bar)
            torch.mul(out_bar[:, at], squashed, out=o_bar)
            if cell_bar is not None:
                torch.mul(inner, f, out=cell_bar[:, at])
            for one, value in ((i_bar, i), (f_bar, f), (o_bar, o)):
                one.mul_(torch.addcmul(value, value, value, value=-1, out=through))
            g_bar.addcmul_(torch.mul(g_bar, g, out=through), g, value=-1)
            turned.addmm_(gates.read, bar.T)
            if x_bar is not None:
                torch.mm(inward.T, bar, out=x_bar[:, at])
            if hidden_bar is not None:
                torch.mm(across.T, bar, out=hidden_bar[:, at])
        inward_bar, bias_bar, across_bar = turned.split([len(x), 1, len(hidden)])
        return x_bar, hidden_bar, cell_bar, inward_bar.T.contiguous(), across_bar.T.contiguous(), bias_bar.squeeze(0)


class _Gates:
    """Activated gates of a piece; the last piece's are overwritten.

    One product of all weights with inputs, a one for the bias and the hidden state: a product with two inputs alone
    takes longer than one with twenty.
    """

    def __init__(self, inward: Tensor, across: Tensor, bias: Tensor) -> None:
        self.weights = torch.cat([inward, bias.unsqueeze(1), across], 1)
        self.read, self.last = bias.new_empty(0), bias.new_empty(0)

    def __call__(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows, inputs = self.weights.shape[1], len(x)
        if self.read.shape[-1] != x.shape[1]:
            self.read = x.new_ones(rows, x.shape[1])
            self.last = x.new_empty(len(self.weights), x.shape[1])
        self.read[:inputs] = x
        self.read[inputs + 1 :] = hidden
        torch.mm(self.weights, self.read, out=self.last)
        i, f, g, o = self.last.chunk(4)
        self.last[: 2 * len(i)].sigmoid_()
        return i, f, _tanh(g, out=g), o.sigmoid_()


def _tanh(x: Tensor, out: Tensor) -> Tensor:
    """``tanh(x)``, up to a rounding error of 1 in the way that is several times as fast on some processors."""
    if AMD and x.device.type == "cpu":
        return torch.mul(x, 2, out=out).sigmoid_().mul_(2).sub_(1)
    return torch.tanh(x, out=out)


def _pieces(n: int) -> list[slice]:
    return [slice(start, min(start + PIECE, n)) for start in range(0, n, PIECE)]


def _uniform(draws: Draws, shape: tuple[int, ...], fan_in: int) -> Tensor:
    bound = 1 / math.sqrt(fan_in)
    drawn = draws.uniform(math.prod(shape), -bound, bound)
    return torch.from_numpy(drawn[0]).to(torch.float32).reshape(shape)
