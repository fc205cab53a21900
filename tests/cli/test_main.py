import os
import subprocess
import sys
import time
from argparse import Namespace

import pytest

import metasearch
from metasearch import cli
from metasearch.cli import surroundings
from metasearch.core.errors import ConfigError, DataError


def raising(error: BaseException) -> object:
    def command(given: Namespace) -> int:
        raise error

    return command


def test_help_is_answered_within_half_a_second() -> None:
    times = []
    for _ in range(3):
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "metasearch", "--help"], capture_output=True, text=True, check=True
        )
        times.append(time.monotonic() - started)
    assert "doctor" in done.stdout
    assert min(times) < 0.5


def test_without_a_command_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert capsys.readouterr().out.startswith("usage: metasearch")


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"metasearch {metasearch.__version__}\n"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            ConfigError("tasks.ways", "expected 2 or more, got 1"),
            2,
            "metasearch: tasks.ways: expected 2 or more, got 1\n",
        ),
        (DataError("it is not there; fetch it"), 1, "metasearch: it is not there; fetch it\n"),
        (KeyboardInterrupt(), 130, "metasearch: stopped\n"),
    ],
)
def test_an_error_is_one_clear_line_and_a_status(
    error: BaseException, status: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(surroundings, "recipes", raising(error))
    assert cli.main(["recipes"]) == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("arguments", [["--debug", "recipes"], ["recipes", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(surroundings, "recipes", raising(DataError("broken")))
    assert cli.main(arguments) == 1
    assert "Traceback" in (said := capsys.readouterr().err)
    assert said.endswith("metasearch: broken\n")


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "recipes", raising(RuntimeError("a mistake")))
    with pytest.raises(RuntimeError, match="a mistake"):
        cli.main(["recipes"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "FILE"),
        (["run", "a.yaml", "--workers", "0"], "from 1 on"),
        (["run", "a.yaml", "--workers", "two"], "expected a whole number, got 'two'"),
        (["extend", "RUN"], "--set"),
        (["replay", "RUN"], "--evaluation"),
        (["export", "PHI"], "--to"),
        (["fly"], "invalid choice: 'fly'"),
    ],
)
def test_wrong_arguments_are_refused_with_what_was_expected(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "metasearch", "recipes"],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(write)
    assert done.stderr == ""
