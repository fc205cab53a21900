"""Names for parts: what ``type: conv4`` in an experiment file means.

A built-in part is listed by import path, so that reading a file imports only the parts it names. A user's part is
``module:Class`` or is registered with the decorator; the contract suites, the command line and YAML then know it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from metasearch.core.config import validate
from metasearch.core.errors import ConfigError, nearest

T = TypeVar("T")

__all__ = ["ADAPTERS", "KINDS", "Registry", "build", "import_path", "register", "registry", "resolve"]


class Registry:
    """The parts of one kind (``task``, ``model``, ``slot.initialization`` ...), by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Any] = {}

    def add(self, name: str, part: Any) -> None:
        """Lists a class, or its import path ``module:Class``; a name that is taken is replaced only by the same part.

        Raises:
            ConfigError: if the name already stands for something else.
        """
        present = self._entries.get(name)
        if present is not None and import_path(present) != import_path(part):
            raise ConfigError(
                "", f"{self.kind} {name!r} is already registered as {import_path(present)}; choose another name"
            )
        self._entries[name] = part

    def get(self, name: Any, path: str = "") -> Any:
        """The class behind a name or behind ``module:Class``; a class stands for itself.

        Raises:
            ConfigError: at ``path``, with the nearest valid name.
        """
        if not isinstance(name, str):
            return name
        if name in self._entries:
            entry = self._entries[name]
            if isinstance(entry, str):
                entry = self._entries[name] = resolve(entry, path)
            return entry
        if ":" in name:
            return resolve(name, path)
        raise ConfigError(
            path, f"unknown {self.kind} {name!r}; {nearest(name, self._entries)}, or 'module:Class' of your own"
        )

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))


KINDS: dict[str, Registry] = {}
"""All registries by kind."""

ADAPTERS: dict[str, list[Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]]]] = {}
"""For a kind, functions that turn a foreign class (an ``nn.Module`` as a model) and its settings into ours."""


def registry(kind: str) -> Registry:
    """The registry of a kind, made at its first mention (so a new slot needs no edit here)."""
    return KINDS.setdefault(kind, Registry(kind))


def register(kind: str, name: str) -> Callable[[T], T]:
    """Class decorator: makes ``type: name`` mean this class wherever a part of this kind is expected.

    >>> from metasearch.core.registry import register, registry
    >>> @register("task", "doctest-only")
    ... class Mine: ...
    >>> registry("task").get("doctest-only") is Mine
    True
    """

    def add(part: T) -> T:
        registry(kind).add(name, part)
        return part

    return add


def build(kind: str, settings: Mapping[str, Any] | str, path: str = "", **context: Any) -> Any:
    """The part that a block of an experiment file describes: ``{type: name, **settings}`` or just its name.

    Args:
        kind: registry to look in.
        settings: the block; ``type`` chooses the class, the rest is checked by its ``Config``.
        path: dotted path of the block, for messages.
        context: what parts of this kind are built from besides their settings.

    Raises:
        ConfigError: naming the offending key by its full path.
    """
    block = {"type": settings} if isinstance(settings, str) else dict(settings)
    if "type" not in block:
        raise ConfigError(
            f"{path}.type" if path else "type", f"is required: which {kind}? {nearest('', registry(kind))}"
        )
    part = registry(kind).get(block.pop("type"), f"{path}.type" if path else "type")
    for hook in ADAPTERS.get(kind, ()):
        part, block = hook(part, block)
    try:
        if not hasattr(part, "Config"):  # a user's plain class takes its settings as keyword arguments
            return part(**block)
        return part(validate(part.Config, block, path), **context)
    except ConfigError as error:
        raise error if not path or error.path.startswith(path) else error.under(path) from None
    except TypeError as error:
        raise ConfigError(path, f"{import_path(part)} cannot be built from {block}: {error}") from error


def import_path(part: Any) -> str:
    """``module:QualifiedName`` of a class or function; text is returned as it is.

    >>> import_path(dict)
    'builtins:dict'
    """
    if isinstance(part, str):
        return part
    module = part.__module__
    return f"{_script() or module if module == '__main__' else module}:{part.__qualname__}"


def _script() -> str | None:
    """The name under which the running script could be imported; None in an interactive session."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    return None if file is None else Path(file).stem


def resolve(reference: str, path: str = "") -> Any:
    """The object that ``module:Name`` names.

    Raises:
        ConfigError: at ``path``, if the module or the name in it does not exist, with the search path that was used.
    """
    module_name, _, attribute = reference.partition(":")
    try:
        running = module_name in ("__main__", _script())  # importing the running script would run it again
        target: Any = sys.modules["__main__"] if running else importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and not module_name.startswith(error.name):
            raise
        places = ", ".join(entry or "." for entry in sys.path[:4])
        raise ConfigError(
            path, f"no module {module_name!r} (looked in {places} ...); give 'module:Name' with the module importable"
        ) from None
    for part in attribute.split("."):
        if not hasattr(target, part):
            public = [name for name in vars(target) if not name.startswith("_")]
            raise ConfigError(path, f"module {module_name!r} has no {attribute!r}; {nearest(attribute, public)}")
        target = getattr(target, part)
    return target
