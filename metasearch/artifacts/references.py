"""Which code of a user a configuration asks for; found by reading, never by importing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from metasearch.core.errors import ArtifactError

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
    """Guards what would import a user's code on the word of a stored file.

    Raises:
        ArtifactError: if the configuration names such code and it is not allowed.
    """
    references = user_references(config)
    if references and not allow_user_code:
        raise ArtifactError(
            f"this phi needs code that is not part of metasearch: {', '.join(references)}. Loading it would run "
            f"that code; if you trust it, pass allow_user_code=True"
        )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
