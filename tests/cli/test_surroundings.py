from pathlib import Path

import pytest

from metasearch import cli, recipes
from metasearch.tasks import datasets

Captured = pytest.CaptureFixture[str]


def test_every_recipe_is_listed_with_what_it_is(capsys: Captured) -> None:
    assert cli.main(["recipes"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line)
    assert set(recipes.names()) <= set(lines)
    assert all(lines[name] for name in recipes.names())


def test_every_data_set_is_listed_with_place_and_licence(capsys: Captured) -> None:
    assert cli.main(["datasets"]) == 0
    text = capsys.readouterr().out
    for name, dataset in datasets.DATASETS.items():
        assert f"{name}: {dataset.title}" in text
        assert dataset.licence in text


def test_getting_a_data_set_that_is_here_prints_its_place(capsys: Captured) -> None:
    assert cli.main(["datasets", "get", "omniglot"]) == 0
    assert Path(capsys.readouterr().out.strip()).resolve() == datasets.locate("omniglot").resolve()


def test_getting_a_data_set_says_what_will_be_fetched_first(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(datasets, "place", lambda name: None)
    monkeypatch.setattr(datasets, "get", lambda name: Path("/cache") / name)
    assert cli.main(["datasets", "get", "mnist"]) == 0
    text = capsys.readouterr().out
    assert "licence: not stated" in text
    assert text.endswith("/cache/mnist\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["get"], "which data set? valid: "),
        (["get", "omniglt"], "did you mean 'omniglot'?"),
        (["list", "omniglot"], "metasearch datasets get omniglot"),
    ],
)
def test_a_mistaken_request_is_answered_with_a_hint(arguments: list[str], said: str, capsys: Captured) -> None:
    assert cli.main(["datasets", *arguments]) == 2
    assert said in capsys.readouterr().err
