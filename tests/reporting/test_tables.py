from metasearch.reporting.page import Markup, escape, table
from metasearch.reporting.tables import dotted, short_names


def test_nested_settings_get_dotted_names() -> None:
    assert dotted({"a": {"b": {"c": 1}, "d": []}, "e": {}}) == {"a.b.c": 1, "a.d": [], "e": {}}


def test_short_names_are_unique_endings_of_at_least_two_parts() -> None:
    names = ["a.x.lr", "b.x.lr", "c.steps", "lr"]
    assert short_names(names) == {"a.x.lr": "a.x.lr", "b.x.lr": "b.x.lr", "c.steps": "c.steps", "lr": "lr"}
    assert short_names(["learner.slots.rates.value"]) == {"learner.slots.rates.value": "rates.value"}


def test_text_is_escaped_once() -> None:
    assert escape("<a> & b") == "&lt;a&gt; &amp; b"
    assert escape(escape("<a>")) == "&lt;a&gt;"


def test_cells_are_escaped_and_numbers_aligned() -> None:
    text = table(["name", "n"], [["<x>", 1], [Markup("<b>y</b>"), 2]], marked=["ours", ""])
    assert '<tr class="ours"><td class="short">&lt;x&gt;</td><td class="number">1</td></tr>' in text
    assert '<tr><td class="short"><b>y</b></td>' in text
