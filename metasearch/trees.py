"""Experiments as trees of plain values: read from a file, changed from the command line, written into the record."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from metasearch.artifacts import refuse_user_code, rule_settings, shipped, stored
from metasearch.core.config import Config
from metasearch.core.dimensions import Dimension, expression
from metasearch.core.errors import ArtifactError, ConfigError, nearest
from metasearch.core.registry import import_path
from metasearch.schema import Given, teacher_of, weights_of

__all__ = ["override", "pinned", "read", "recorded", "with_place_of_weights", "with_teacher", "without_emptied"]


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
    for given in weights_of(tree.get("learner")):
        tree = override(tree, {given.key: _place(given, folders, "the folder of a phi, a state dict")})
    if (teacher := teacher_of(tree.get("evaluation"))) is not None:
        tree = override(tree, {teacher.key: _place(teacher, folders, "the folder of a phi or a run")})
    return tree


def _place(given: Given, folders: Sequence[str], what: str) -> str:
    if given.slot == "update_rule" and given.path in shipped.names():
        return given.path
    places = [Path(folder) / given.path for folder in folders]
    place = next((one for one in places if one.exists()), None)
    if place is None or ":" in str(place):
        looked = "a path without a colon" if place else f"one of {', '.join(map(str, places))}"
        names = f", or one of {', '.join(shipped.names())}" if given.slot == "update_rule" else ""
        raise ConfigError(given.key, f"expected weights at {looked}: {what}{names}")
    return str(place.resolve())


def with_teacher(tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """An experiment whose teacher comes from a phi: as it is recorded, with the hash of that phi; and as workers get
    it, with the teacher's settings and what it learned.

    The hash is of tensors; what was chosen for them is not in it.

    Raises:
        ConfigError: if no update rule was learned there, it is not metasearch's own, or the record has another hash.
    """
    given = teacher_of(tree.get("evaluation"))
    if given is None:
        return tree, tree
    block = tree["evaluation"]["estimator"]["teacher"]
    try:
        found = stored(given.path, given.slot)
        settings = None if found is None else rule_settings(found)
    except ArtifactError as error:
        raise ConfigError(given.key, f"{given.path}: {error}") from error
    learned = {} if found is None else found.phi.part(given.slot)
    if found is None or settings is None or not learned:
        raise ConfigError(given.key, f"expected a phi with an update rule that a gradient learned, got {given.path}")
    try:
        refuse_user_code(settings, allow_user_code=False)
    except ArtifactError:
        raise ConfigError(
            given.key, f"expected one of metasearch's own update rules, got {settings.get('type')} in {given.path}"
        ) from None
    if block.get("hash") not in (None, found.manifest.hash):
        raise ConfigError(
            given.key,
            f"the phi in {given.path} is not the one of the record: its hash is {found.manifest.hash}, there "
            f"{block['hash']}. Put the old one back, or give a teacher without the hash for a new search: "
            '--set "evaluation.estimator.teacher={from: RUN}"',
        )
    recorded = override(tree, {"evaluation.estimator.teacher.hash": found.manifest.hash})
    numbers = {name: value.tolist() for name, value in learned.items()}
    sent = override(tree, {"evaluation.estimator.teacher": settings, "evaluation.estimator.learned": numbers})
    return recorded, sent


def pinned(tree: Mapping[str, Any], resolved: Mapping[str, Any]) -> dict[str, Any]:
    """A raw experiment with given weights and a teacher as they were found when it was resolved."""
    places = {given.key: given.path for given in weights_of(resolved.get("learner"))}
    if (given := teacher_of(resolved.get("evaluation"))) is not None:
        places[given.key.removesuffix(".from")] = resolved["evaluation"]["estimator"]["teacher"]
    return override(tree, places)


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
