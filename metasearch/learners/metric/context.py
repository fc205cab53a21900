"""Full context embeddings: what an example's vector is depends on the whole support set.

g reads the support set with an LSTM in both directions; f reads g's results K times with attention (Vinyals et al.
2016, arXiv:1606.04080, Appendix A):

    g(x_i, S) = h_i forward + h_i backward + g'(x_i)
    h_k = LSTM(f'(x), [h_{k-1}, r_{k-1}]) + f'(x),   r_k = sum_i a_i g(x_i, S),   a = softmax_i of h_k . g(x_i, S)
    f(x, S) = h_K
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import NonNegativeInt
from torch import Tensor

from metasearch.core import seeds as seeding
from metasearch.core.config import Config as BaseConfig
from metasearch.core.values import Tensors
from metasearch.models.initial import Initializer

__all__ = ["Context"]


class Context:
    """The two LSTMs, of as many units as the vectors have elements.

    The support set is read class by class, whatever order it comes in: the result does not depend on how examples of
    different classes alternate. Which class is read first is the order of the labels, which tasks draw at random.

    Parameters are named and laid out like those of ``torch.nn.LSTM``, with one bias: ``forward.weight_ih`` ``[4d, d]``,
    ``forward.weight_hh`` ``[4d, d]``, ``forward.bias`` ``[4d]`` (gates i, f, g, o), likewise ``backward``, and ``read``
    with ``weight_hh`` ``[4d, 2d]`` for h and r.

    Args:
        config: its settings.
        features: elements of a vector, d.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            steps: how many times f reads the support set, K; 0 leaves query vectors as they are.
        """

        steps: NonNegativeInt = 5

    def __init__(self, config: Any, features: int) -> None:
        self.config, self.features = config, features

    def init(self, seed: int) -> Tensors:
        """Xavier-uniform weights, biases 0 but for the forget gates, which start open (1)."""
        draw, d = Initializer(seeding.derive(seed, "init", "context")), self.features
        found: Tensors = {}
        for name, inputs in (("forward", d), ("backward", d), ("read", 2 * d)):
            found[f"{name}.weight_ih"] = draw.xavier_uniform(4 * d, d)
            found[f"{name}.weight_hh"] = draw.xavier_uniform(4 * d, inputs)
            found[f"{name}.bias"] = torch.cat([torch.zeros(d), torch.ones(d), torch.zeros(2 * d)])
        return found

    def __call__(self, values: Tensors, support: Tensor, labels: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """``g [T, n, d]`` and ``f [T, m, d]`` of ``support [T, n, d]``, ``labels [T, n]`` and ``query [T, m, d]``."""
        g = self.read_support(values, support, labels)
        return g, self.read_query(values, g, query)

    def read_support(self, values: Tensors, support: Tensor, labels: Tensor) -> Tensor:
        """``g(x_i, S)``."""
        order = labels.argsort(dim=1, stable=True)
        x = support.gather(1, order.unsqueeze(-1).expand_as(support))
        g = self._run(values, "forward", x) + self._run(values, "backward", x.flip(1)).flip(1) + x
        return g.gather(1, order.argsort(1).unsqueeze(-1).expand_as(support))

    def read_query(self, values: Tensors, g: Tensor, query: Tensor) -> Tensor:
        """``f(x, S)``."""
        inputs = query @ values["read.weight_ih"].mT + values["read.bias"]
        h, c = torch.zeros_like(query), torch.zeros_like(query)
        for _ in range(self.config.steps):
            r = torch.softmax(h @ g.mT, -1) @ g
            h, c = _cell(inputs + torch.cat([h, r], -1) @ values["read.weight_hh"].mT, c)
            h = h + query
        return h if self.config.steps else query

    def _run(self, values: Tensors, name: str, x: Tensor) -> Tensor:
        """The outputs ``[T, n, d]`` of an LSTM along the second axis."""
        inputs = x @ values[f"{name}.weight_ih"].mT + values[f"{name}.bias"]
        h = c = torch.zeros_like(x[:, 0])
        found = []
        for now in inputs.unbind(1):
            h, c = _cell(now + h @ values[f"{name}.weight_hh"].mT, c)
            found.append(h)
        return torch.stack(found, 1)


def _cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = gates.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c
