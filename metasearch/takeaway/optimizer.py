"""A learned update rule as a plain ``torch.optim.Optimizer``.

The rule's own functions are called, on coordinates instead of tensors: small tensors are laid side by side, large ones
are taken in pieces that fit the cache. So a model of ten million parameters needs a few hundred times a few operations,
and no memory besides its parameters, gradients and the rule's state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from metasearch import artifacts
from metasearch.artifacts import Manifest, refuse_user_code
from metasearch.components import Context
from metasearch.components.rules import Block, Features, FlatRule, State, multiplied
from metasearch.core.errors import ArtifactError, ConfigError
from metasearch.core.registry import build
from metasearch.core.values import Phi, Tensors
from metasearch.takeaway.places import find
from metasearch.takeaway.rebuild import plain_config

__all__ = ["LearnedOptimizer", "LearnedRule", "rule_of"]

PIECE = 1 << 16
"""The most coordinates that are worked on at once."""

REMEMBERED = 1 << 21
"""The most numbers that these remember together: what is read again soon should be in the cache."""


@dataclass(frozen=True)
class LearnedRule:
    """An update rule, and its part of phi."""

    rule: FlatRule
    values: Tensors


@dataclass(frozen=True)
class _Member:
    """A parameter with a gradient."""

    name: str
    parameter: Tensor
    state: dict[str, Tensor]


@dataclass(frozen=True)
class _Piece:
    """Coordinates ``start`` to ``stop`` of member ``index``."""

    index: int
    start: int
    stop: int


class LearnedOptimizer(torch.optim.Optimizer):
    """Moves parameters by a learned rule: ``theta' = (1 - lr weight_decay) theta + lr * rule(...)``.

    With ``lr = 1`` and no weight decay the numbers are those of the inner loop that the rule was learned in.

    Args:
        learned: the name of one that comes with the package (:func:`metasearch.optimizers`), whatever else
            :func:`metasearch.load` takes, or the rule itself.
        params: parameters, parameter groups, or named parameters; the latter where the rule has learned a number for
            each tensor.
        lr: factor on the rule's steps. The rule knows its own step size, so 1 is as learned; schedulers act on it.
        weight_decay: share of a parameter that is taken off, per step and unit of ``lr``.

    ``lr`` and ``weight_decay`` may differ by group. Parameters without a gradient are skipped and do not age. Half
    precision parameters have their state, and are computed, in float32.

    Raises:
        ValueError: if a factor is negative.
        TypeError: for complex or integer parameters.
        ArtifactError: if nothing is found under ``learned``, with the names there are; if the rule knows tensors by
            name and does not know these.

    Example:
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = LearnedOptimizer("small-mlp-v1", model.parameters())
        >>> model(torch.ones(2, 4)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        learned: str | Path | LearnedRule,
        params: Iterable[Any],
        *,
        lr: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        if not isinstance(learned, LearnedRule):
            with find(learned) as folder:
                stored = artifacts.load(folder)
            learned = rule_of(stored.manifest, stored.phi)
        self.rule = learned.rule
        self.values = {name: value.detach().clone() for name, value in learned.values.items()}
        self._cast: dict[tuple[torch.device, torch.dtype], Tensors] = {}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._check(group)
        except (ArtifactError, TypeError, ValueError):
            self.param_groups.pop()
            raise

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of all parameters that have a gradient.

        Args:
            closure: computes the loss again and returns it.

        Raises:
            RuntimeError: for sparse gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for (device, dtype, age), members in self._ready(group).items():
                self._advance(group, members, self._values(device, dtype), dtype, age)
                for member in members:
                    member.state["step"] += 1
        return loss

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continues from a state, bit for bit."""
        given: list[Mapping[str, Any]] = []
        hooks = [
            self.register_load_state_dict_pre_hook(lambda _, one: given.append(one)),  # after all others
            self.register_load_state_dict_post_hook(lambda _: self._restore(given[0]), prepend=True),
        ]
        try:
            super().load_state_dict(dict(state_dict))
        finally:
            for hook in hooks:
                hook.remove()

    def _restore(self, state_dict: Mapping[str, Any]) -> None:
        """Undoes what torch does to a loaded state: it rounds that of half precision parameters to their precision."""
        ours = [parameter for group in self.param_groups for parameter in group["params"]]
        theirs = [number for group in state_dict["param_groups"] for number in group["params"]]
        for parameter, number in zip(ours, theirs, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                self.state[parameter][name] = (
                    torch.tensor(float(value))
                    if name == "step"
                    else value.detach().to(parameter.device, _wide(parameter), copy=True)
                )
        for group in self.param_groups:
            for name in ("lr", "weight_decay"):
                group.setdefault(name, self.defaults[name])

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule, "values": self.values, "_cast": {}}

    def _check(self, group: Mapping[str, Any]) -> None:
        for key in ("lr", "weight_decay"):
            if not float(group[key]) >= 0.0:
                raise ValueError(f"expected {key} of at least 0, got {group[key]}")
        for parameter in group["params"]:
            if not parameter.is_floating_point():
                raise TypeError(f"learned rules move real floating-point parameters, got {parameter.dtype}")
        known = self.rule.tensors
        unknown = None if known is None else sorted(set(group.get("param_names", ["?"])) - set(known))
        if unknown and known is not None:
            given = f"no names ({', '.join(known)} are known)" if "param_names" not in group else ", ".join(unknown)
            raise ArtifactError(
                f"this rule has learned numbers for single tensors by name, and was given {given}; give "
                "model.named_parameters() of a model with the names it was learned on"
            )

    def _ready(self, group: Mapping[str, Any]) -> dict[tuple[torch.device, torch.dtype, int], list[_Member]]:
        """Parameters that can be worked on together."""
        names = group.get("param_names") or [str(index) for index in range(len(group["params"]))]
        found: dict[tuple[torch.device, torch.dtype, int], list[_Member]] = {}
        for name, parameter in zip(names, group["params"], strict=True):
            if parameter.grad is None or not parameter.numel():
                continue
            if parameter.grad.layout != torch.strided:
                raise RuntimeError(
                    f"LearnedOptimizer does not support sparse gradients, got one for {name} of shape "
                    f"{tuple(parameter.shape)}; make it dense (sparse=False in nn.Embedding)"
                )
            state, dtype = self.state[parameter], _wide(parameter)
            if not state:
                like = parameter.detach().reshape(1, -1).to(dtype)
                fresh = self.rule.start(self._values(parameter.device, dtype), like)
                state["step"] = torch.tensor(0.0)
                state.update({key: value[0] for key, value in fresh.items()})
            key = (parameter.device, dtype, int(state["step"]))
            found.setdefault(key, []).append(_Member(name, parameter, state))
        return found

    def _advance(
        self, group: Mapping[str, Any], members: Sequence[_Member], values: Tensors, dtype: torch.dtype, age: int
    ) -> None:
        rule, lr = self.rule, float(group["lr"])
        thetas = [member.parameter.detach().reshape(-1) for member in members]  # a view where it is contiguous
        gradients = [
            member.parameter.grad.detach().reshape(-1) for member in members if member.parameter.grad is not None
        ]
        states = [{key: value for key, value in one.state.items() if key != "step"} for one in members]
        blocks = list(_blocks([theta.numel() for theta in thetas], piece_of(states[0], thetas[0])))
        scales = None
        if rule.normalizes:
            scales = rule.scale(self._mean_squares(members, blocks, thetas, gradients, states, values, dtype, age))
        for pieces in blocks:
            layout = _layout(pieces, members)
            theta, gradient = _load(thetas, pieces, dtype), _load(gradients, pieces, dtype)
            before = _load_state(states, pieces)
            state = before if rule.normalizes else rule.remember(values, gradient, before, age, layout)
            features: Features = rule.features(values, theta, gradient, state)
            if scales is not None:
                features = multiplied(features, layout.spread(_of(scales, pieces)))
            moved, state = rule.decide(values, features, state, age, layout)
            _store_state(states, pieces, before, state)
            _move(thetas, pieces, theta, moved, lr, float(group["weight_decay"]))
        for member, theta in zip(members, thetas, strict=True):
            if theta.data_ptr() != member.parameter.data_ptr():
                member.parameter.copy_(theta.view_as(member.parameter))

    def _mean_squares(
        self,
        members: Sequence[_Member],
        blocks: Sequence[Sequence[_Piece]],
        thetas: Sequence[Tensor],
        gradients: Sequence[Tensor],
        states: Sequence[State],
        values: Tensors,
        dtype: torch.dtype,
        age: int,
    ) -> Tensor:
        """Lets all coordinates remember their gradient, and takes each feature's mean square over each tensor."""
        total: Tensor | None = None
        for pieces in blocks:
            layout = _layout(pieces, members)
            theta, gradient = _load(thetas, pieces, dtype), _load(gradients, pieces, dtype)
            before = _load_state(states, pieces)
            state = self.rule.remember(values, gradient, before, age, layout)
            _store_state(states, pieces, before, state)
            sums = _squares(layout, self.rule.features(values, theta, gradient, state))
            if total is None:
                total = sums.new_zeros(*sums.shape[:-1], len(members))
            for place, piece in enumerate(pieces):
                total[..., piece.index] += sums[..., place]
        assert total is not None
        return total / torch.tensor([theta.numel() for theta in thetas], dtype=dtype, device=total.device)

    def _values(self, device: torch.device, dtype: torch.dtype) -> Tensors:
        if (device, dtype) not in self._cast:
            self._cast[device, dtype] = {name: value.to(device, dtype) for name, value in self.values.items()}
        return self._cast[device, dtype]


def rule_of(manifest: Manifest, phi: Phi, *, allow_user_code: bool = False) -> LearnedRule:
    """The update rule of a stored phi and what was learned for it. Its network is not built.

    Raises:
        ArtifactError: if no update rule was learned, or it needs a user's code without leave to import it.
    """
    learner = manifest.config.get("learner")
    slots = learner.get("slots", {}) if isinstance(learner, Mapping) else {}
    block = slots.get("update_rule")
    if not isinstance(block, Mapping):
        raise ArtifactError(f"the manifest of this phi describes no update rule (update_rule: {block!r})")
    refuse_user_code(block, allow_user_code=allow_user_code)
    values = phi.part("update_rule")
    tensors = tuple(dict.fromkeys(name.partition(".")[2] for name in values if "." in name))
    choices = {name: value for name, value in phi.choices.items() if name.startswith("learner.slots.update_rule.")}
    try:
        given = plain_config({"learner": {"slots": {"update_rule": dict(block)}}}, choices)
        settings = {k: v for k, v in given["learner"]["slots"]["update_rule"].items() if k != "searcher"}
        context = Context(_NO_NETWORK, _NO_NETWORK, dict.fromkeys(tensors, ()), tensors)
        rule = build("slot.update_rule", settings, "learner.slots.update_rule", context=context)
    except ConfigError as error:
        raise ArtifactError(f"the update rule of this phi cannot be built here: {error}") from error
    if not isinstance(rule, FlatRule):
        raise ArtifactError(
            f"this phi was learned with the update rule {block.get('type')!r}, which is no learned one; what it holds "
            "is for .initialize(module) or .learner()"
        )
    return LearnedRule(rule, values)


_NO_NETWORK: Any = None


def _wide(parameter: Tensor) -> torch.dtype:
    """The precision in which a parameter is worked on."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def piece_of(state: State, theta: Tensor) -> int:
    """Coordinates that are worked on at once, for a parameter ``theta`` and what its coordinates remember; a power of
    two, so that rules can take them in equal parts.
    """
    each = max(sum(value.numel() for value in state.values()) // theta.numel(), 1)
    return int(2 ** math.floor(math.log2(min(max(REMEMBERED // each, 1), PIECE))))


def _blocks(sizes: Sequence[int], piece: int) -> Iterator[list[_Piece]]:
    """All coordinates, small tensors together, large ones in pieces."""
    together: list[_Piece] = []
    room = piece
    for index, size in enumerate(sizes):
        if size > piece:
            yield from ([_Piece(index, start, min(start + piece, size))] for start in range(0, size, piece))
            continue
        if size > room:
            yield together
            together, room = [], piece
        together.append(_Piece(index, 0, size))
        room -= size
    if together:
        yield together


def _of(numbers: Tensor, pieces: Sequence[_Piece]) -> Tensor:
    """Those of the pieces' tensors, ``[..., pieces]``, of one for each tensor."""
    first = pieces[0].index
    return numbers[..., first : first + 1] if len(pieces) == 1 else numbers[..., [piece.index for piece in pieces]]


def _layout(pieces: Sequence[_Piece], members: Sequence[_Member]) -> Block:
    return Block(
        tuple(members[piece.index].name for piece in pieces), tuple(piece.stop - piece.start for piece in pieces)
    )


def _squares(layout: Block, features: Sequence[Tensor]) -> Tensor:
    """Sums of squares over each tensor, ``[F, 1, tensors]``; those of a single one without a copy."""
    if len(layout.sizes) == 1:
        norms = [torch.linalg.vector_norm(feature, dim=-1, keepdim=True) for feature in features]
        return torch.stack(norms).square()
    return torch.stack([layout.sums(feature.square()) for feature in features])


def _load(tensors: Sequence[Tensor], pieces: Sequence[_Piece], dtype: torch.dtype) -> Tensor:
    """Pieces side by side, ``[1, n]``."""
    return _joined([tensors[piece.index][piece.start : piece.stop] for piece in pieces]).to(dtype)


def _load_state(states: Sequence[State], pieces: Sequence[_Piece]) -> State:
    """What the pieces remember, ``[1, n, ...]`` each."""
    return {
        key: _joined([states[piece.index][key][piece.start : piece.stop] for piece in pieces])
        for key in states[pieces[0].index]
    }


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return (parts[0] if len(parts) == 1 else torch.cat(list(parts))).unsqueeze(0)


def _store_state(states: Sequence[State], pieces: Sequence[_Piece], before: State, after: State) -> None:
    for key, value in after.items():
        if value is not before[key]:
            for piece, part in zip(pieces, _parts(value[0], pieces), strict=True):
                states[piece.index][key][piece.start : piece.stop].copy_(part)


def _move(
    thetas: Sequence[Tensor], pieces: Sequence[_Piece], theta: Tensor, moved: Tensor, lr: float, decay: float
) -> None:
    kept = theta if not decay else theta * (1 - lr * decay)
    for piece, before, part in zip(pieces, _parts(kept[0], pieces), _parts(moved[0], pieces), strict=True):
        after = thetas[piece.index][piece.start : piece.stop]
        if after.dtype == before.dtype:
            torch.add(before, part, alpha=lr, out=after)
        else:
            after.copy_(torch.add(before, part, alpha=lr))


def _parts(x: Tensor, pieces: Sequence[_Piece]) -> Sequence[Tensor]:
    return (x,) if len(pieces) == 1 else x.split([piece.stop - piece.start for piece in pieces])
