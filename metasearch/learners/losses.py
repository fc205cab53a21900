"""Losses of single examples, with a leading task axis, and the metrics that go with them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from metasearch.core.errors import UnsupportedError
from metasearch.core.values import TaskSpec, Tensors

__all__ = ["cross_entropy", "loss_for", "metrics_for", "squared_error"]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """``-log softmax(logits)[label]``, ``[T, n]``, from logits ``[T, n, classes]`` and int64 labels ``[T, n]``."""
    # A one-hot product instead of a gather: its derivatives of every order are dense products, which trace and fuse.
    onehot = F.one_hot(labels, logits.shape[-1]).to(logits.dtype)
    return -(torch.log_softmax(logits, dim=-1) * onehot).sum(-1)


def squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error over the output values, ``[T, n]``, from two tensors ``[T, n, outputs]``."""
    return (predictions - targets).square().mean(-1)


def loss_for(spec: TaskSpec) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of single examples that belongs to a kind of task.

    Raises:
        UnsupportedError: if the kind is neither classification nor regression and the tasks bring no loss.
    """
    if spec.loss is not None:
        return spec.loss
    losses = {"classification": cross_entropy, "regression": squared_error}
    if spec.kind not in losses:
        raise UnsupportedError(
            "tasks", f"tasks of kind {spec.kind!r} need a loss of their own; give TaskSpec(loss=...) from spec()"
        )
    return losses[spec.kind]


def metrics_for(spec: TaskSpec, predictions: Tensor, targets: Tensor) -> Tensors:
    """Metrics of each task, ``[T]``: ``accuracy`` in [0, 1] for classification, none otherwise."""
    if spec.kind != "classification":
        return {}
    return {"accuracy": (predictions.argmax(-1) == targets).to(torch.float64).mean(-1)}
