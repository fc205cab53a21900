"""Hypergradient descent: gradient steps on the learning rate itself, once each step of ordinary training.

    alpha_t = alpha_{t-1} + beta * <g_t, u_{t-1}>
    theta_{t+1} = theta_t - alpha_t * u_t

``g_t`` is the gradient at ``theta_t`` and ``u`` the direction of an optimizer's step, so that ``-<g_t, u_{t-1}>`` is
the derivative of the present loss by the rate of the step before. Baydin, Cornish, Martinez Rubio, Schmidt, Wood 2018,
arXiv:1703.04782.

The gradient includes weight decay and nothing is clipped, as in the published code: a rate may become negative. Each
param group has a rate of its own, ``group["lr"]``, moved by what its own parameters say; with one group there is one
rate. (The published Adam-HD moves the rate after each tensor in turn; here it moves once a step, as in the paper.)
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from metasearch.core.errors import ConfigError

__all__ = ["SGDHD", "AdamHD", "NesterovHD"]


class _Hypergradient(Optimizer):
    """What the three have in common; a subclass says in which direction a parameter moves."""

    def __init__(self, params: ParamsT, **defaults: Any) -> None:
        for name in ("lr", "hyper_lr", "weight_decay"):
            if not 0.0 <= defaults[name] < math.inf:
                raise ConfigError(name, f"expected a number of at least 0, got {defaults[name]!r}")
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Moves the rate, then the parameters.

        Args:
            closure: computes the loss (and its gradients) again and returns it.

        Raises:
            ConfigError: if a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            gradients = {one: _gradient(one, group["weight_decay"]) for one in group["params"] if one.grad is not None}
            slopes = [
                torch.linalg.vecdot(gradient.flatten(), self.state[one]["direction"].flatten())
                for one, gradient in gradients.items()
                if "direction" in self.state[one]
            ]
            if slopes:
                group["lr"] += group["hyper_lr"] * float(torch.stack(slopes).sum())
            for one, gradient in gradients.items():
                direction = self._direction(group, self.state[one], gradient)
                one.add_(direction, alpha=-group["lr"])
                self.state[one]["direction"] = direction
        return loss

    @abstractmethod
    def _direction(self, group: dict[str, Any], state: dict[str, Any], gradient: Tensor) -> Tensor:
        """The direction u of a parameter's step, in memory of its own."""


class SGDHD(_Hypergradient):
    """Gradient descent with hypergradient descent of its rate: ``u_t = g_t``.

    Args:
        params: parameters or param groups.
        lr: the rate to begin with.
        hyper_lr: the rate of the rate, beta of the paper; 0 is ``torch.optim.SGD``.
        weight_decay: added to the gradient, times the parameter.

    Raises:
        ConfigError: if a setting is negative.

    Example:
        >>> point = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = SGDHD([point], lr=0.01, hyper_lr=0.001)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     point.square().sum().backward()
        ...     optimizer.step()
        >>> round(optimizer.param_groups[0]["lr"], 4)  # 0.01 + 0.001 * <(1.96, 3.92), (2, 4)>
        0.0296
    """

    def __init__(self, params: ParamsT, lr: float = 1e-3, *, hyper_lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, hyper_lr=hyper_lr, weight_decay=weight_decay)

    def _direction(self, group: dict[str, Any], state: dict[str, Any], gradient: Tensor) -> Tensor:
        return gradient.clone()


class NesterovHD(_Hypergradient):
    """Nesterov momentum with hypergradient descent of its rate.

        v_t = momentum * v_{t-1} + g_t
        u_t = g_t + momentum * v_t

    Args:
        params: parameters or param groups.
        lr: the rate to begin with.
        momentum: decay of the velocity v, in [0, 1).
        hyper_lr: the rate of the rate; 0 is ``torch.optim.SGD(nesterov=True)``.
        weight_decay: added to the gradient, times the parameter.

    Raises:
        ConfigError: if a setting is out of its range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        *,
        momentum: float = 0.9,
        hyper_lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        if not 0.0 <= momentum < 1.0:
            raise ConfigError("momentum", f"expected a number in [0, 1), got {momentum!r}")
        super().__init__(params, lr=lr, hyper_lr=hyper_lr, weight_decay=weight_decay, momentum=momentum)

    def _direction(self, group: dict[str, Any], state: dict[str, Any], gradient: Tensor) -> Tensor:
        before = state.get("velocity")
        velocity = gradient.clone() if before is None else before.mul_(group["momentum"]).add_(gradient)
        state["velocity"] = velocity
        return gradient.add(velocity, alpha=group["momentum"])


class AdamHD(_Hypergradient):
    """Adam with hypergradient descent of its rate, by torch's formula of Adam's step.

        m_t = b1 m_{t-1} + (1 - b1) g_t,  v_t = b2 v_{t-1} + (1 - b2) g_t^2
        u_t = (m_t / (1 - b1^t)) / (sqrt(v_t / (1 - b2^t)) + eps)

    Args:
        params: parameters or param groups.
        lr: the rate to begin with.
        betas: decays b1 and b2 of the two moments, each in [0, 1).
        eps: added to the denominator.
        hyper_lr: the rate of the rate; 0 is ``torch.optim.Adam``.
        weight_decay: added to the gradient, times the parameter.

    Raises:
        ConfigError: if a setting is out of its range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        hyper_lr: float = 1e-7,
        weight_decay: float = 0.0,
    ) -> None:
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ConfigError("betas", f"expected two numbers in [0, 1), got {betas!r}")
        super().__init__(params, lr=lr, hyper_lr=hyper_lr, weight_decay=weight_decay, betas=betas, eps=eps)

    def _direction(self, group: dict[str, Any], state: dict[str, Any], gradient: Tensor) -> Tensor:
        if "step" not in state:
            state |= {"step": 0, "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
        first, second = group["betas"]
        state["step"] += 1
        state["mean"].lerp_(gradient, 1.0 - first)
        state["square"].mul_(second).addcmul_(gradient, gradient, value=1.0 - second)
        scale = (state["square"].sqrt() / math.sqrt(1.0 - second ** state["step"])).add_(group["eps"])
        return (state["mean"] / (1.0 - first ** state["step"])).div_(scale)


def _gradient(parameter: Tensor, weight_decay: float) -> Tensor:
    gradient = parameter.grad
    assert gradient is not None
    if gradient.is_sparse:
        raise ConfigError("params", "expected dense gradients, got a sparse one; give it to torch.optim.SparseAdam")
    return gradient.add(parameter, alpha=weight_decay) if weight_decay else gradient
