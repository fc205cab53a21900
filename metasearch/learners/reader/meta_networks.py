"""Meta Networks: fast weights, made from loss gradients and found by attention, beside the slow ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from metasearch.core.contracts import Predictor
from metasearch.core.values import Batch, Losses, Phi, Task, Tensors
from metasearch.learners.reader.base import Reader
from metasearch.learners.reader.layers import affine
from metasearch.learners.reader.recurrent import LSTMLayer
from metasearch.models.initial import Initializer

__all__ = ["MetaNetworks", "signed_log"]


class MetaNetworks(Reader):
    """Munkhdalai and Yu 2017, arXiv:1703.00837, with fast weights in the two dense layers above the embedding.

    Read from the published code, the paper not being at hand. Each support example's loss gradient in the base layers
    becomes fast weights for them, coordinate by coordinate (the value memory). The gradients in a second pair of
    layers, of pieces of the support set one after the other, become fast weights for the first of these by an LSTM over
    pieces; with them, that layer gives the keys. A query attends to the keys by cosine and runs the base layers with
    its own mean of the fast weights. Layer augmentation: a layer's output is the sum of those under slow and under fast
    weights, ``relu(W f) + relu(W* f)``.

    Guesses and differences: the code also makes fast weights of all convolutions, of two embeddings, where one
    embedding without any serves here; gradients count as constants there, which the estimator ``first_order`` does
    here, while ``backprop`` differentiates through them; there is a factor on the cosines (1 in the code). The number
    of classes is part of the weights. The support set is cut into pieces in the order in which it comes.
    """

    class Config(Reader.Config):
        """Settings, besides those of every reader.

        Args:
            hidden: units of the dense layer.
            generator: units of the networks that make fast weights.
            pieces: parts of the support set that the LSTM sees one after the other (at most one an example).
            strength: factor on the cosines before their softmax.
        """

        hidden: PositiveInt = 64
        generator: PositiveInt = 20
        pieces: PositiveInt = 5
        strength: PositiveFloat = 1.0

    def initial(self, draw: Initializer) -> Tensors:
        width, hidden, outputs, units = (
            self.embedding.width,
            self.config.hidden,
            self.spec.outputs,
            self.config.generator,
        )
        tensors: Tensors = {}
        for name in ("base", "key"):
            tensors[f"{name}.0"] = draw.xavier_uniform(hidden, width)
            tensors[f"{name}.1"] = draw.xavier_uniform(outputs, hidden)
        tensors |= {f"task.lstm.{name}": value for name, value in LSTMLayer(2, units).init(draw).items()}
        tensors |= affine(draw, "task.out", 1, units)
        return (
            tensors
            | affine(draw, "example.0", units, 2)
            | affine(draw, "example.1", units, units)
            | affine(draw, "example.2", 1, units)
        )

    def evaluate(self, phi: Phi, task: Task, seed: int, *, train: bool = True, create_graph: bool = True) -> Losses:
        """Losses of a group of tasks; without ``create_graph`` the gradients of the support losses are constants."""
        support, query, buffers = self.embed_task(phi, task, seed, train=train)
        memory = self.memorize(phi, support, task.support.y, create_graph=create_graph)
        return self.judged(self.answer(phi, memory, query), task, buffers)

    def read(self, phi: Phi, support: Batch) -> Predictor:
        features, buffers = self.embed(phi, support.x, self.buffers(phi))
        return _Answers(self, phi, self.memorize(phi, features, support.y, create_graph=False), buffers)

    def memorize(self, phi: Phi, features: Tensor, y: Tensor, *, create_graph: bool) -> Memory:
        """What is kept of support features ``[T, S, F]``."""
        p = phi.part("reader")
        fast = [self._written(p, one) for one in self._gradients(p, "base", features, y, create_graph=create_graph)]
        gradients = self._gradients(p, "key", features, y, create_graph=create_graph)[0]
        pieces = gradients.tensor_split(min(self.config.pieces, features.shape[1]), 1)
        key = self._by_pieces(p, torch.stack([piece.mean(1) for piece in pieces], 1))
        return Memory(self._keys(p, key, features), key, fast[0], fast[1])

    def answer(self, phi: Phi, memory: Memory, features: Tensor) -> Tensor:
        """Outputs ``[T, Q, outputs]`` for query features ``[T, Q, F]``."""
        p = phi.part("reader")
        shares = self.attention(phi, memory, features)
        fast = torch.einsum("tqs,tshf,tqf->tqh", shares, memory.first, features)
        hidden = torch.relu(F.linear(features, p["base.0"])) + torch.relu(fast)
        return F.linear(hidden, p["base.1"]) + torch.einsum("tqs,tsoh,tqh->tqo", shares, memory.second, hidden)

    def attention(self, phi: Phi, memory: Memory, features: Tensor) -> Tensor:
        """How much each query looks at each support example, ``[T, Q, S]``."""
        keys = self._keys(phi.part("reader"), memory.key, features)
        cosines = F.normalize(keys, dim=-1, eps=1e-8) @ F.normalize(memory.keys, dim=-1, eps=1e-8).mT
        return torch.softmax(self.config.strength * cosines, -1)

    def _gradients(
        self, p: Tensors, name: str, features: Tensor, y: Tensor, *, create_graph: bool
    ) -> tuple[Tensor, Tensor]:
        """Gradients of each example's loss in the two layers, ``[T, S, hidden, F]`` and ``[T, S, outputs, hidden]``."""
        first, second = p[f"{name}.0"], p[f"{name}.1"]
        before = F.linear(features, first)
        hidden = torch.relu(before)
        outputs = F.linear(hidden, second)
        if self.spec.kind == "classification":
            error = torch.softmax(outputs, -1) - F.one_hot(y, self.spec.outputs)
        else:
            error = 2.0 * (outputs - y) / self.spec.outputs
        back = (error @ second) * (before > 0)
        found = back.unsqueeze(-1) * features.unsqueeze(-2), error.unsqueeze(-1) * hidden.unsqueeze(-2)
        return found if create_graph else (found[0].detach(), found[1].detach())

    def _written(self, p: Tensors, gradients: Tensor) -> Tensor:
        """Fast weights of the shape of gradients, one coordinate by itself."""
        x = signed_log(gradients)
        for index in range(2):
            x = torch.relu(F.linear(x, p[f"example.{index}.weight"], p[f"example.{index}.bias"]))
        return F.linear(x, p["example.2.weight"], p["example.2.bias"]).squeeze(-1)

    def _by_pieces(self, p: Tensors, gradients: Tensor) -> Tensor:
        """Fast weights ``[T, hidden, F]`` from gradients ``[T, pieces, hidden, F]``."""
        tasks, _, *shape = gradients.shape
        x = signed_log(gradients).flatten(2, 3).transpose(1, 2).flatten(0, 1)
        lstm = LSTMLayer(2, self.config.generator)
        own = {name.removeprefix("task.lstm."): one for name, one in p.items() if name.startswith("task.lstm.")}
        hidden, _ = lstm.read(own, x)
        return F.linear(hidden[:, -1], p["task.out.weight"], p["task.out.bias"]).reshape(tasks, *shape)

    def _keys(self, p: Tensors, key: Tensor, features: Tensor) -> Tensor:
        """``[T, n, hidden]``."""
        return F.linear(features, p["key.0"]) + features @ key.mT


class Memory(NamedTuple):
    """What Meta Networks keep of support sets."""

    keys: Tensor
    """``[T, S, hidden]``"""
    key: Tensor
    """Fast weights of the layer that gives the keys, ``[T, hidden, F]``."""
    first: Tensor
    """Fast weights of the first base layer, ``[T, S, hidden, F]``."""
    second: Tensor
    """Of the second, ``[T, S, outputs, hidden]``."""


class _Answers:
    """Answers queries ``x [T, n, ...]``; outputs ``[T, n, outputs]``."""

    def __init__(self, learner: MetaNetworks, phi: Phi, memory: Memory, buffers: Tensors) -> None:
        self._learner, self._phi, self._memory, self._buffers = learner, phi, memory, buffers

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        features, _ = self._learner.embed(self._phi, x, self._buffers)
        return self._learner.answer(self._phi, self._memory, features)


def signed_log(g: Any, k: float = 7.0) -> Tensor:
    """Size and sign of each number, ``[..., 2]``, of one scale over many orders of magnitude.

    ``(log|g| / k, sign g)`` where ``|g| >= exp(-k)``, else ``(-1, exp(k) g)``; Andrychowicz et al. 2016,
    arXiv:1606.04474, Appendix A, with the k of the code of Meta Networks.

    >>> signed_log(torch.tensor([-1.0, 0.0])).tolist()
    [[0.0, -1.0], [-1.0, 0.0]]
    """
    small = torch.exp(torch.tensor(-k, dtype=g.dtype, device=g.device))
    large = g.abs() >= small
    size = torch.where(large, torch.log(torch.where(large, g.abs(), 1.0)) / k, -1.0)
    return torch.stack([size, torch.where(large, torch.sign(g), g / small)], -1)
