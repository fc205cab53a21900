"""Learned optimizers that come with the package: ``data/optimizers/NAME`` holds a phi and its card, ``CARD.md``.

A card says what the rule was trained on, where it beats tuned Adam and where it fails. Its first line is
``# NAME: what it is``.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from metasearch.core.errors import ConfigError, nearest

__all__ = ["card", "folder", "names", "optimizers"]


def names() -> list[str]:
    """Names of all of them."""
    return sorted(path.parent.name for path in _home().glob("*/manifest.json"))


def optimizers() -> dict[str, str]:
    """The learned optimizers that come with the package: what each is, by its name for :class:`LearnedOptimizer`.

    Example:
        >>> sorted(optimizers())
        ['lstm-v1', 'small-mlp-v1']
    """
    return {name: card(name).partition("\n")[0].partition(": ")[2] for name in names()}


def card(name: str) -> str:
    """What one was trained on, where it beats tuned Adam and where it fails (Markdown).

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in names():
        raise ConfigError("", f"no learned optimizer {name!r} comes with the package; {nearest(name, names())}")
    return (folder(name) / "CARD.md").read_text("utf-8")


def folder(name: str) -> Path:
    """Where its phi lies, or would."""
    return _home() / name


def _home() -> Path:
    return Path(str(resources.files("metasearch"))) / "data" / "optimizers"
