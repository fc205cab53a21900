"""Which code of a user a configuration asks for; found by reading, never by importing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from metasearch.core.errors import ArtifactError, ConfigError
from metasearch.core.registry import resolve

__all__ = ["refuse_user_code", "user_references"]

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def user_references(config: Any) -> list[str]:
    """The ``module:Class`` strings in a configuration that are not metasearch's own, sorted.

    >>> user_references({"model": {"type": "mine.nets:Tiny"}, "tasks": {"type": "sinusoid"}})
    ['mine.nets:Tiny']
    """
    found = {text for text in _strings(config) if _REFERENCE.fullmatch(text)}
    return sorted(text for text in found if text.partition(":")[0].partition(".")[0] != "metasearch")


def refuse_user_code(config: Any, *, allow_user_code: bool) -> None:
    """Guards what would run other code than metasearch's own on the word of a stored file.

    Any text with a colon is taken for a reference, however odd: importing its module would already run that module. One
    that names metasearch must lead to a class defined there, not to a function or to what a module of ours imports (the
    standard library is within reach of every module).

    Args:
        config: the part of a manifest that is about to be built.
        allow_user_code: the caller's leave.

    Raises:
        ArtifactError: naming what was refused.
    """
    if allow_user_code:
        return
    foreign = [text for text in _strings(config) if ":" in text and not _own_class(text)]
    if foreign:
        raise ArtifactError(
            f"this phi needs code that is not part of metasearch: {', '.join(sorted(set(foreign)))}. "
            f"Loading it would run that code; if you trust it, pass allow_user_code=True"
        )


def _own_class(reference: str) -> bool:
    if reference.partition(":")[0].partition(".")[0] != "metasearch":
        return False
    try:
        found = resolve(reference)
    except (ConfigError, ImportError):
        return False
    return isinstance(found, type) and found.__module__.partition(".")[0] == "metasearch"


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
