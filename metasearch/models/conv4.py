"""The few-shot convolutional network: blocks of 3x3 convolution, batch norm, ReLU and halving, then a linear head.

References: Vinyals et al. 2016 (arXiv 1606.04080), Sec. 4.1, with max-pooling; Finn, Abbeel, Levine 2017 (arXiv
1703.03400), Sec. 5.2 and its published code, for Omniglot with strided convolutions and a mean over the last map.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metasearch.core import config
from metasearch.core.errors import ConfigError
from metasearch.core.registry import register
from metasearch.core.values import TaskSpec, Tensors
from metasearch.models import functional, shared
from metasearch.models.initial import Initializer, parameter_shapes
from metasearch.models.norm import Affine, BatchNorm

__all__ = ["Conv4"]


@register("model", "conv4")
class Conv4:
    """Convolutional blocks over a leading task axis.

    Args:
        config: settings.
        spec: shapes of the tasks; the input must be ``(channels, height, width)``.

    Raises:
        ConfigError: if the input is not an image, or vanishes before the last block.

    Parameters are named ``blocks.0.conv.weight``, ``blocks.0.norm.bias`` ... ``head.weight``, ``head.bias``. ``maps``
    is the shape ``(channels, height, width)`` of outputs that are flattened maps (``head: none``), else None;
    ``transductive`` says whether, in evaluation, the output of an example depends on the others in its batch.
    """

    traceable = True
    """A fixed sequence of tensor operations: it may be recorded once and compiled."""
    shared_kernels = True
    """With weights that all tasks share it is as fast uncompiled (:mod:`metasearch.models.shared`)."""

    class Config(config.Config):
        """Args:
        filters: channels of every block.
        blocks: how many blocks.
        pool: ``none`` halves by strided convolution, ``max`` by 2x2 max-pooling after the ReLU (drops an odd last row).
        stride: of the convolutions; 2 without pooling and 1 with it where not given.
        pooled: how many blocks, from the first, halve the image, by stride or pooling; all where not given. Those after
            them have neither.
        padding: zeros around the image before a convolution, in pixels: one number, or one for each block.
        norm: ``batch`` (statistics of the batch at hand, always), ``running`` (those in training, moving averages in
            evaluation) or ``none``.
        momentum: weight of a batch in the moving averages.
        affine: which parameters the norm has; ``bias`` is what the published code of MAML has.
        conv_bias: whether convolutions have a bias; only without norm where not given (before a norm it has no effect).
        head: what follows the last map: ``mean`` averages it over its pixels for a linear head, ``flatten`` takes the
            pixels as features for it, ``none`` gives these features as outputs.
        head_std: standard deviation of a normal initial head; Xavier where not given.
        precision: ``bfloat16`` computes the blocks in it in training and in inner steps, up to twice as fast on recent
            processors, with parameters, statistics and outputs in the full type; where several tasks each have weights
            of their own, the convolutions only. Predictions have full precision always.
        """

        filters: int = Field(64, ge=1)
        blocks: int = Field(4, ge=1)
        pool: Literal["none", "max"] = "none"
        stride: Literal[1, 2] | None = None
        pooled: int | None = Field(None, ge=0)
        padding: Literal[0, 1] | tuple[Literal[0, 1], ...] = 1
        norm: Literal["batch", "running", "none"] = "batch"
        momentum: float = Field(0.1, gt=0, le=1)
        affine: Affine = "both"
        conv_bias: bool | None = None
        head: Literal["mean", "flatten", "none"] = "mean"
        head_std: float | None = Field(None, gt=0)
        precision: Literal["full", "bfloat16"] = "full"

    def __init__(self, config: Config, spec: TaskSpec) -> None:
        if len(spec.input_shape) != 3:
            raise ConfigError(
                "model",
                f"conv4 needs images (channels, height, width), these tasks have inputs {spec.input_shape}; use mlp",
            )
        self.config = config
        pooled = config.blocks if config.pooled is None else config.pooled
        stride = config.stride or (1 if config.pool == "max" else 2)
        self.strides = [stride if block < pooled else 1 for block in range(config.blocks)]
        self.pools = [config.pool == "max" and block < pooled for block in range(config.blocks)]
        self.paddings = (config.padding,) * config.blocks if isinstance(config.padding, int) else config.padding
        if len(self.paddings) != config.blocks:
            raise ConfigError("model.padding", f"needs one number, or {config.blocks} of them, got {config.padding}")
        self.conv_bias = config.norm == "none" if config.conv_bias is None else config.conv_bias
        self.channels = [spec.input_shape[0]] + [config.filters] * config.blocks
        height, width = spec.input_shape[1:]
        for block in range(config.blocks):
            height, width = (self._side(pixels, block) for pixels in (height, width))
            if min(height, width) < 1:
                raise ConfigError(
                    "model.blocks",
                    f"an image of {spec.input_shape[1:]} pixels vanishes in {config.blocks} blocks; use fewer",
                )
        self.features = config.filters * (1 if config.head == "mean" else height * width)
        self.outputs = self.features if config.head == "none" else spec.outputs
        self.maps = (config.filters, height, width) if config.head == "none" else None
        self.transductive = config.norm == "batch"

    def _side(self, pixels: int, block: int) -> int:
        """Pixels that a block leaves of a side."""
        pixels = (pixels + 2 * self.paddings[block] - 3) // self.strides[block] + 1
        return pixels // 2 if self.pools[block] else pixels

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        """Xavier-uniform kernels and head (or a normal head), norms at the identity, biases 0.

        There are buffers for ``norm: running`` only: ``blocks.0.norm.running_mean`` (0), ``.running_var`` (1) ...
        """
        draw = Initializer(seed)
        std = self.config.head_std
        parameters: Tensors = {}
        for name, shape in parameter_shapes(self.module).items():
            if len(shape) == 1:
                parameters[name] = torch.ones(shape) if name.endswith("norm.weight") else torch.zeros(shape)
            elif name == "head.weight" and std is not None:
                parameters[name] = draw.normal(*shape, std=std)
            else:
                parameters[name] = draw.xavier_uniform(*shape)
        buffers: Tensors = {}
        if self.config.norm == "running":
            for block in range(self.config.blocks):
                buffers[f"blocks.{block}.norm.running_mean"] = torch.zeros(self.config.filters)
                buffers[f"blocks.{block}.norm.running_var"] = torch.ones(self.config.filters)
        return parameters, buffers

    def __call__(
        self, parameters: Tensors, buffers: Tensors, x: Tensor, *, seeds: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensors]:
        """Logits ``[T, n, outputs]`` of ``x [T, n, C, H, W]``, and the next buffers.

        Nothing is drawn; ``seeds`` tell training from evaluation, which matters to ``norm: running``.
        """
        x, after = self.represent(parameters, buffers, x, seeds=seeds)
        return x if self.config.head == "none" else self.conclude(parameters, x), after

    def conclude(self, parameters: Tensors, features: Tensor) -> Tensor:
        """Outputs ``[T, n, outputs]`` of what :meth:`represent` gives."""
        return functional.linear(features, parameters["head.weight"], parameters["head.bias"])

    def represent(
        self, parameters: Tensors, buffers: Tensors, x: Tensor, *, seeds: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensors]:
        """What the linear head sees of ``x``, ``[T, n, features]``, and the next buffers; as for a call."""
        body = {name: value for name, value in parameters.items() if not name.startswith("head.")}
        if shared.applies(x, body, buffers):
            return self._represent_shared(parameters, buffers, x, seeds)
        after = dict(buffers)
        x = x.permute(0, 1, 3, 4, 2)  # channels last, as the layers want them
        for block in range(self.config.blocks):
            name = f"blocks.{block}"
            kernel, bias = parameters[f"{name}.conv.weight"], parameters.get(f"{name}.conv.bias")
            x = functional.conv2d(
                x, kernel, bias, stride=self.strides[block], padding=self.paddings[block], dtype=self._dtype(x, seeds)
            )
            if self.config.norm != "none":
                statistics = None
                if self.config.norm == "running":
                    names = f"{name}.norm.running_mean", f"{name}.norm.running_var"
                    kept = buffers[names[0]], buffers[names[1]]
                    if seeds is None:
                        statistics = kept
                    else:
                        found = functional.running_statistics(x, *kept, self.config.momentum)
                        after.update(zip(names, found, strict=True))
                affine = parameters.get(f"{name}.norm.weight"), parameters.get(f"{name}.norm.bias")
                x = functional.batch_norm(x, *affine, statistics=statistics)
            x = torch.where(x <= 0, 0.0, x)  # relu (nan stays); the mask is recomputed where needed, not stored
            if self.pools[block]:
                x = functional.max_pool2d(x)
        return x.mean((2, 3)) if self.config.head == "mean" else x.permute(0, 1, 4, 2, 3).flatten(2), after

    def _dtype(self, x: Tensor, seeds: NDArray[np.int64] | None) -> torch.dtype:
        """In which convolutions compute."""
        return torch.bfloat16 if self.config.precision == "bfloat16" and seeds is not None else x.dtype

    def _represent_shared(
        self, parameters: Tensors, buffers: Tensors, x: Tensor, seeds: NDArray[np.int64] | None
    ) -> tuple[Tensor, Tensors]:
        after = dict(buffers)
        tasks, dtype = x.shape[0], x.dtype
        x = shared.image(x, self._dtype(x, seeds))
        for block in range(self.config.blocks):
            name = f"blocks.{block}"
            kernel, bias = parameters[f"{name}.conv.weight"], parameters.get(f"{name}.conv.bias")
            x = shared.convolution(x, kernel, bias, self.strides[block], self.paddings[block])
            if self.config.norm != "none":
                names = f"{name}.norm.running_mean", f"{name}.norm.running_var"
                kept = (buffers[names[0]], buffers[names[1]]) if self.config.norm == "running" else None
                affine = parameters.get(f"{name}.norm.weight"), parameters.get(f"{name}.norm.bias")
                momentum = self.config.momentum
                x, found = shared.batch_norm(x, tasks, affine, kept, training=seeds is not None, momentum=momentum)
                after.update({} if found is None else zip(names, found, strict=True))
            x = torch.relu(x)
            if self.pools[block]:
                x = F.max_pool2d(x, 2)
        y = x.to(dtype).mean((2, 3)) if self.config.head == "mean" else x.to(dtype).flatten(1)
        return y.unflatten(0, (tasks, -1)), after

    def module(self) -> nn.Module:
        """An ordinary module of this architecture, for one task; its ``state_dict`` has the names of the parameters."""
        return _Conv4Module(self)


class _Block(nn.Module):
    def __init__(self, model: Conv4, block: int) -> None:
        super().__init__()
        inputs, filters = model.channels[block : block + 2]
        stride, padding = model.strides[block], model.paddings[block]
        self.conv = nn.Conv2d(inputs, filters, 3, stride=stride, padding=padding, bias=model.conv_bias)
        momentum = model.config.momentum if model.config.norm == "running" else None
        norm = BatchNorm(filters, model.config.affine, momentum=momentum)
        self.norm = nn.Identity() if model.config.norm == "none" else norm
        self.pool = nn.MaxPool2d(2) if model.pools[block] else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pool(torch.relu(self.norm(self.conv(x))))
        return pooled


class _Conv4Module(nn.Module):
    def __init__(self, model: Conv4) -> None:
        super().__init__()
        self.mean = model.config.head == "mean"
        self.blocks = nn.ModuleList(_Block(model, block) for block in range(model.config.blocks))
        self.head = nn.Identity() if model.config.head == "none" else nn.Linear(model.features, model.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``[n, outputs]`` of ``x [n, C, H, W]``."""
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean((-2, -1)) if self.mean else x.flatten(1))
        return logits
