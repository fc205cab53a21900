"""What a stored configuration may build without leave: metasearch's own parts, and nothing that it merely imports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from metasearch.artifacts import refuse_user_code
from metasearch.core.errors import ArtifactError, ConfigError
from metasearch.core.registry import resolve

__all__ = ["refuse_untrusted"]


def refuse_untrusted(config: Any, *, allow_user_code: bool) -> None:
    """Guards what would run other code than metasearch's own on the word of a stored file.

    Any text with a colon is taken for a reference, however odd: importing its module would already run that module. One
    that names metasearch must lead to a class defined there, not to a function or to what a module of ours imports (the
    standard library is within reach of every module).

    Args:
        config: the block of a manifest that is about to be built.
        allow_user_code: the caller's leave.

    Raises:
        ArtifactError: naming what was refused.
    """
    if allow_user_code:
        return
    refuse_user_code(config, allow_user_code=False)
    for text in _strings(config):
        module, colon, _ = text.partition(":")
        if colon and (module.partition(".")[0] != "metasearch" or not _own_class(text)):
            raise ArtifactError(
                f"this phi names {text!r}, which is no class of metasearch. Building it could run other people's code; "
                f"if you trust it, pass allow_user_code=True"
            )


def _own_class(reference: str) -> bool:
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
