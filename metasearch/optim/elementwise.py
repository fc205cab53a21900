"""Gradient descent with a rate for each single number, which param groups cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from metasearch.core.errors import ConfigError

__all__ = ["ElementwiseSGD"]


class ElementwiseSGD(Optimizer):
    """``theta <- theta - lr * rate * gradient``, number by number; rates may be negative.

    The rates are part of the optimizer's state, so they are saved with it and follow the parameters to their device.

    Args:
        params: parameters by name.
        rates: for each name the rates ``[steps, ...]`` of the first steps, each broadcastable to the parameter; later
            steps repeat the last one.
        lr: multiplies all rates; a scheduler may change it.

    Raises:
        ConfigError: if a parameter has no rates or they do not fit it.

    Example:
        >>> point = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = ElementwiseSGD({"point": point}, {"point": torch.tensor([[0.1, 0.5]])})
        >>> point.sum().backward()
        >>> optimizer.step()
        >>> point.tolist()
        [0.89999..., 0.5]
    """

    def __init__(self, params: Mapping[str, Tensor], rates: Mapping[str, Tensor], lr: float = 1.0) -> None:
        fitting = {name: _fitting(name, value, rates) for name, value in params.items()}
        super().__init__(list(params.items()), {"lr": lr})
        for name, value in params.items():
            self.state[value] = {"step": 0, "rates": fitting[name]}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient.

        Args:
            closure: computes the loss (and its gradients) again and returns it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for one in group["params"]:
                if one.grad is None:
                    continue
                state = self.state[one]
                rates = state["rates"]
                one.addcmul_(rates[min(state["step"], len(rates) - 1)], one.grad, value=-group["lr"])
                state["step"] += 1
        return loss


def _fitting(name: str, value: Tensor, rates: Mapping[str, Tensor]) -> Tensor:
    if name not in rates:
        raise ConfigError("rates", f"there is none for {name!r}; they are for: {', '.join(rates) or 'nothing'}")
    rate, shape = rates[name].detach(), tuple(value.shape)
    try:
        fits = rate.dim() > 0 and len(rate) > 0 and torch.broadcast_shapes(rate.shape[1:], shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ConfigError(
            "rates", f"those of {name!r} have shape {list(rate.shape)}; expected [steps, ...] that fits {list(shape)}"
        )
    return rate.to(value.device, value.dtype, copy=True)
