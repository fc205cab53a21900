"""Small pieces of HTML. Text is escaped unless it is :class:`Markup`, so that no name or message can break a page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from importlib import resources

__all__ = [
    "Markup",
    "badge",
    "cards",
    "details",
    "document",
    "escape",
    "join",
    "listing",
    "picture",
    "section",
    "table",
    "tabs",
]


_SHORT = 32
"""Characters of a text that stays on one line of its cell."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escape(value: object) -> Markup:
    """Any value as HTML; :class:`Markup` stays as it is."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def join(parts: Iterable[object], between: str = "\n") -> Markup:
    """Parts one after the other, empty ones left out."""
    return Markup(between.join(escape(part) for part in parts if part != ""))


def section(title: str, *parts: object) -> Markup:
    """A headed section; nothing if it has no content."""
    body = join(parts)
    return Markup(f"<section><h2>{escape(title)}</h2>{body}</section>") if body else Markup()


def table(
    headers: Sequence[object],
    rows: Sequence[Sequence[object]],
    *,
    text_columns: int = 1,
    last_is_text: bool = False,
    marked: Sequence[str] = (),
) -> Markup:
    """A table that scrolls sideways where it is too wide.

    Args:
        headers: of the columns.
        rows: cells.
        text_columns: how many columns, from the left, hold words; the others are aligned right.
        last_is_text: whether the last column holds words, too.
        marked: a CSS class a row, or nothing.
    """

    def cells(row: Sequence[object], tag: str) -> str:
        end = len(row) - 1 if last_is_text else len(row)
        kinds = [
            ' class="number"' if text_columns <= index < end else "" if len(str(cell)) > _SHORT else ' class="short"'
            for index, cell in enumerate(row)
        ]
        return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True))

    marks = [f' class="{mark}"' if mark else "" for mark in (marked or [""] * len(rows))]
    body = "".join(f"<tr{mark}>{cells(row, 'td')}</tr>" for mark, row in zip(marks, rows, strict=True))
    head = f"<thead><tr>{cells(headers, 'th')}</tr></thead>" if headers else ""
    return Markup(f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>')


def cards(items: Sequence[tuple[str, str, str]]) -> Markup:
    """Big numbers: (label, number, small print)."""
    each = (
        f'<div class="card"><div class="label">{escape(label)}</div><div class="big">{escape(value)}</div>'
        f'<div class="small">{escape(note)}</div></div>'
        for label, value, note in items
    )
    return Markup(f'<div class="cards">{"".join(each)}</div>')


def tabs(name: str, panes: Sequence[tuple[str, Markup]]) -> Markup:
    """Panes of which one is seen at a time; without scripts, by radio buttons. All are printed on paper."""
    if len(panes) == 1:
        return panes[0][1]
    inputs = "".join(
        f'<input type="radio" name="{name}" id="{name}-{index}"{" checked" if not index else ""}>'
        f'<label for="{name}-{index}">{escape(label)}</label>'
        for index, (label, _) in enumerate(panes)
    )
    return Markup(f'<div class="tabs">{inputs}{"".join(f"<div class=pane>{pane}</div>" for _, pane in panes)}</div>')


def picture(content: str, title: str, caption: str = "") -> Markup:
    """An ``<svg>`` or ``<img>`` with its caption; the title is read out to those who cannot see it."""
    under = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Markup(f'<figure role="img" aria-label="{escape(title)}">{content}{under}</figure>')


def details(summary: str, *parts: object) -> Markup:
    """What is there for those who want it."""
    body = join(parts)
    return Markup(f"<details><summary>{escape(summary)}</summary>{body}</details>") if body else Markup()


def listing(text: str) -> Markup:
    """Preformatted text."""
    return Markup(f"<pre>{escape(text)}</pre>") if text else Markup()


def badge(text: str) -> Markup:
    """A status as a coloured word."""
    return Markup(f'<span class="badge {escape(text)}">{escape(text)}</span>')


def document(title: str, *parts: object) -> str:
    """The whole file: nothing in it is loaded from elsewhere."""
    style = (resources.files("metasearch.reporting") / "templates" / "report.css").read_text("utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>'
        f"<body><main>{join(parts)}</main></body></html>\n"
    )
