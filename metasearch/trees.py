"""Experiments as trees of plain values: read from a file, changed from the command line, written into the record."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from metasearch.artifacts import shipped
from metasearch.artifacts.weights import described, read_weights
from metasearch.core.config import Config
from metasearch.core.dimensions import Dimension, expression
from metasearch.core.errors import ArtifactError, ConfigError, nearest
from metasearch.core.registry import import_path
from metasearch.schema import teacher_of, weights_of

__all__ = ["override", "read", "recorded", "with_place_of_weights", "with_teacher", "without_emptied"]


def read(path: str | Path) -> dict[str, Any]:
    """The raw tree of an experiment file.

    Raises:
        ConfigError: if there is no such file or it is not a YAML mapping.
    """
    file = Path(path)
    if not file.is_file():
        beside = [str(other) for other in sorted(file.parent.glob("*.y*ml"))] if file.parent.is_dir() else []
        raise ConfigError("", f"no experiment file {str(path)!r}; {nearest(str(path), beside)}")
    try:
        tree = yaml.load(file.read_text("utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise ConfigError("", f"{path} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError("", f"{path} must hold a mapping (name:, tasks:, learner: ...), got {type(tree).__name__}")
    return tree


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as people write it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)$"),
    list("-+0123456789."),
)


def override(tree: Mapping[str, Any], assignments: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """A tree with ``a.b.c=value`` applied; values are read as YAML.

    Raises:
        ConfigError: if an assignment has no ``=``, or goes through something that is not a mapping.
    """
    pairs: list[tuple[str, Any]] = []
    if isinstance(assignments, Mapping):
        pairs = list(assignments.items())
    else:
        for one in assignments:
            key, equals, text = one.partition("=")
            if not equals:
                raise ConfigError(one, "an override reads key=value, for example budget.steps=100")
            pairs.append((key.strip(), yaml.load(text, _Loader)))
    result = _copy(dict(tree))
    for key, value in pairs:
        *parents, last = _path(key, result)
        place = result
        for part in parents:
            if part not in place or place[part] is None:
                place[part] = {}
            place = place[part]
            if not isinstance(place, dict):
                raise ConfigError(key, f"{part!r} is not a mapping here, so nothing can be set below it")
        place[last] = value
    return result


def _path(key: str, tree: Mapping[str, Any]) -> list[str]:
    """The parts of an override's key; ``searcher.lr`` also reaches the one entry of ``searchers``."""
    parts = key.split(".")
    if parts[0] == "searcher" and "searchers" in tree and len(parts) > 1 and len(tree["searchers"]) == 1:
        return ["searchers", next(iter(tree["searchers"])), *parts[1:]]
    return parts


def with_place_of_weights(tree: dict[str, Any], folders: Sequence[str]) -> dict[str, Any]:
    """The experiment with the whole path of given weights, so that it can be resumed from anywhere."""
    taught = teacher_of(tree.get("evaluation"))
    for given in (*weights_of(tree.get("learner")), *(() if taught is None else (taught,))):
        if given.slot == "update_rule" and given.path in shipped.names():
            continue
        places = [Path(folder) / given.path for folder in folders]
        place = next((one for one in places if one.exists()), None)
        if place is None or ":" in str(place):
            looked = "a path without a colon" if place else f"one of {', '.join(map(str, places))}"
            names = f", or one of {', '.join(shipped.names())}" if given.slot == "update_rule" else ""
            raise ConfigError(given.key, f"expected weights at {looked}: the folder of a phi, a state dict{names}")
        tree = override(tree, {given.key: str(place.resolve())})
    return tree


def with_teacher(tree: dict[str, Any]) -> dict[str, Any]:
    """The experiment as workers get it: a teacher that lies in a phi has its settings and what it learned beside them.

    Raises:
        ConfigError: if no update rule was learned there.
    """
    given = teacher_of(tree.get("evaluation"))
    if given is None:
        return tree
    try:
        learner = described(given.path, given.slot).get("learner") or {}
        learned = read_weights(given.path, given.slot)
    except ArtifactError as error:
        raise ConfigError(given.key, str(error)) from error
    rule = (learner.get("slots") or {}).get(given.slot)
    if not isinstance(rule, Mapping) or not learned:
        raise ConfigError(
            given.key, f"expected a phi with an update rule that was learned by a gradient, got {given.path}"
        )
    settings = {name: value for name, value in rule.items() if name not in ("from", "searcher", "chosen")}
    numbers = {name: value.tolist() for name, value in learned.items()}
    return override(tree, {"evaluation.estimator.teacher": settings, "evaluation.estimator.learned": numbers})


def without_emptied(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment without the slots and searchers that were set to null: how a variant leaves one out.

    >>> without_emptied({"searchers": {"weights": {"type": "gradient"}, "rates": None}})
    {'searchers': {'weights': {'type': 'gradient'}}}
    """
    found = dict(tree)
    if isinstance(searchers := tree.get("searchers"), Mapping):
        found["searchers"] = {name: one for name, one in searchers.items() if one is not None}
    learner = tree.get("learner")
    if isinstance(learner, Mapping) and isinstance(slots := learner.get("slots"), Mapping):
        found["learner"] = {**learner, "slots": {slot: one for slot, one in slots.items() if one is not None}}
    return found


def recorded(value: Any) -> Any:
    """A configuration as the record holds it: plain values; classes and functions by import path, objects as
    ``{object: path}``.

    >>> recorded({"type": dict, "n": 1})
    {'type': 'builtins:dict', 'n': 1}
    """
    if isinstance(value, Mapping):
        return {str(key): recorded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [recorded(one) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Config):
        return recorded(value.model_dump())
    if isinstance(value, Dimension):
        return recorded(expression(value))
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return import_path(value)
    return {"object": import_path(type(value))}


def _copy(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copy(value) for key, value in tree.items()}
    return list(tree) if isinstance(tree, list) else tree
