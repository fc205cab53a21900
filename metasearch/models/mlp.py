"""A multilayer perceptron over a leading task axis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from metasearch.core import config
from metasearch.core.registry import register
from metasearch.core.values import TaskSpec, Tensors
from metasearch.models import functional
from metasearch.models.initial import Initializer, parameter_shapes
from metasearch.models.norm import BatchNorm

__all__ = ["MLP"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": nn.functional.gelu,
}


@register("model", "mlp")
class MLP:
    """Linear layers with an activation between them; inputs of any shape are flattened.

    Args:
        config: settings.
        spec: shapes of the tasks.

    Parameters are named ``layers.0.weight``, ``layers.0.bias``, ``norms.0.weight`` ..., ``head.weight``, ``head.bias``.
    """

    traceable = True
    """A fixed sequence of tensor operations: it may be recorded once and compiled."""

    class Config(config.Config):
        """Args:
        hidden: units of the hidden layers, in order; empty for a linear model.
        activation: after every hidden layer.
        batch_norm: normalize hidden layers before the activation, by the batch at hand.
        init: ``xavier`` (uniform) or ``truncated_normal``; biases start at 0 either way.
        init_std: standard deviation of ``truncated_normal``; 0.01 is what the published code of MAML has.
        """

        hidden: tuple[int, ...] = (40, 40)
        activation: Literal["relu", "tanh", "sigmoid", "gelu"] = "relu"
        batch_norm: bool = False
        init: Literal["xavier", "truncated_normal"] = "xavier"
        init_std: float = Field(0.01, gt=0)

    def __init__(self, config: Config, spec: TaskSpec) -> None:
        self.config = config
        self.sizes = (math.prod(spec.input_shape), *config.hidden, spec.outputs)
        self.transductive = config.batch_norm

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        """Weights by ``init``, biases 0, norms at the identity; there are no buffers."""
        draw = Initializer(seed)
        parameters: Tensors = {}
        for name, shape in parameter_shapes(self.module).items():
            if len(shape) == 1:
                parameters[name] = (
                    torch.ones(shape) if name.startswith("norms.") and name.endswith("weight") else torch.zeros(shape)
                )
            elif self.config.init == "xavier":
                parameters[name] = draw.xavier_uniform(*shape)
            else:
                parameters[name] = draw.truncated_normal(*shape, std=self.config.init_std)
        return parameters, {}

    def __call__(
        self, parameters: Tensors, buffers: Tensors, x: Tensor, *, seeds: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensors]:
        """Outputs ``[T, n, outputs]`` of ``x [T, n, ...]``; nothing is drawn, so ``seeds`` have no effect."""
        x, buffers = self.represent(parameters, buffers, x, seeds=seeds)
        return self.conclude(parameters, x), buffers

    def conclude(self, parameters: Tensors, features: Tensor) -> Tensor:
        """Outputs ``[T, n, outputs]`` of what :meth:`represent` gives."""
        return functional.linear(features, parameters["head.weight"], parameters["head.bias"])

    def represent(
        self, parameters: Tensors, buffers: Tensors, x: Tensor, *, seeds: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensors]:
        """What the last layer sees of ``x``, ``[T, n, features]``; as for a call."""
        activation = ACTIVATIONS[self.config.activation]
        x = x.flatten(2) if x.dim() > 2 else x.unsqueeze(-1)
        for layer in range(len(self.config.hidden)):
            x = functional.linear(x, parameters[f"layers.{layer}.weight"], parameters[f"layers.{layer}.bias"])
            if self.config.batch_norm:
                x = functional.batch_norm(x, parameters[f"norms.{layer}.weight"], parameters[f"norms.{layer}.bias"])
            x = activation(x)
        return x, buffers

    def module(self) -> nn.Module:
        """An ordinary module of this architecture, for one task; its ``state_dict`` has the names of the parameters."""
        return _MLPModule(self)


class _MLPModule(nn.Module):
    def __init__(self, model: MLP) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(model.sizes[:-1]))
        self.norms = nn.ModuleList(BatchNorm(o) for o in model.config.hidden if model.config.batch_norm)
        self.head = nn.Linear(model.sizes[-2], model.sizes[-1])
        self.activation = ACTIVATIONS[model.config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``[n, outputs]`` of ``x [n, ...]``."""
        x = x.flatten(1) if x.dim() > 1 else x.unsqueeze(-1)
        for index, layer in enumerate(self.layers):
            x = layer(x)
            x = self.activation(self.norms[index](x) if self.norms else x)
        outputs: Tensor = self.head(x)
        return outputs
