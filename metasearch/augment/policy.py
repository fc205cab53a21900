"""A policy of augmentation as a value: what is done to an image, in what order, how often and how much.

One form holds them all. A policy has sub-policies, of which each image gets one at random; a sub-policy has places, one
after the other; a place has operations, of which each image gets one with a probability in proportion to its weight;
it is then carried out with its own probability, at a level drawn evenly between two. All of this once for each of
several equal phases of the training.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from metasearch.augment.apply import Place, Plan, apply
from metasearch.augment.operations import NAMES
from metasearch.core.errors import ConfigError, nearest
from metasearch.core.seeds import Draws

__all__ = ["FORMAT", "Policy", "default_fill", "numbers_of"]

FORMAT = "metasearch-augmentation/1"
_DRAWS = 6
"""Numbers that each place takes for an image: which operation, whether, its level, its sign, where (two)."""


@dataclass(frozen=True)
class Policy:
    """See above; arrays are ``[phases, sub-policies, places, operations]``.

    Args:
        operations: names, in the order of the last axis.
        weight: how often an operation is picked in its place, in proportion to the others there; a place without any
            weight does nothing.
        probability: how often it is carried out once it is picked.
        low, high: between which its level is drawn, in [0, 1].
        fill: value of what moves into a picture and of what is cut out, in [0, 1]; None is grey (0.5) for pictures of
            several channels and 0 for those of one.

    Raises:
        ConfigError: if an operation is unknown or a number is out of its range.
    """

    operations: tuple[str, ...]
    weight: NDArray[np.float64]
    probability: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    fill: float | None = None

    def __post_init__(self) -> None:
        numbers_of(self.operations)
        shape = self.weight.shape
        if self.weight.ndim != 4 or not all(shape[:3]) or shape[3] != len(self.operations):
            raise ConfigError(
                "policy",
                f"expected [phases, sub-policies, places, {len(self.operations)} operations], got {list(shape)}",
            )
        for name in ("weight", "probability", "low", "high"):
            value = getattr(self, name)
            top = np.inf if name == "weight" else 1.0
            if value.shape != shape or not (np.isfinite(value) & (value >= 0.0) & (value <= top)).all():
                raise ConfigError(f"policy.{name}", f"expected numbers from 0 to {top:g} of shape {list(shape)}")
        if (self.low > self.high).any():
            raise ConfigError("policy.low", "expected levels not above those of `high`")
        if self.fill is not None and not 0.0 <= self.fill <= 1.0:
            raise ConfigError("policy.fill", f"expected a value in [0, 1], got {self.fill}")

    @classmethod
    def of(cls, sub_policies: Sequence[Sequence[tuple[str, float, float]]], fill: float | None = None) -> Policy:
        """A policy written by hand: sub-policies of (operation, probability, level), as AutoAugment's are printed.

        Raises:
            ConfigError: as for the class; and if sub-policies differ in length.

        Example:
            >>> policy = Policy.of([[("rotate", 0.7, 0.3), ("cutout", 1, 0.5)], [("invert", 0.1, 0), ("color", 1, 1)]])
            >>> policy.operations
            ('rotate', 'invert', 'color', 'cutout')
        """
        lengths = sorted({len(one) for one in sub_policies})
        if len(lengths) != 1 or not lengths[0]:
            raise ConfigError("policy", f"expected sub-policies of one length, at least 1, got lengths {lengths}")
        named = {name for one in sub_policies for name, _, _ in one}
        operations = _sorted(named)
        shape = (1, len(sub_policies), lengths[0], len(operations))
        weight, probability, level = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for i, one in enumerate(sub_policies):
            for k, (name, often, much) in enumerate(one):
                at = (0, i, k, operations.index(name))
                weight[at], probability[at], level[at] = 1.0, often, much
        return cls(operations, weight, probability, level, level, fill)

    @property
    def phases(self) -> int:
        """Equal parts of the training that have something of their own."""
        return int(self.weight.shape[0])

    def plan(self, seeds: ArrayLike, n: int, progress: float = 0.0, like: Tensor | None = None) -> Plan:
        """What is done to ``n`` images for each of ``[T]`` seeds, drawn for ``T n`` images in order.

        An image's draws depend on its seed and its number only.

        Args:
            seeds: one a task (or batch).
            n: images of each.
            progress: how far the training is, in [0, 1].
            like: has the device and dtype of the plan's tensors.
        """
        phase = min(int(progress * self.phases + 1e-9), self.phases - 1)  # 15/22 * 22 is a little less than 15
        weight, probability = self.weight[phase], self.probability[phase]
        low, high = self.low[phase], self.high[phase]
        subs, places, _ = weight.shape
        unit = Draws(seeds, "augmentation").uniform(n * (1 + _DRAWS * places)).reshape(-1, 1 + _DRAWS * places)
        chosen = np.minimum((unit[:, 0] * subs).astype(np.int64), subs - 1)
        numbers = numbers_of(self.operations)
        device, dtype = (None, torch.float32) if like is None else (like.device, like.dtype)
        plan: list[Place] = []
        for k in range(places):
            which, whether, level, sign, *where = unit[:, 1 + _DRAWS * k : 1 + _DRAWS * (k + 1)].T
            shares = np.cumsum(weight[:, k], -1)
            total = shares[chosen, -1]
            picked = (shares[chosen] <= (which * total)[:, None]).sum(-1).clip(max=len(self.operations) - 1)
            at = (chosen, k, picked)
            done = (total > 0.0) & (whether < probability[at])
            drawn = low[at] + (high[at] - low[at]) * level
            tensors = torch.from_numpy(np.stack([drawn, np.where(sign < 0.5, -1.0, 1.0)])).to(device, dtype)
            plan.append(Place(np.where(done, numbers[picked], -1), tensors[0], tensors[1], np.stack(where, -1)))
        return tuple(plan)

    def __call__(self, x: Tensor, seeds: ArrayLike, progress: float = 0.0) -> Tensor:
        """Images after the policy.

        Args:
            x: floats in [0, 1], ``[n, C, H, W]`` for one seed or ``[T, n, C, H, W]`` for ``T`` of them.
            seeds: what is drawn from; each task draws from its own.
            progress: how far the training is, in [0, 1].
        """
        drawn = np.asarray(seeds).reshape(-1)
        n = x.shape[-4]
        flat = x.reshape(-1, *x.shape[-3:])
        plan = self.plan(drawn, n, progress, like=x)
        return apply(plan, flat, n, default_fill(self.fill, x.shape[-3])).reshape(x.shape)

    def to_json(self) -> str:
        """The policy as text; :meth:`from_json` reads it. An operation without weight is left out."""
        tree = {
            "format": FORMAT,
            "fill": self.fill,
            "phases": [
                [[self._place(phase, i, k) for k in range(self.weight.shape[2])] for i in range(self.weight.shape[1])]
                for phase in range(self.phases)
            ],
        }
        return json.dumps(tree, indent=1)

    @classmethod
    def from_json(cls, source: str | Path | Mapping[str, Any]) -> Policy:
        """A policy from :meth:`to_json`'s text, a file with it, or the tree that it stands for.

        Raises:
            ConfigError: if it is something else, or one of its numbers is out of range.
        """
        if isinstance(source, Path):
            if not source.is_file():
                raise ConfigError("policy", f"no file {str(source)!r}; give a policy as metasearch exports it")
            source = source.read_text("utf-8")
        try:
            tree = json.loads(source) if isinstance(source, str) else source
            given = tree.get("format")
            if given != FORMAT:
                raise ConfigError("policy.format", f"expected {FORMAT!r}, got {given!r}")
            phases = tree["phases"]
            named = {name for phase in phases for one in phase for place in one for name in place}
            operations = _sorted(named) or NAMES[:1]
            shape = (len(phases), len(phases[0]), len(phases[0][0]), len(operations))
            arrays = np.zeros((4, *shape))
            for p, phase in enumerate(phases):
                for i, one in enumerate(phase):
                    for k, place in enumerate(one):
                        for name, entry in place.items():
                            values = [entry["weight"], entry["probability"], *entry["level"]]
                            arrays[:, p, i, k, operations.index(name)] = values
            weight, probability, low, high = arrays
            return cls(operations, weight, probability, low, high, tree.get("fill"))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError("policy", f"is no policy as metasearch exports it: {error!r}") from error

    def concatenate(self, others: Sequence[Policy]) -> Policy:
        """A policy with the sub-policies of several, as AutoAugment joins its five best.

        Raises:
            ConfigError: if their phases, places or fills differ.
        """
        policies = [self, *others]
        kinds = {(one.phases, one.weight.shape[2], one.fill) for one in policies}
        if len(kinds) > 1:
            raise ConfigError(
                "policy", f"expected equal numbers of phases and places and one fill, got {sorted(kinds, key=str)}"
            )
        return _joined(policies, 1)

    @classmethod
    def in_turn(cls, policies: Sequence[Policy]) -> Policy:
        """A policy that is each of several for an equal part of the training: at any point of it what the one is that
        is then in force, phases of its own included.

        Raises:
            ConfigError: if their sub-policies, places or fills differ in number.
        """
        kinds = {(*one.weight.shape[1:3], one.fill) for one in policies}
        if len(kinds) != 1:
            raise ConfigError(
                "policy",
                f"expected equal numbers of sub-policies and places and one fill, got {sorted(kinds, key=str)}",
            )
        count = math.lcm(len(policies), *(one.phases for one in policies))
        parts = []
        for phase in range(count):
            one = policies[phase * len(policies) // count]
            own = phase * one.phases // count
            fields = {name: getattr(one, name)[own : own + 1] for name in ("weight", "probability", "low", "high")}
            parts.append(dataclasses.replace(one, **fields))
        return _joined(parts, 0)

    def with_fill(self, fill: float | None) -> Policy:
        """The same policy with another fill."""
        return dataclasses.replace(self, fill=fill)

    def _place(self, *at: int) -> dict[str, Any]:
        return {
            name: {
                "weight": float(self.weight[at][o]),
                "probability": float(self.probability[at][o]),
                "level": [float(self.low[at][o]), float(self.high[at][o])],
            }
            for o, name in enumerate(self.operations)
            if self.weight[at][o] > 0.0
        }


def _joined(policies: Sequence[Policy], axis: int) -> Policy:
    """Policies behind each other along an axis of their arrays, over all operations that any of them has."""
    operations = _sorted({name for one in policies for name in one.operations})

    def joined(field: str) -> NDArray[np.float64]:
        spread = []
        for one in policies:
            value = np.zeros((*one.weight.shape[:3], len(operations)))
            value[..., [operations.index(name) for name in one.operations]] = getattr(one, field)
            spread.append(value)
        return np.concatenate(spread, axis)

    fields = {name: joined(name) for name in ("weight", "probability", "low", "high")}
    return Policy(operations, **fields, fill=policies[0].fill)


def numbers_of(operations: Sequence[str]) -> NDArray[np.int64]:
    """Indexes of named operations.

    Raises:
        ConfigError: for an unknown name, with the nearest one; for one that is named twice.
    """
    for name in operations:
        if name not in NAMES:
            raise ConfigError("operations", f"unknown operation {name!r}; {nearest(str(name), NAMES)}")
    if not operations or len(set(operations)) != len(operations):
        raise ConfigError("operations", f"expected at least one name, each once, got {list(operations)}")
    return np.array([NAMES.index(name) for name in operations], dtype=np.int64)


def _sorted(names: set[str]) -> tuple[str, ...]:
    """Names in the order of the operations."""
    return tuple(NAMES[number] for number in sorted(numbers_of(sorted(names)))) if names else ()


def default_fill(fill: float | None, channels: int) -> float:
    """The fill of a policy for pictures of so many channels."""
    return (0.5 if channels > 1 else 0.0) if fill is None else fill
