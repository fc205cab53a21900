import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metasearch.core.files import folder_in_place, from_json, to_json, write_file

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["nan", "inf", "-inf", "\\nan", "\\\\inf"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    return repr(a) == repr(b)


@given(plain)
def test_every_plain_value_survives_as_strict_json(value: Any) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = to_json(value)
    json.loads(text, parse_constant=refuse)
    assert same(from_json(text), value)


def test_numpy_values_tuples_and_paths_become_plain() -> None:
    value = {
        "a": np.float32(0.5),
        "b": np.arange(3),
        "c": (1, np.int64(2)),
        "d": Path("x/y"),
        "e": np.bool_(True),
        "f": np.float64("inf"),
    }
    assert from_json(to_json(value)) == {"a": 0.5, "b": [0, 1, 2], "c": [1, 2], "d": "x/y", "e": True, "f": math.inf}


@pytest.mark.parametrize("value", [{1: 2}, {"a": object()}, {"a": b"x"}])
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="expected"):
        to_json(value)


def test_a_file_is_replaced_as_a_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_file(tmp_path / "a.txt", "old")
    write_file(tmp_path / "a.txt", "new")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("a.txt", "new")]


def test_a_folder_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with folder_in_place(tmp_path / "folder") as folder:
            (folder / content).write_text(content)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
    assert [entry.name for entry in (tmp_path / "folder").iterdir()] == ["new"]


def test_a_folder_whose_writing_failed_leaves_the_old_one(tmp_path: Path) -> None:
    with folder_in_place(tmp_path / "folder") as folder:
        (folder / "old").write_text("old")
    with pytest.raises(FileNotFoundError), folder_in_place(tmp_path / "folder") as folder:
        (folder / "new" / "file").write_text("its folder is missing")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
    assert [entry.name for entry in (tmp_path / "folder").iterdir()] == ["old"]
