"""Examples as people hold them, in the shape that a learner wants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metasearch.core.values import TaskSpec

__all__ = ["as_examples", "as_targets"]


def as_examples(
    x: Any,
    input_shape: tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    name: str = "X",
) -> Tensor:
    """Examples ``[n, *input_shape]`` in the precision and place of a phi.

    Args:
        x: array or tensor ``[n, *input_shape]``; also ``[n, height, width]`` for images of one channel, ``[n]`` for
            inputs of one number, and ``[n, features]`` if there are as many features as an input has numbers. uint8 is
            read as 256 levels and scaled to [0, 1], as few-shot tasks do; any other dtype is taken as it is.
        input_shape: shape of one example.
        dtype: of the result.
        device: of the result.
        name: what to call it in messages.

    Raises:
        ValueError: if the shape is another one, there are no examples, or a value is not finite.
    """
    tensor = _tensor(x, name)
    n, rest = (tensor.shape[0] if tensor.dim() else 0), tuple(tensor.shape[1:])
    accepted = {input_shape, (math.prod(input_shape),)}
    if len(input_shape) == 3 and input_shape[0] == 1:
        accepted.add(input_shape[1:])
    if math.prod(input_shape) == 1:
        accepted.add(())
    if tensor.dim() == 0 or rest not in accepted:
        forms = " or ".join(str(["n", *shape]).replace("'", "") for shape in sorted(accepted, key=len, reverse=True))
        raise ValueError(
            f"expected {name} of shape {forms}, got {list(tensor.shape)}; this phi takes inputs of {list(input_shape)}"
        )
    if n == 0:
        raise ValueError(f"expected at least one example in {name}, got none")
    scaled = tensor.to(device, dtype)
    if tensor.dtype == torch.uint8:
        scaled = scaled * (1.0 / 255.0)
    if not bool(torch.isfinite(scaled).all()):
        raise ValueError(f"expected finite numbers in {name}, got nan or inf; drop or fill these examples first")
    return scaled.reshape(n, *input_shape)


def as_targets(given: Any, n: int, spec: TaskSpec, dtype: torch.dtype, *, unlabelled: bool = False) -> Tensor:
    """Targets of one task: class indexes ``[n]`` (int64), or values ``[n, outputs]``.

    With ``unlabelled``, -1 stands for a class that is not known.

    Raises:
        ValueError: for other shapes, classes that the task does not have, or values that are not finite.
    """
    y = torch.as_tensor(given)
    if spec.kind != "classification":
        y = y.to(dtype)
        y = y.unsqueeze(-1) if y.dim() == 1 and spec.outputs == 1 else y
        if y.shape != (n, spec.outputs) or not bool(torch.isfinite(y).all()):
            raise ValueError(f"expected finite targets [{n}, {spec.outputs}], got an array {list(y.shape)}")
        return y
    if y.shape != (n,) or y.is_floating_point():
        raise ValueError(f"expected {n} whole numbers as classes, got {y.dtype} of shape {list(y.shape)}")
    if not bool(((y >= (-1 if unlabelled else 0)) & (y < spec.outputs)).all()):
        raise ValueError(
            f"expected classes from 0 to {spec.outputs - 1}, got {int(y.min())} to {int(y.max())}; ways= sets their "
            "number"
        )
    return y.to(torch.int64)


def _tensor(x: Any, name: str) -> Tensor:
    if isinstance(x, Tensor):
        return x.detach()
    array = np.asarray(x)
    if array.dtype.kind not in "buif":
        raise ValueError(f"expected numbers in {name}, got an array of dtype {array.dtype}")
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
