"""A network that writes a network: the support set goes in, the parameters of an ordinary network come out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from metasearch.core.contracts import Predictor
from metasearch.core.errors import UnsupportedError
from metasearch.core.values import Batch, Losses, Phi, Task, TaskSpec, Tensors
from metasearch.learners.adapted import Adapted
from metasearch.learners.inner_loop import layer_seeds
from metasearch.learners.reader.base import Reader
from metasearch.learners.reader.headed import Headed
from metasearch.learners.reader.layers import affine
from metasearch.models import build_model
from metasearch.models.initial import Initializer

__all__ = ["WeightGenerator"]


class WeightGenerator(Reader):
    """Emits parameters from the support set in one pass; :meth:`adapt` hands back the network that they make.

    Without ``network`` it is the embedding with a linear head that is written anew for each task. For classification
    the head's row for a class is a function of the mean code of that class's examples and of the mean code of all
    (Qiao et al. 2018, arXiv:1706.03466; Requeima et al. 2019, arXiv:1906.07697), so phi serves any number of classes
    and shots. Else all parameters are written at once from the mean code of all labelled examples (Garnelo et al. 2018,
    arXiv:1807.01613, for the code; Ha, Dai, Le 2016, arXiv:1609.09106, for the network), as offsets to learned ones.
    Means make the result independent of the support set's order. The sizes are our own.

    Raises:
        UnsupportedError: for a network that keeps moving averages.
        ConfigError: if the embedding or the network cannot be built.
    """

    class Config(Reader.Config):
        """Settings, besides those of every reader.

        Args:
            network: the network whose parameters are written; None means a linear head on the embedding.
            hidden: units of the layers between.
            code: numbers that stand for an example, a class, or a task.
        """

        network: Any = None
        hidden: PositiveInt = 128
        code: PositiveInt = 128

    def __init__(self, config: Any, spec: TaskSpec, choices: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, spec, choices)
        self.model: Any = Headed(self.embedding, spec)
        if config.network is not None:
            self.model = build_model(config.network, spec, "network")
        written, buffers = self.model.init(0)
        if config.network is not None and buffers:
            raise UnsupportedError(
                "network", f"cannot have buffers, which are not written: {', '.join(buffers)}; use norm: batch"
            )
        self.written = {
            name: value.shape
            for name, value in written.items()
            if config.network is not None or name.startswith("head.")
        }
        self.by_class = config.network is None and spec.kind == "classification"

    @property
    def traceable(self) -> bool:
        """Whether ``evaluate`` is a fixed function of its tensors, so that it may be traced once and compiled."""
        return self.embedding.traceable and bool(getattr(self.model, "traceable", False))

    def initial(self, draw: Initializer) -> Tensors:
        config, width = self.config, self.embedding.width
        labels = 0 if self.by_class else self.spec.outputs
        emitted = width + 1 if self.by_class else sum(math.prod(shape) for shape in self.written.values())
        tensors = affine(draw, "encoder.0", config.hidden, width + labels)
        tensors |= affine(draw, "encoder.1", config.code, config.hidden)
        tensors |= affine(draw, "writer.0", config.hidden, config.code * (2 if self.by_class else 1))
        tensors |= affine(draw, "writer.1", emitted, config.hidden)
        if self.by_class:
            return tensors
        start = self.model.init(draw.seed)[0]
        return tensors | {f"start.{name}": start[name] for name in self.written}

    def evaluate(self, phi: Phi, task: Task, seed: int, *, train: bool = True, create_graph: bool = True) -> Losses:
        """Losses of a group of tasks; shapes as in :class:`~metasearch.core.contracts.Learner`."""
        support, query = (layer_seeds(task, seed, part, 0) if train else None for part in ("support", "query"))
        features, buffers = self.embed(phi, task.support.x, self.buffers(phi), support)
        theta = self._theta(phi, features, task.support.y)
        outputs, inside = self.model(theta, self._inside(buffers), task.query.x, seeds=query)
        after = {name: inside.get(f"embedding.{name}", one) for name, one in buffers.items()}
        return self.judged(outputs, task, after)

    def read(self, phi: Phi, support: Batch) -> Predictor:
        features, buffers = self.embed(phi, support.x, self.buffers(phi))
        return Adapted(self.model, self._theta(phi, features, support.y), self._inside(buffers), support)

    def emitted(self, phi: Phi, features: Tensor, y: Tensor) -> Tensors:
        """The written parameters ``[T, ...]`` for support features ``[T, S, width]`` and labels."""
        p = phi.part("reader")
        if not self.by_class:
            flat = _network(p, "writer", self._codes(p, features, y).mean(1))
            sizes = [math.prod(shape) for shape in self.written.values()]
            parts = zip(self.written.items(), flat.split(sizes, -1), strict=True)
            return {name: p[f"start.{name}"] + part.reshape(-1, *shape) for (name, shape), part in parts}
        codes = self._codes(p, features, None)
        members = F.one_hot(y, self.spec.outputs).to(codes.dtype)
        means = members.mT @ codes / members.sum(1).clamp(min=1.0).unsqueeze(-1)
        context = codes.mean(1, keepdim=True).expand_as(means)
        rows = _network(p, "writer", torch.cat([means, context], -1))
        return {"head.weight": rows[..., :-1] / math.sqrt(self.embedding.width), "head.bias": rows[..., -1]}

    def _codes(self, p: Tensors, features: Tensor, y: Tensor | None) -> Tensor:
        """Codes ``[T, S, code]`` of examples, with their labels if given."""
        if y is not None:
            labels = F.one_hot(y, self.spec.outputs) if self.spec.kind == "classification" else y
            features = torch.cat([features, labels.to(features.dtype)], -1)
        return torch.relu(_network(p, "encoder", features))

    def _theta(self, phi: Phi, features: Tensor, y: Tensor) -> Tensors:
        """All parameters of the network: the written ones ``[T, ...]``, those of the embedding ``[1, ...]``."""
        written = self.emitted(phi, features, y)
        if self.config.network is not None:
            return written
        return {f"embedding.{name}": one.unsqueeze(0) for name, one in phi.part("embedding").items()} | written

    def _inside(self, buffers: Tensors) -> Tensors:
        """The embedding's buffers by the names they have in the network; a written network has none."""
        if self.config.network is not None:
            return {}
        return {f"embedding.{name}": one for name, one in buffers.items()}


def _network(p: Tensors, name: str, x: Tensor) -> Tensor:
    """Two linear maps with a ReLU between."""
    hidden = torch.relu(F.linear(x, p[f"{name}.0.weight"], p[f"{name}.0.bias"]))
    return F.linear(hidden, p[f"{name}.1.weight"], p[f"{name}.1.bias"])
