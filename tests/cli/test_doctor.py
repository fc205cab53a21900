import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from metasearch import cli
from metasearch.cli import doctor
from metasearch.cli.doctor import Finding
from metasearch.tasks import datasets

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def database(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("create table experiments (experiment_id integer)")
    connection.execute("create table runs (run_uuid text)")
    connection.execute("insert into runs values ('a')")
    connection.commit()
    connection.close()


def test_findings_come_with_advice_and_a_failure_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def broken() -> Iterator[Finding]:
        yield Finding("note", "first", "half of it", "do this")
        raise OSError("no such device\nmore")

    for name in ("_devices", "_compiler", "_data"):
        monkeypatch.setattr(doctor, name, lambda: iter(()))
    assert cli.main(["doctor"]) == 0
    assert "doctor --ray" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "_devices", broken)
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "note  first         half of it\n" in text
    assert "-> do this\n" in text
    assert "fail  broken        OSError: no such device\n" in text


def test_without_a_compiler_a_search_works_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    (finding,) = doctor._compiler()
    assert (finding.status, finding.text) == ("note", "none found")
    assert "install" in finding.advice


def test_a_database_that_is_not_there_yet_is_fine_and_is_not_made() -> None:
    (finding,) = doctor._mlflow()
    assert (finding.status, finding.text) == ("ok", "mlflow.db: made by the first search")
    assert not Path("mlflow.db").exists()


def test_a_database_is_read_and_left_alone(tmp_path: Path) -> None:
    database(tmp_path / "mlflow.db")
    before = (tmp_path / "mlflow.db").read_bytes()
    (finding,) = doctor._mlflow()
    assert finding.text == "mlflow.db: 0 experiments, 1 run; metasearch ui"
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_a_file_that_is_no_database_fails(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database, it is a text of some length " * 40)
    (finding,) = doctor._mlflow()
    assert finding.status == "fail"
    assert "move the file away" in finding.advice


def test_a_server_that_does_not_answer_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    (finding,) = doctor._mlflow()
    assert finding.status == "note"
    assert "catches up" in finding.advice


def test_data_are_verified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METASEARCH_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    for file in datasets.describe("mnist").files:
        (tmp_path / "mnist" / file.name).write_text("other")
    findings = {finding.text.partition(":")[0]: finding for finding in doctor._data()}
    assert findings["omniglot"].status == "ok"
    assert "checksums right" in findings["omniglot"].text
    assert findings["mnist"].status == "note"
