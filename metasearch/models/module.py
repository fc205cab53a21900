"""Any ``nn.Module`` as a network of the inner loop, through ``torch.func.functional_call``."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call, vmap

from metasearch.core import config
from metasearch.core.errors import ConfigError, UnsupportedError
from metasearch.core.registry import import_path, register, resolve
from metasearch.core.values import TaskSpec, Tensors
from metasearch.models.norm import BatchNorm

__all__ = ["ModuleModel", "on_batch_statistics"]

logger = logging.getLogger(__name__)


@register("model", "module")
class ModuleModel:
    """A module as a pure function of its parameters and buffers, task by task.

    Batch norm layers are exchanged for ones of ours (a line in the log says so), since the built-in layer has wrong
    second-order gradients under ``vmap``; they use batch statistics, or keep running statistics as buffers. A parameter
    that several layers share is one entry. Layers that draw (dropout) are on where seeds are given and draw from them.

    Args:
        config: settings.
        spec: shapes of the tasks; the module maps ``[n, *input_shape]`` to ``[n, outputs]``.

    Raises:
        ConfigError: if the factory does not make a module.
        UnsupportedError: if ``batching: vmap`` is asked for a module with layers that draw.
    """

    class Config(config.Config):
        """Args:
        factory: what makes the module: ``module:Class`` or any callable; or a module, whose values are then initial.
        arguments: keyword arguments of the factory.
        batching: ``loop`` runs task after task; ``vmap`` all at once (faster for small modules, needs every operation
            of the module to support it, and no draws).
        norm: what batch norm layers use in evaluation: the statistics of the ``batch`` at hand, or ``running`` ones of
            training (for layers that track them; of no use in an inner loop, where each task is another).
        """

        factory: Any
        arguments: dict[str, Any] = Field(default_factory=dict)
        batching: Literal["loop", "vmap"] = "loop"
        norm: Literal["batch", "running"] = "batch"

    traceable = False
    """A foreign forward may branch on values, so it is not recorded and compiled."""

    def __init__(self, config: Config, spec: TaskSpec) -> None:
        self.config, self.outputs = config, spec.outputs
        self._make = self._factory()
        made, exchanged = on_batch_statistics(self._fresh(0), running=config.norm == "running")
        if exchanged:
            kind = f"{config.norm} statistics"
            logger.warning("exchanged %d batch norm layers of %s for ones on %s", exchanged, type(made).__name__, kind)
        self.transductive = any(isinstance(one, BatchNorm) and one.momentum is None for one in made.modules())
        self._caller = _Caller(made)
        if config.batching == "vmap" and (drawing := _first_drawing(made)):
            raise UnsupportedError(
                "model.batching", f"vmap cannot give each task its own draws, and {drawing} draws; use 'loop'"
            )

    def _factory(self) -> Callable[[], Any]:
        factory, arguments = self.config.factory, self.config.arguments
        if isinstance(factory, str):
            factory = resolve(factory, "model.factory")
        if isinstance(factory, nn.Module):
            if arguments:
                raise ConfigError(
                    "model.arguments", f"a finished module takes none, got {sorted(arguments)}; give its class instead"
                )
            return lambda: copy.deepcopy(factory)
        if not callable(factory):
            raise ConfigError("model.factory", f"expected 'module:Class', a callable or a module, got {factory!r}")
        return lambda: factory(**arguments)

    def _fresh(self, seed: int) -> nn.Module:
        """A new module, its initial values drawn from the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = self._make()
        if not isinstance(made, nn.Module):
            raise ConfigError(
                "model.factory",
                f"expected {import_path(self.config.factory)} to make a torch.nn.Module, got {type(made).__name__}",
            )
        return made

    def init(self, seed: int) -> tuple[Tensors, Tensors]:
        """What the module initializes itself to under this seed; a module given as such keeps its own values."""
        module = self._exchanged(seed)
        return (
            {name: value.detach().clone() for name, value in module.named_parameters()},
            {name: value.detach().clone() for name, value in module.named_buffers()},
        )

    def __call__(
        self, parameters: Tensors, buffers: Tensors, x: Tensor, *, seeds: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensors]:
        """Outputs ``[T, n, outputs]`` of ``x [T, n, ...]`` and the buffers after the call, ``[T, ...]``.

        Raises:
            ConfigError: if the module's outputs are not ``[n, outputs]``.
            UnsupportedError: if the module draws under ``batching: vmap``.
        """
        self._caller.train(seeds is not None)
        run = self._vmapped if self.config.batching == "vmap" else self._looped
        # A forward may change its buffers in place: each task has its own copy, also of those that all tasks share.
        own = {name: value.expand(len(x), *value.shape[1:]).clone() for name, value in buffers.items()}
        y, after = run(parameters, own, x, seeds)
        if y.shape[2:] != (self.outputs,):
            raise ConfigError(
                "model",
                f"these tasks need outputs [n, {self.outputs}] from the module, got {list(y.shape[1:])}; "
                "set its number of outputs",
            )
        return y, after

    def module(self) -> nn.Module:
        """The module, batch norm exchanged; ``load_state_dict(parameters, strict=False)`` fills it."""
        return self._exchanged(0)

    def _exchanged(self, seed: int) -> nn.Module:
        return on_batch_statistics(self._fresh(seed), running=self.config.norm == "running")[0]

    def _looped(
        self, parameters: Tensors, buffers: Tensors, x: Tensor, seeds: NDArray[np.int64] | None
    ) -> tuple[Tensor, Tensors]:
        unbound = {name: value.unbind(0) for name, value in {**parameters, **buffers}.items()}
        devices = [x.device] if x.is_cuda else []
        found = []
        for task in range(x.shape[0]):
            one = {name: values[task if len(values) > 1 else 0] for name, values in unbound.items()}
            if seeds is None:
                found.append(self._caller.call(one, x[task]))
            else:
                with torch.random.fork_rng(devices=devices):
                    torch.manual_seed(int(seeds[task]))
                    found.append(self._caller.call(one, x[task]))
        return torch.stack([y for y, _ in found]), {
            name: torch.stack([after[name] for _, after in found]) for name in buffers
        }

    def _vmapped(
        self, parameters: Tensors, buffers: Tensors, x: Tensor, seeds: NDArray[np.int64] | None
    ) -> tuple[Tensor, Tensors]:
        try:
            values = {
                name: value.expand(x.shape[0], *value.shape[1:]) for name, value in {**parameters, **buffers}.items()
            }
            return vmap(self._caller.call)(values, x)
        except RuntimeError as error:
            if "random" not in str(error):
                raise
            raise UnsupportedError(
                "model.batching",
                "vmap cannot give each task its own draws, and this module draws in its forward; use 'loop'",
            ) from error


class _Caller(nn.Module):
    """Calls a module and reads its buffers before ``functional_call`` takes them out again."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor, Tensors]:
        y = self.module(x)
        return y, dict(self.module.named_buffers())

    def call(self, values: Tensors, x: Tensor) -> tuple[Tensor, Tensors]:
        prefixed = {f"module.{name}": value for name, value in values.items()}
        found: tuple[Tensor, Tensors] = functional_call(self, prefixed, (x,))
        return found


def on_batch_statistics(module: nn.Module, *, running: bool = False) -> tuple[nn.Module, int]:
    """The module with every batch norm layer exchanged for one on batch statistics, and how many there were.

    Parameters keep their identity, hence their names, values and sharing. With ``running``, layers that track running
    statistics go on doing so, from the values they have, and use them in evaluation.
    """
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        mean, variance = module.running_mean, module.running_var
        tracks = running and mean is not None and variance is not None
        momentum = (0.1 if module.momentum is None else module.momentum) if tracks else None
        norm = BatchNorm(module.num_features, eps=module.eps, momentum=momentum)
        norm.weight, norm.bias = module.weight, module.bias
        if tracks and mean is not None and variance is not None:
            norm.running_mean, norm.running_var = mean, variance
        return norm, 1
    exchanged = 0
    for name, child in list(module.named_children()):
        new, count = on_batch_statistics(child, running=running)
        if new is not child:
            setattr(module, name, new)
        exchanged += count
    return module, exchanged


def _first_drawing(module: nn.Module) -> str:
    """The first layer that draws in training, or nothing."""
    for name, layer in module.named_modules():
        rate = (
            getattr(layer, "p", None)
            if isinstance(layer, nn.modules.dropout._DropoutNd)
            else getattr(layer, "dropout", None)
        )
        if (isinstance(rate, float) and rate > 0) or isinstance(layer, nn.RReLU):
            return f"{type(layer).__name__} {name!r}"
    return ""
