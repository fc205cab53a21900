from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import metasearch
from metasearch import cli
from metasearch.core.values import TaskSpec
from metasearch.testing.phi import stored_phi
from metasearch.tracking import Journal, RunDirectory

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recorded(name: str, *, seed: int = 0) -> RunDirectory:
    run = RunDirectory.create("runs", name, f"name: {name}\nseed: {seed}\nbudget: {{steps: 1}}\n")
    with Journal.open(run.journal_path) as journal:
        journal.append("start", run=run.path.name, name=name, versions={}, numerics={}, workers=1, hostname="here")
        journal.append("ask", step=0, proposals=[{"id": 0, "seed": 1, "choices": {}}])
        journal.append(
            "evaluation", step=0, id=0, status="ok", L=0.5, objective=0.5, metrics={}, tasks=4, seconds=0.1,
            gradient=None, diverged=[], failure=None,
        )  # fmt: skip
        journal.append(
            "validation", step=1, L=0.25, L_ci95=0.1, metrics={"accuracy": 0.9}, metrics_ci95={"accuracy": 0.01},
            episodes=10, best=True,
        )  # fmt: skip
        journal.append("end", status="finished", reason="")
    return run


def test_runs_lists_what_there_is_with_the_best_figure(capsys: Captured) -> None:
    run = recorded("demo")
    assert cli.main(["runs"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if run.path.name in line)
    for part in ("finished", "accuracy 90.00 %"):
        assert part in line


def test_runs_of_a_group_are_listed_under_its_name(capsys: Captured) -> None:
    RunDirectory.create("runs/demo-group-1", "demo", "name: demo\n", folder="seed-0")
    Path("runs/demo-group-1/group.json").write_text("{}")
    assert cli.main(["runs"]) == 0
    assert "demo-group-1/seed-0" in capsys.readouterr().out


def test_without_runs_it_says_how_to_start_one(capsys: Captured) -> None:
    assert cli.main(["runs", "--runs", "nowhere"]) == 0
    assert capsys.readouterr().out == "no runs in nowhere; start one with: metasearch run FILE\n"


@pytest.mark.parametrize(("form", "mark"), [("text", "run  "), ("markdown", "| run |"), ("html", "<!doctype html>")])
def test_compare_puts_runs_side_by_side(form: str, mark: str, capsys: Captured) -> None:
    first, second = recorded("demo", seed=1), recorded("demo", seed=2)
    assert cli.main(["compare", first.id, str(second.path), "--format", form]) == 0
    text = capsys.readouterr().out
    assert mark in text.lower()
    assert first.id[-6:] in text
    assert second.id[-6:] in text


def test_report_writes_the_page_and_prints_where(capsys: Captured) -> None:
    run = recorded("demo")
    assert cli.main(["report", "demo"]) == 0
    assert capsys.readouterr().out == f"runs/{run.path.name}/report.html\n"
    assert "demo" in run.report_path.read_text()


def test_a_run_that_is_not_there_is_named_with_those_that_are(capsys: Captured) -> None:
    run = recorded("demo")
    assert cli.main(["report", "other"]) == 2
    error = capsys.readouterr().err
    assert "no run 'other' in runs" in error
    assert run.path.name in error


def test_export_writes_the_initialization_as_a_state_dict(tmp_path: Path, capsys: Captured) -> None:
    phi = metasearch.load(stored_phi(tmp_path / "phi"))
    expected = phi.initialization()
    assert cli.main(["export", "phi", "--to", "out/weights.pt"]) == 0
    assert cli.main(["export", "phi", "--to", "out/weights.safetensors"]) == 0
    for state in (torch.load("out/weights.pt"), load_file("out/weights.safetensors")):
        assert {name: value.tolist() for name, value in state.items()} == {
            name: value.tolist() for name, value in expected.items()
        }
    assert 'load it with model.load_state_dict(torch.load("out/weights.pt"))' in capsys.readouterr().out


def test_export_to_a_folder_keeps_all_of_phi(tmp_path: Path) -> None:
    phi = metasearch.load(stored_phi(tmp_path / "phi"))
    assert cli.main(["export", "phi", "--to", "copy"]) == 0
    assert metasearch.load("copy").manifest.hash == phi.manifest.hash


def test_export_with_pictures_writes_a_classifier_to_serve(tmp_path: Path, capsys: Captured) -> None:
    spec = TaskSpec("classification", (1, 6, 6), 3, 3, 6)
    phi = metasearch.load(stored_phi(tmp_path / "phi", spec=spec))
    for index, name in enumerate(("a", "b", "c", "d")):
        (tmp_path / "own" / name).mkdir(parents=True)
        Image.new("L", (9, 9), 60 * index).save(tmp_path / "own" / name / "1.png")
    assert cli.main(["export", "phi", "--to", "served", "--support", "own"]) == 0
    shown = capsys.readouterr().out
    assert "4 pictures of 4 classes learned: a, b, c, d" in shown
    assert "mlflow models serve -m served --env-manager local" in shown
    again = metasearch.load_fitted("served/artifacts/fitted")
    few = phi.classifier().fit(*phi.labelled_images("own"))
    assert again.predict(phi.images("own/b")).tolist() == few.predict(phi.images("own/b")).tolist()
    assert cli.main(["export", "phi", "--to", "served.pt", "--support", "own"]) == 2
    assert "'served.pt' has an ending; with --support" in capsys.readouterr().err


def test_export_refuses_a_format_that_it_does_not_know(tmp_path: Path, capsys: Captured) -> None:
    stored_phi(tmp_path / "phi")
    assert cli.main(["export", "phi", "--to", "weights.onnx"]) == 2
    assert "expected a folder, .safetensors, .pt or .json" in capsys.readouterr().err


def test_a_phi_that_is_not_there_is_an_error_of_its_own(capsys: Captured) -> None:
    assert cli.main(["export", "nothing", "--to", "copy"]) == 1
    assert "nothing to load at 'nothing'" in capsys.readouterr().err
