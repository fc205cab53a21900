"""One dimension of a search space: a range of numbers or a list of options, and how an experiment file writes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

from metasearch.core.errors import ConfigError, nearest

__all__ = [
    "Choice",
    "Dimension",
    "Float",
    "Int",
    "Scalar",
    "When",
    "expression",
    "is_list",
    "is_range",
    "parse",
    "same",
]

Scalar: TypeAlias = bool | int | float | str | None
"""What a proposal records for a dimension."""

When: TypeAlias = Mapping[str, Sequence[Scalar]]
"""Condition: the named dimensions are active and each has one of the listed values."""

_KINDS = ("float", "int", "choice")
_TOLERANCE = 1e-8
"""How far, in steps, a stepped float may lie from its grid: sums of steps are rounded."""


@dataclass(frozen=True)
class Float:
    """A real number in ``[low, high]``.

    Args:
        low: smallest value.
        high: largest value; with ``step``, the last grid point not above it is the largest.
        log: uniform in the logarithm (needs ``low > 0``, excludes ``step``).
        step: distance of grid points, counted from ``low``.
        when: the condition under which this dimension exists; None for always.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    when: When | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        _check_range("float", self.low, self.high, self.log, self.step)
        _freeze_when(self)

    @property
    def count(self) -> float:
        """Number of values; inf without a step."""
        if self.step is None:
            return 1 if self.low == self.high else math.inf
        return int((_decimal(self.high) - _decimal(self.low)) // _decimal(self.step)) + 1

    def values(self) -> list[float]:
        """All values, in order.

        Raises:
            ConfigError: if there are infinitely many.
        """
        if math.isinf(self.count):
            raise ConfigError("", "a float range without a step has no list of values; give it a step or use a choice")
        step = _decimal(self.step or 0.0)
        return [float(_decimal(self.low) + index * step) for index in range(int(self.count))]

    def contains(self, value: Any) -> bool:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not self.low <= value <= self.high + _TOLERANCE * (self.step or 0.0)
        ):
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return abs(steps - round(steps)) <= _TOLERANCE

    def at(self, u: float) -> float:
        """The value at ``u`` in [0, 1) of the prior (uniform, or uniform in the logarithm)."""
        if not math.isinf(self.count):
            return self.values()[int(u * self.count)]
        if self.log:
            return min(max(math.exp(math.log(self.low) + u * math.log(self.high / self.low)), self.low), self.high)
        return min(self.low + u * (self.high - self.low), self.high)

    def place(self, value: float) -> float:
        """Where in [0, 1] of the prior a value lies: the inverse of :meth:`at`, the middle of a grid point's share."""
        if not math.isinf(self.count):
            return (round((value - self.low) / (self.step or 1.0)) + 0.5) / self.count
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Int:
    """An integer in ``{low, low + step, ...}`` up to ``high``; arguments as for :class:`Float`."""

    low: int
    high: int
    log: bool = False
    step: int | None = None
    when: When | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        for name, value in (("low", self.low), ("high", self.high), ("step", self.step)):
            if isinstance(value, bool) or not (isinstance(value, int) or (name == "step" and value is None)):
                raise ConfigError("", f"an int range has whole numbers; {name} is {value!r}")
        _check_range("int", self.low, self.high, self.log, self.step)
        _freeze_when(self)

    @property
    def count(self) -> float:
        """Number of values."""
        return (self.high - self.low) // (self.step or 1) + 1

    def values(self) -> list[int]:
        """All values, in order."""
        return list(range(self.low, self.high + 1, self.step or 1))

    def contains(self, value: Any) -> bool:
        return (
            isinstance(value, int)
            and not isinstance(value, bool)
            and value in range(self.low, self.high + 1, self.step or 1)
        )

    def at(self, u: float) -> int:
        """The value at ``u`` in [0, 1) of the prior."""
        if self.log:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            return min(max(round(math.exp(low + u * (high - low))), self.low), self.high)
        return self.low + int(u * self.count) * (self.step or 1)

    def place(self, value: int) -> float:
        """Where in (0, 1) of the prior a value lies: the inverse of :meth:`at`, inside of the value's share."""
        if self.log:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            return (math.log(value) - low) / (high - low)
        return ((value - self.low) // (self.step or 1) + 0.5) / self.count


@dataclass(frozen=True)
class Choice:
    """One of several options.

    Recorded is an option's label: itself if it is a scalar, its ``type`` if it is a mapping that has one of its own,
    else ``#`` and its index.

    Args:
        options: scalars, mappings or lists, at least one.
        when: as for :class:`Float`.
    """

    options: tuple[Any, ...]
    when: When | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if not is_list(self.options) or not self.options:
            raise ConfigError("", f"a choice is a list of at least one option, got {self.options!r}")
        object.__setattr__(self, "options", tuple(self.options))
        labels = self.values()
        for index, label in enumerate(labels):
            if any(same(label, other) for other in labels[:index]):
                raise ConfigError("", f"the options of a choice must differ, got {label!r} twice")
        _freeze_when(self)

    @property
    def count(self) -> float:
        """Number of options."""
        return len(self.options)

    def values(self) -> list[Scalar]:
        """The labels, in order."""
        types = [str(option["type"]) for option in self.options if isinstance(option, Mapping) and "type" in option]
        return [_label(index, option, types) for index, option in enumerate(self.options)]

    def contains(self, value: Any) -> bool:
        return any(same(value, label) for label in self.values())

    def at(self, u: float) -> Scalar:
        """The label at ``u`` in [0, 1), all options being equally likely."""
        return self.values()[int(u * len(self.options))]

    def option(self, label: Scalar) -> Any:
        """The option behind a label.

        Raises:
            ConfigError: if no option has it.
        """
        for option, candidate in zip(self.options, self.values(), strict=True):
            if same(label, candidate):
                return option
        raise ConfigError("", f"no option {label!r}; {nearest(str(label), map(str, self.values()))}")


Dimension: TypeAlias = Float | Int | Choice


def same(a: Any, b: Any) -> bool:
    """Equality of recorded values, for which ``True`` is not 1."""
    return bool(isinstance(a, bool) == isinstance(b, bool) and a == b)


def is_list(tree: Any) -> bool:
    """Whether a node of an experiment file is a list."""
    return isinstance(tree, list | tuple)


def is_range(tree: Any) -> bool:
    """Whether a node of an experiment file stands for a dimension."""
    return isinstance(tree, Mapping) and any(kind in tree for kind in _KINDS)


def parse(tree: Mapping[str, Any]) -> Dimension:
    """The dimension that a range expression describes.

    It is ``{float: [low, high], log, step, when}``, ``{int: [low, high], ...}`` or ``{choice: [...], when}``; a
    ``searcher`` beside them is the caller's.

    Raises:
        ConfigError: for keys or values that do not belong there.
    """
    kinds = [kind for kind in _KINDS if kind in tree]
    if len(kinds) != 1:
        raise ConfigError("", f"a range has exactly one of the keys float, int, choice; got {sorted(map(str, tree))}")
    kind = kinds[0]
    allowed = [kind, "when", "searcher"] + ([] if kind == "choice" else ["log", "step"])
    for key in tree:
        if key not in allowed:
            raise ConfigError(str(key), f"unknown key beside {kind!r}; {nearest(str(key), allowed)}")
    when = tree.get("when")
    if when is not None and not isinstance(when, Mapping):
        raise ConfigError("when", f"expected {{name of a dimension: value or list of values}}, got {when!r}")
    if kind == "choice":
        return Choice(tree["choice"], when)
    bounds = tree[kind]
    if not is_list(bounds) or len(bounds) != 2:
        raise ConfigError(kind, f"expected [low, high], got {bounds!r}")
    log, step = tree.get("log", False), tree.get("step")
    if not isinstance(log, bool):
        raise ConfigError("log", f"expected true or false, got {log!r}")
    if kind == "int":
        return Int(bounds[0], bounds[1], log, step, when)
    return Float(_number(bounds[0]), _number(bounds[1]), log, None if step is None else _number(step), when)


def expression(dimension: Dimension) -> dict[str, Any]:
    """The inverse of :func:`parse`: plain values for YAML or JSON."""
    if isinstance(dimension, Choice):
        tree: dict[str, Any] = {"choice": list(dimension.options)}
    else:
        tree = {"int" if isinstance(dimension, Int) else "float": [dimension.low, dimension.high]}
        tree |= {"log": True} if dimension.log else {}
        tree |= {} if dimension.step is None else {"step": dimension.step}
    return tree | (
        {} if dimension.when is None else {"when": {name: list(values) for name, values in dimension.when.items()}}
    )


def _label(index: int, option: Any, types: list[str]) -> Scalar:
    if option is None or isinstance(option, bool | int | float | str):
        return option
    if isinstance(option, Mapping) and "type" in option and types.count(str(option["type"])) == 1:
        return str(option["type"])
    return f"#{index}"


def _decimal(value: float) -> Decimal:
    """The number as it is written, so that 0.1 + 2 * 0.1 is 0.3."""
    return Decimal(repr(value))


def _number(value: Any) -> float:
    """A float; YAML reads ``1e-3`` (no point) as text, which is accepted."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError("float", f"expected a number, got {value!r}") from None


def _check_range(kind: str, low: float, high: float, log: bool, step: float | None) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ConfigError(kind, f"expected finite low <= high, got [{low}, {high}]")
    if log and low <= 0:
        raise ConfigError(kind, f"a logarithmic range starts above 0, got low = {low}")
    if log and step is not None:
        raise ConfigError("step", "a logarithmic range has no step; leave one of them out")
    if step is not None and not step > 0:
        raise ConfigError("step", f"expected a positive number, got {step!r}")


def _freeze_when(dimension: Dimension) -> None:
    """Conditions as tuples, whatever sequence (or single value) was given; an empty condition is none."""
    if dimension.when is not None:
        frozen = {
            str(name): tuple(v) if isinstance(v, list | tuple | set) else (v,) for name, v in dimension.when.items()
        }
        object.__setattr__(dimension, "when", frozen or None)
