"""A network that has learned one task, and what it learned from."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from metasearch.core.contracts import Learner, Predictor
from metasearch.core.errors import ArtifactError
from metasearch.core.values import TaskSpec, Tensors
from metasearch.takeaway.initialize import fill
from metasearch.takeaway.inputs import as_examples

__all__ = ["AdaptedNetwork", "Learned", "module_of"]


class AdaptedNetwork:
    """What F_phi made of one support set; call it on ``x [n, *input_shape]`` for outputs ``[n, outputs]``.

    A network with batch norm is transductive: it normalizes by the examples of one call, so what it says of one
    depends on the others (as it did in training and in every reported figure).

    Args:
        predictor: what the learner's ``adapt`` returned, for one task.
        learner: the learner.
        spec: shapes of the task.
        dtype, device: of its inputs.
    """

    def __init__(
        self, predictor: Predictor, learner: Learner, spec: TaskSpec, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._predictor, self._learner = predictor, learner
        self.spec, self.dtype, self.device = spec, dtype, device

    @torch.no_grad()
    def __call__(self, x: Any) -> Tensor:
        """Outputs ``[n, outputs]``: logits for classification, values for regression.

        Raises:
            ValueError: if ``x`` has another shape or values that are not finite.
        """
        inputs = as_examples(x, self.spec.input_shape, dtype=self.dtype, device=self.device, name="x")
        return self._predictor(inputs.unsqueeze(0)).squeeze(0)

    @property
    def parameters(self) -> Tensors:
        """The adapted parameters by name; empty for a learner that trains no network on the support set."""
        theta: Tensors = getattr(self._predictor, "theta", {})
        return {name: value[0].detach().clone() for name, value in theta.items()}

    def module(self) -> nn.Module:
        """An ordinary module with the adapted parameters, to be used and trained like any other.

        Raises:
            ArtifactError: if the learner has no network that it can hand out.
        """
        make = getattr(self._predictor, "module", None)
        if make is not None:
            made: nn.Module = make()
            return made
        module = module_of(self._learner).to(self.device, self.dtype)
        buffers: Tensors = getattr(self._predictor, "buffers", {})
        fill(module, self.parameters, {name: value[0].detach() for name, value in buffers.items()})
        return module


class Learned(Protocol):
    """A phi that can learn a task: what estimators are built on (:class:`metasearch.loaded.LoadedPhi` is one)."""

    @property
    def spec(self) -> TaskSpec:
        """Shapes of the tasks it was learned on."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Precision in which it computes."""
        ...

    @property
    def takes_unlabelled(self) -> bool:
        """Whether -1 is no class but an example without a label."""
        ...

    def adapt(
        self,
        support_x: Any,
        support_y: Any,
        steps: int | None = None,
        *,
        ways: int | None = None,
        device: str | torch.device = "cpu",
    ) -> AdaptedNetwork:
        """Learns one task."""
        ...


def module_of(learner: Any) -> nn.Module:
    """A fresh ordinary module of a learner's network; draws nothing from torch's global generator.

    Raises:
        ArtifactError: if the learner has none.
    """
    make = getattr(getattr(learner, "model", None), "module", None)
    if make is None:
        raise ArtifactError(f"{type(learner).__name__} has no network that could be handed out as a module; use .adapt")
    with torch.random.fork_rng(devices=[]):
        module: nn.Module = make()
    return module
