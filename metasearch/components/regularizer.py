"""What is added to the support loss for the parameters as such: the regularizer slot."""

from __future__ import annotations

from pydantic import NonNegativeFloat
from torch import Tensor

from metasearch.components.base import Component
from metasearch.core.config import Config as BaseConfig
from metasearch.core.values import Tensors

__all__ = ["Proximal"]


class Proximal(Component):
    """(strength / 2) |theta - theta_0|^2 over the adapted parameters: the inner loop stays near where it started.

    iMAML; Rajeswaran, Finn, Kakade, Levine 2019, arXiv:1909.04630 (their lambda is ``strength``). It makes the
    end of a long inner loop a function of phi, which the estimator ``implicit`` differentiates.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            strength: in training, in units of loss per squared parameter.
            test: in validation, test and adaptation; as in training where not given.
        """

        strength: NonNegativeFloat
        test: NonNegativeFloat | None = None

    def penalty(self, values: Tensors, theta: Tensors, start: Tensors, *, train: bool) -> Tensor | None:
        strength = self.config.strength if train or self.config.test is None else self.config.test
        if not strength:
            return None
        apart = [(theta[name] - start[name]).square().flatten(1).sum(1) for name in self.context.adapted]
        return 0.5 * strength * sum(apart[1:], apart[0])
