from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import metasearch as ms
from metasearch.cli import main
from metasearch.core.errors import ArtifactError
from metasearch.models.architectures import CellNetwork, MacroNetwork
from metasearch.takeaway.architecture import FoundArchitecture
from metasearch.testing.phi import stored_phi

CELL = dict.fromkeys(CellNetwork(2).places, "nor_conv_1x1") | {"edge_1_3": "none", "edge_0_3": "skip_connect"}


def test_an_architecture_is_told_with_its_size() -> None:
    found = FoundArchitecture("cells", CELL, {"channels": (2,), "cells": 1, "in_channels": 1}, (1, 4, 4))
    text = found.describe(3)
    convolutions = 4 * (4 + 4)  # four edges of 2x2 weights, scale and shift
    parameters = (18 + 4) + convolutions + 4 + (2 * 3 + 3)
    assert text.splitlines()[0] == (
        f"cells: {parameters} parameters and {16 * 18 + 4 * 16 * 4 + 6} multiply-adds for an example [1, 4, 4] and 3 "
        "classes"
    )
    assert "  edge_1_3  none" in text.splitlines()
    with pytest.raises(ArtifactError, match="depth"):
        found.build(3, depth=2)


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_an_architecture_is_drawn(ending: str, start: bytes, tmp_path: Path) -> None:
    path = FoundArchitecture("cells", CELL).draw(tmp_path / f"cell.{ending}")
    assert path.read_bytes().startswith(start)
    layers = dict.fromkeys(MacroNetwork(2, channels=(2, 2)).places, "mb3_k3")
    assert FoundArchitecture("macro", layers).draw(tmp_path / f"chain.{ending}").stat().st_size > 1000
    with pytest.raises(ArtifactError, match=r"cell\.txt"):
        FoundArchitecture("cells", CELL).draw(tmp_path / "cell.txt")


def test_what_a_table_recommends_can_be_built(tmp_path: Path, capsys: Any) -> None:
    tree = {
        "name": "table",
        "evaluation": {"type": "table", "table": "nasbench201"},
        "searcher": {"type": "random"},
        "budget": {"evaluations": 3},
        "execution": {"type": "inline"},
        "tracking": {"mlflow": False, "report": False},
    }
    outcome: Any = ms.run(tree, runs=tmp_path)
    learned = ms.load(outcome.phi_path)
    with pytest.raises(ArtifactError, match="num_classes"):
        learned.build()
    module: Any = learned.build(10, channels=(2, 4), cells=1)
    assert {f"evaluation.{place}": name for place, name in module.path.items()} == learned.choices
    as_published: Any = learned.build(2)
    assert len(as_published.layers) == 3 * 5 + 2
    capsys.readouterr()
    assert main(["show", str(outcome.phi_path), "--draw", str(tmp_path / "cell.png")]) == 0
    assert "edge_2_3" in capsys.readouterr().out
    assert (tmp_path / "cell.png").exists()


def test_a_phi_without_an_architecture_says_so(tmp_path: Path, capsys: Any) -> None:
    place = stored_phi(tmp_path)
    with pytest.raises(ArtifactError, match="no architecture"):
        ms.load(place).build()
    assert main(["show", str(place)]) == 0
    assert "initialization" in capsys.readouterr().out
