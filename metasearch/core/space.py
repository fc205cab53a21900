"""The space of choices: named dimensions with conditions, and the ranges an experiment file may hold anywhere.

A space is walked "define by run": a picker is asked for one active dimension after another, so any searcher that can
answer "a value for this dimension" handles conditions without knowing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from metasearch.core.conditions import Counter, active, conditioned, domain, parents_first, under
from metasearch.core.dimensions import Choice, Dimension, Float, Int, Scalar, When, expression, is_range, parse, same
from metasearch.core.errors import ConfigError, nearest
from metasearch.core.seeds import Draws, derive

__all__ = ["Choice", "Dimension", "Float", "Hole", "Int", "Scalar", "Space", "extract", "left_open", "substitute"]


class Space:
    """Dimensions by dotted name, in the given order, except that a parent comes before what depends on it.

    Raises:
        ConfigError: if a condition names an unknown dimension or a value outside it, or conditions form a circle.
    """

    def __init__(self, dimensions: Mapping[str, Dimension] | None = None) -> None:
        self.dimensions: dict[str, Dimension] = parents_first(dict(dimensions or {}))

    def __len__(self) -> int:
        return len(self.dimensions)

    def __bool__(self) -> bool:
        return bool(self.dimensions)

    def __iter__(self) -> Iterator[str]:
        return iter(self.dimensions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and list(self.dimensions.items()) == list(other.dimensions.items())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Space({self.dimensions!r})"

    def walk(self, pick: Callable[[str, Dimension], Any]) -> dict[str, Any]:
        """The choices that ``pick(name, dimension)`` makes; it is called for the active dimensions only, in order.

        Raises:
            ConfigError: naming the dimension for which a value outside it was picked.
        """
        choices: dict[str, Any] = {}
        for name, dimension in self.dimensions.items():
            if active(dimension, choices):
                choices[name] = value = pick(name, dimension)
                if not dimension.contains(value):
                    raise ConfigError(name, f"{value!r} is not in {domain(dimension)}")
        return choices

    def sample(self, seed: int) -> dict[str, Any]:
        """Random choices; each dimension has its own stream, by its name, so a further dimension changes no other."""
        names = list(self.dimensions)
        unit = Draws([derive(seed, "space", name) for name in names]).uniform(1)[:, 0]
        drawn = dict(zip(names, unit.tolist(), strict=True))
        return self.walk(lambda name, dimension: dimension.at(drawn[name]))

    def validate(self, choices: Mapping[str, Any]) -> None:
        """Checks that choices name exactly the active dimensions, each with a value inside.

        Raises:
            ConfigError: naming the dimension that is missing, superfluous or out of range.
        """

        def given(name: str, dimension: Dimension) -> Any:
            if name not in choices:
                raise ConfigError(name, f"has no value; expected one in {domain(dimension)}")
            return choices[name]

        walked = self.walk(given)
        for name in choices:
            if name not in self.dimensions:
                raise ConfigError(name, f"is not a dimension of this space; {nearest(name, self.dimensions)}")
            if name not in walked:
                raise ConfigError(
                    name, f"has a value, but exists only when {dict(self.dimensions[name].when or {})}; leave it out"
                )

    def contains(self, choices: Mapping[str, Any]) -> bool:
        """Whether :meth:`validate` accepts the choices."""
        try:
            self.validate(choices)
        except ConfigError:
            return False
        return True

    @property
    def size(self) -> float:
        """Number of different proposals; inf if a float without a step can be active."""
        return Counter(self.dimensions).count()

    def subset(self, names: Iterable[str]) -> Space:
        """The space of some of the dimensions.

        Raises:
            ConfigError: if one is unknown, or depends on one that is left out.
        """
        chosen = set(names)
        for name in chosen:
            if name not in self.dimensions:
                raise ConfigError(name, f"is not a dimension of this space; {nearest(name, self.dimensions)}")
            for parent in self.dimensions[name].when or {}:
                if parent not in chosen:
                    raise ConfigError(
                        name, f"exists only for some values of {parent!r}, so both belong to one searcher"
                    )
        return Space({name: dimension for name, dimension in self.dimensions.items() if name in chosen})

    def to_yaml(self) -> dict[str, dict[str, Any]]:
        """A range expression for each name: plain values, as YAML or JSON holds them."""
        return {name: expression(dimension) for name, dimension in self.dimensions.items()}

    @classmethod
    def from_yaml(cls, tree: Mapping[str, Mapping[str, Any]]) -> Space:
        """The inverse of :meth:`to_yaml`.

        Raises:
            ConfigError: naming the dimension that is not a range expression.
        """
        return cls({name: _parse(part, name) for name, part in tree.items()})


@dataclass(frozen=True)
class Hole:
    """Where a template waits for a value.

    Args:
        name: dimension that fills it.
        dimension: that dimension; it says when the hole is there at all.
        options: for a choice, the template behind each label, in order.
    """

    name: str
    dimension: Dimension
    options: tuple[Any, ...] = field(default=(), hash=False)


Found = dict[str, tuple[Dimension, str | None]]
"""Dimensions by name, each with the searcher it names."""


def extract(tree: Any) -> tuple[Any, Found]:
    """Finds the range expressions in a nested configuration.

    A range is a mapping with the key ``float: [low, high]``, ``int: [low, high]`` or ``choice: [...]`` and, beside it,
    ``log``, ``step``, ``when: {name: values}`` and ``searcher: name``. An option of a choice may hold further ranges:
    they exist only while it is picked, their names go on below that of the choice, and they belong to its searcher
    unless they name another. Ranges of the same name in several options are one dimension if they are equal; else the
    option's label stands in their names.

    Args:
        tree: mappings, lists and scalars; it is not changed.

    Returns:
        The template (the tree with a :class:`Hole` in place of each range), and by name the dimensions with their
        searchers. Names are dotted paths such as ``learner.steps.train``, list items by index.

    Raises:
        ConfigError: naming the path of a range that cannot be read.
    """
    found: Found = {}
    return _extract(tree, "", None, {}, found), found


def left_open(tree: Any, choices: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The choices below a prefix that no range of a configuration has put in its place: those of the parts' own spaces.

    >>> left_open({"a": {"b": {"int": [1, 3]}}}, {"a.b": 2, "a.c": 5}, "a.")
    {'c': 5}
    """
    ranges = extract(tree)[1]
    return {
        name.removeprefix(prefix): value
        for name, value in choices.items()
        if name.startswith(prefix) and name not in ranges
    }


def substitute(tree: Any, choices: Mapping[str, Any]) -> Any:
    """The plain configuration that choices make of a tree (or of its template, which saves finding the ranges again).

    A range whose condition does not hold is left out together with its key. Values for other names are ignored:
    :meth:`Space.validate` is the check for those.

    Raises:
        ConfigError: naming an active range without a value, or with one outside it.
    """
    filled = _fill(_extract(tree, "", None, {}, {}), choices)
    return None if filled is _ABSENT else filled


_ABSENT = object()
"""Stands for a range whose condition does not hold."""

_TWICE = "two ranges have this name; write it nested or with dots, not both"


def _extract(tree: Any, path: str, searcher: str | None, when: When, found: Found) -> Any:
    """The template of a (sub)tree at ``path`` that exists under ``when``; its ranges are added to ``found``."""
    if isinstance(tree, Dimension):
        tree = expression(tree)
    if is_range(tree):
        dimension = _parse(tree, path)
        owner = tree.get("searcher", searcher)
        plain = Choice(tuple(dimension.values()), dimension.when) if isinstance(dimension, Choice) else dimension
        hole = Hole(path, conditioned(plain, when))
        if path in found:
            raise ConfigError(path, _TWICE)
        found[path] = (hole.dimension, owner)
        if isinstance(dimension, Choice):
            hole = replace(hole, options=_options(path, dimension, owner, hole.dimension.when or {}, found))
        return hole
    if isinstance(tree, Mapping):
        return {key: _extract(value, _below(path, key), searcher, when, found) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_extract(value, _below(path, index), searcher, when, found) for index, value in enumerate(tree)]
    return tree


def _options(path: str, choice: Choice, searcher: str | None, when: When, found: Found) -> tuple[Any, ...]:
    """Templates of a choice's options; their ranges go to ``found``, existing only while it is picked."""
    conditions = [{**when, path: (label,)} for label in choice.values()]
    apart: list[Found] = [{} for _ in conditions]
    templates = [
        _extract(option, path, searcher, condition, inner)
        for option, condition, inner in zip(choice.options, conditions, apart, strict=True)
    ]
    for index, (label, option) in enumerate(zip(choice.values(), choice.options, strict=True)):
        if path in apart[index] or any(_clash(apart[index], other, path) for other in apart):
            named: Found = {}
            below = _below(path, str(label).removeprefix("#"))
            templates[index] = _extract(option, below, searcher, conditions[index], named)
            _merge(named, path, found)
        else:
            _merge(apart[index], path, found)
    return tuple(templates)


def _clash(one: Found, other: Found, parent: str) -> bool:
    """Whether two options have different ranges of one name."""

    def bare(entry: tuple[Dimension, str | None]) -> tuple[Dimension, str | None]:
        dimension, owner = entry
        return under(dimension, {name: v for name, v in (dimension.when or {}).items() if name != parent}), owner

    return any(name in other and bare(other[name]) != bare(entry) for name, entry in one.items())


def _merge(inner: Found, parent: str, found: Found) -> None:
    """Adds an option's dimensions; one that an earlier option has, too, then exists for both."""
    for name, (dimension, owner) in inner.items():
        now, before = dimension.when or {}, found[name][0].when or {} if name in found else {}
        if name in found and parent not in before:
            raise ConfigError(name, _TWICE)
        found[name] = (under(dimension, {**now, parent: (*before.get(parent, ()), *now[parent])}), owner)


def _fill(template: Any, choices: Mapping[str, Any]) -> Any:
    if isinstance(template, Hole):
        if not active(template.dimension, choices):
            return _ABSENT
        if template.name not in choices:
            raise ConfigError(template.name, f"has no value; expected one in {domain(template.dimension)}")
        value = choices[template.name]
        if not template.dimension.contains(value):
            raise ConfigError(template.name, f"{value!r} is not in {domain(template.dimension)}")
        if not template.options:
            return value
        picked = next(index for index, label in enumerate(template.dimension.values()) if same(label, value))
        return _fill(template.options[picked], choices)
    if isinstance(template, Mapping):
        filled = {key: _fill(value, choices) for key, value in template.items()}
        return {key: value for key, value in filled.items() if value is not _ABSENT}
    if isinstance(template, list | tuple):
        return [value for value in (_fill(part, choices) for part in template) if value is not _ABSENT]
    return template


def _parse(tree: Mapping[str, Any], path: str) -> Dimension:
    try:
        return parse(tree)
    except ConfigError as error:
        raise error.under(path) from None


def _below(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
