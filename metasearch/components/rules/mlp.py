"""A small multilayer perceptron as the update rule, fed with moments of the gradient and with time.

The family of Metz et al.: "Understanding and correcting pathologies in the training of learned optimizers" 2019
(arXiv:1810.10180) and "Practical tradeoffs between memory, compute, and performance in learned optimizers" 2022
(arXiv:2203.11860), whose small rule has two layers of 4 units.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor

from metasearch.components.rules.flat import Block, Features, FlatRule, State, stacked
from metasearch.components.rules.perceptron import perceptron
from metasearch.core.seeds import Draws
from metasearch.core.values import Tensors

__all__ = ["MlpRule"]

TIMES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)
"""Time scales of the features ``tanh(step / scale - 1)``, in steps."""


class MlpRule(FlatRule):
    """``theta' = theta - size * d * exp(sharpness * m)``, with ``(d, m)`` from a perceptron on a coordinate's features.

    Features of a coordinate: its gradient, its value, a running mean of the gradient for each of ``momenta``; for each
    of ``second_moments`` the inverse root r of a running mean of the squared gradient, and r times the gradient and
    each mean. Each is divided by its root mean square over the tensor. Time enters as eleven further inputs, equal for
    all coordinates. Published rules also have factored (row and column) second moments, which this one has not.

    phi holds ``0.weight`` ``[H, F]``, ``time.weight`` ``[H, 11]``, further layers, ``out.weight`` ``[2, H]`` and
    biases; with ``learn_decays`` also the decays as logits.
    """

    class Config(FlatRule.Config):
        """Settings.

        Args:
            hidden: units of the hidden layers.
            momenta: decays of the running means of the gradient, a step.
            second_moments: decays of the running means of its square.
            learn_decays: whether the decays are part of phi; they start at the values given.
            size: typical step, in units of the parameter.
            sharpness: how strongly ``m`` changes the length of a step.
            epsilon: added to the mean square that features are divided by.
        """

        hidden: tuple[int, ...] = Field(default=(32, 32), min_length=1)
        momenta: tuple[float, ...] = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
        second_moments: tuple[float, ...] = ()
        learn_decays: bool = False
        size: float = Field(default=1e-3, gt=0)
        sharpness: float = Field(default=1e-3, gt=0)
        epsilon: float = Field(default=1e-5, gt=0)

        @field_validator("momenta", "second_moments")
        @classmethod
        def _decays(cls, value: tuple[float, ...]) -> tuple[float, ...]:
            if not all(0 < decay < 1 for decay in value):
                raise ValueError("decays lie between 0 and 1")
            return value

    normalizes: ClassVar[bool] = True

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        """Uniform weights of variance 1 / (3 fan-in), biases 0."""
        draws, config = Draws([seed], "mlp rule"), self.config
        sizes = (self._features, *config.hidden)
        found: Tensors = {}
        for layer in range(len(config.hidden)):
            found[f"{layer}.weight"] = _uniform(draws, sizes[layer + 1], sizes[layer])
            found[f"{layer}.bias"] = torch.zeros(sizes[layer + 1])
        found["time.weight"] = _uniform(draws, sizes[1], len(TIMES))
        found["out.weight"] = _uniform(draws, 2, sizes[-1])
        found["out.bias"] = torch.zeros(2)
        if config.learn_decays:
            for name in ("momenta", "second_moments"):
                if decays := getattr(config, name):
                    found[name] = torch.tensor(decays, dtype=torch.float64).logit().to(torch.float32)
        return found, {}

    def scale(self, mean_squares: Tensor) -> Tensor:
        return torch.rsqrt(mean_squares + self.config.epsilon)

    def start(self, values: Tensors, theta: Tensor) -> State:
        return {name: torch.zeros_like(theta) for name, _ in self._kept(values)}

    def remember(self, values: Tensors, gradient: Tensor, state: State, step: int, block: Block) -> State:
        square = gradient.square() if self.config.second_moments else gradient
        return {
            name: torch.lerp(square if name.startswith("second") else gradient, state[name], decay)
            for name, decay in self._kept(values)
        }

    def features(self, values: Tensors, theta: Tensor, gradient: Tensor, state: State) -> tuple[Tensor, ...]:
        first = [gradient, *(state[f"mean{index}"] for index in range(len(self.config.momenta)))]
        found = [theta, *first]
        for index in range(len(self.config.second_moments)):
            inverse = (state[f"second{index}"] + 1e-12).rsqrt_()
            found += [inverse, *(inverse * one for one in first)]
        return tuple(found)

    def decide(
        self, values: Tensors, features: Features, state: State, step: int, block: Block
    ) -> tuple[Tensor, State]:
        x = stacked(features)
        scales = torch.tensor(TIMES, dtype=x.dtype, device=x.device)
        time = values["time.weight"] @ torch.tanh(step / scales - 1)
        names = [*map(str, range(len(self.config.hidden))), "out"]
        layers = [(values[f"{name}.weight"], values[f"{name}.bias"]) for name in names]
        layers[0] = layers[0][0], layers[0][1] + time
        direction, length = perceptron(x.flatten(1), layers)
        moved = (self.config.sharpness * length).exp_() * direction * -self.config.size
        return moved.view(x.shape[1:]), state

    @property
    def _features(self) -> int:
        momenta = len(self.config.momenta)
        return 2 + momenta + len(self.config.second_moments) * (2 + momenta)

    def _kept(self, values: Tensors) -> list[tuple[str, Tensor | float]]:
        """What is remembered, with its decay."""
        found: list[tuple[str, Tensor | float]] = []
        for name, short in (("momenta", "mean"), ("second_moments", "second")):
            decays = torch.sigmoid(values[name]) if name in values else getattr(self.config, name)
            found += [(f"{short}{index}", decay) for index, decay in enumerate(decays)]
        return found


def _uniform(draws: Draws, outputs: int, inputs: int) -> Tensor:
    bound = 1 / math.sqrt(inputs)
    return torch.from_numpy(draws.uniform(outputs * inputs, -bound, bound)[0]).to(torch.float32).view(outputs, inputs)
