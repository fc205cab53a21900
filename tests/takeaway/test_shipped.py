"""The learned optimizers that come with the package: found by name, small, described, and able to train something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import metasearch as ms
from metasearch import cli
from metasearch.artifacts import shipped
from metasearch.core.errors import ArtifactError, ConfigError

NAMES = ["lstm-v1", "small-mlp-v1"]


def test_they_are_listed_with_what_they_are() -> None:
    found = ms.optimizers()
    assert list(found) == NAMES
    assert all(len(about) > 20 for about in found.values())


@pytest.mark.parametrize("name", NAMES)
def test_each_is_small_and_holds_an_update_rule_only(name: str) -> None:
    files = {path.name: path.stat().st_size for path in shipped.folder(name).iterdir()}
    assert set(files) == {"CARD.md", "manifest.json", "phi.safetensors"}
    assert sum(files.values()) < 200_000
    manifest = json.loads((shipped.folder(name) / "manifest.json").read_text())
    assert {tensor.partition(".")[0] for tensor in manifest["tensors"]} == {"update_rule"}
    assert "/" not in json.dumps(manifest["config"].get("execution", {}))  # nothing of the machine it was made on


@pytest.mark.parametrize("name", NAMES)
def test_each_card_says_what_for_and_what_not(name: str) -> None:
    card = shipped.card(name)
    assert card.startswith(f"# {name}: ")
    headings = [line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")]
    assert headings == ["Trained on", "Where it beats tuned Adam", "Where it fails", "How to use it"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_gives_what_the_stored_phi_gives(name: str) -> None:
    models = [model() for _ in range(3)]
    optimizers = [
        ms.LearnedOptimizer(name, models[0].parameters(), lr=0.5, weight_decay=0.1),
        ms.LearnedOptimizer(shipped.folder(name), models[1].parameters(), lr=0.5, weight_decay=0.1),
        ms.load(name).optimizer(models[2].parameters(), lr=0.5, weight_decay=0.1),
    ]
    for one, optimizer in zip(models, optimizers, strict=True):
        trained(one, optimizer, 3)
    for other in models[1:]:
        assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_each_trains_a_network_that_it_has_never_seen(name: str) -> None:
    fresh, learned = model(), model()
    before = loss(fresh).item()
    assert trained(learned, ms.LearnedOptimizer(name, learned.parameters()), 60) < 0.5 * before


def test_an_unknown_name_lists_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"nothing to load at 'big-mlp-v1'.*lstm-v1, small-mlp-v1"):
        ms.LearnedOptimizer("big-mlp-v1", model().parameters())
    with pytest.raises(ConfigError, match="small-mlp-v1"):
        shipped.card("small-mlp-v2")


def test_the_command_line_lists_them_and_shows_a_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["optimizers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == NAMES
    assert cli.main(["optimizers", "small-mlp-v1"]) == 0
    assert capsys.readouterr().out.strip() == shipped.card("small-mlp-v1").strip()
    assert cli.main(["optimizers", "small-mlp"]) == 2
    assert "did you mean 'small-mlp-v1'" in capsys.readouterr().err


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def loss(model: nn.Module) -> torch.Tensor:
    """Whether the first two of eight numbers lie inside, on one or on the other side of a curve."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(96, 8, generator=draw)
    y = (x[:, 0] + x[:, 1] > 0.5).long() + (x[:, 0] - x[:, 1] > 0.5).long()
    return F.cross_entropy(model(x), y)


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    """The loss after some steps."""
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    return loss(model).item()
