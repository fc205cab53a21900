"""How gradients become steps: the update-rule slot."""

from __future__ import annotations

from typing import Any

from metasearch.components.base import Component
from metasearch.core.config import Config as BaseConfig
from metasearch.core.values import Tensors

__all__ = ["Sgd"]


class Sgd(Component):
    """Gradient descent, theta' = theta - rate * gradient (MAML, Eq. 1 of arXiv:1703.03400; any rates)."""

    class Config(BaseConfig):
        """No settings: the rates are a slot of their own."""

    def update(
        self, values: Tensors, theta: Tensors, gradients: Tensors, rates: Tensors, state: Any, step: int
    ) -> tuple[Tensors, Any]:
        moved = {name: theta[name] - rates[name] * gradient for name, gradient in gradients.items()}
        return {**theta, **moved}, state
