"""A policy as an ordinary transform: for single pictures in a data loader, or for batches in a training step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from metasearch.augment.policy import Policy

__all__ = ["Augmentation"]


class Augmentation(nn.Module):
    """Pictures after a policy.

    - In a data loader: call it on one picture, a PIL image or a tensor ``[C, H, W]``; it returns the same kind. There
      is no second picture then, so ``sample_pairing`` does nothing.
    - In a training step: call it on a batch ``[n, C, H, W]`` on any device; each picture has draws of its own.

    Tensors are uint8, or floats in [0, 1], so before they are normalized. In evaluation mode (``.eval()``) nothing is
    done. All draws come from one seed a call: the one given, else one from torch's global generator, which
    ``torch.manual_seed`` and a data loader's workers set.

    Args:
        policy: what is done.

    Example:
        >>> augment = Augmentation(Policy.of([[("invert", 1.0, 0.0)]]))
        >>> augment(torch.zeros(2, 3, 8, 8)).mean().item()
        1.0
        >>> augment.eval()(torch.zeros(2, 3, 8, 8)).mean().item()
        0.0
    """

    progress: float
    """How far the training is, in [0, 1]: set it on the way if the policy has phases."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.progress = 0.0

    def forward(self, x: Any, seed: int | None = None) -> Any:
        """The picture or pictures after the policy, in the form in which they came.

        Raises:
            ValueError: if it is neither a PIL image nor a tensor of a shape and type as above.
        """
        if not self.training:
            return x
        if isinstance(x, Image.Image):
            return self._picture(x, seed)
        if not isinstance(x, Tensor) or x.dim() not in (3, 4):
            raise ValueError(f"expected a PIL image or a tensor [C, H, W] or [n, C, H, W], got {_told(x)}")
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise ValueError(f"expected uint8 or floats in [0, 1], got {x.dtype}")
        batch = x if x.dim() == 4 else x[None]
        if x.dtype != torch.uint8:
            return self._batch(batch, seed).reshape(x.shape)
        after = self._batch(batch.to(torch.float32) / 255, seed)
        return (after * 255).round().clamp(0, 255).to(torch.uint8).reshape(x.shape)

    def to_json(self) -> str:
        """The policy as text; see :meth:`Policy.to_json`."""
        return self.policy.to_json()

    def extra_repr(self) -> str:
        phases, subs, places, operations = self.policy.weight.shape
        return f"{subs} sub-policies of {places} places, {operations} operations, {phases} phases"

    def _picture(self, picture: Image.Image, seed: int | None) -> Image.Image:
        plain = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
        pixels = torch.from_numpy(np.array(plain)).reshape(plain.height, plain.width, -1).permute(2, 0, 1)
        after: Tensor = self.forward(pixels, seed)
        done = after.permute(1, 2, 0).numpy()
        return Image.fromarray(done[..., 0] if plain.mode == "L" else np.ascontiguousarray(done))

    def _batch(self, x: Tensor, seed: int | None) -> Tensor:
        own = int(torch.randint(2**62, ()).item()) if seed is None else seed
        return self.policy(x, [own], self.progress)


def _told(value: Any) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
