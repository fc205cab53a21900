import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from metasearch.core.errors import ConfigError, RunLockedError
from metasearch.tracking.journal import Journal
from metasearch.tracking.rundir import RunDirectory

HOLD = """
import sys
from metasearch.tracking.rundir import RunDirectory
with RunDirectory(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def made(root: Path, folder: str) -> RunDirectory:
    return RunDirectory.create(root, "x", "a: 1\n", folder=folder)


def test_a_new_run_has_a_dated_folder_and_its_configuration(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "runs", "omniglot maml/1", "seed: 0\n")
    assert re.fullmatch(r"omniglot-maml-1-\d{8}-\d{6}-[0-9a-f]{6}", run.path.name)
    assert run.config_path.read_text() == "seed: 0\n"
    assert run.id == run.path.name
    assert run.name == "omniglot-maml-1"


def test_two_runs_of_one_name_never_share_a_folder(tmp_path: Path) -> None:
    assert len({RunDirectory.create(tmp_path, "same", "").path for _ in range(5)}) == 5


def test_a_folder_given_by_name_must_be_new(tmp_path: Path) -> None:
    made(tmp_path, "inner")
    with pytest.raises(FileExistsError):
        made(tmp_path, "inner")


@pytest.mark.parametrize("reference", ["a-20260101-000000-abc123", "abc123", "abc", "a-2026", "a"])
def test_a_run_is_found_by_id_short_id_or_prefix(tmp_path: Path, reference: str) -> None:
    made(tmp_path, "b-20260101-000000-fed123")
    expected = made(tmp_path, "a-20260101-000000-abc123")
    assert RunDirectory.open(reference, tmp_path).path == expected.path


def test_a_run_is_found_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path / "runs", "a-20260101-000000-abc123")
    monkeypatch.chdir(tmp_path)
    for reference in (run.path, f"runs/{run.path.name}", f"runs/{run.path.name}/"):
        assert RunDirectory.open(reference, tmp_path / "elsewhere").path == run.path


def test_an_ambiguous_reference_lists_the_candidates_only(tmp_path: Path) -> None:
    for folder in ("a-20260101-000000-abc123", "a-20260101-000001-abc999", "b-20260101-000000-fed123"):
        made(tmp_path, folder)
    with pytest.raises(ConfigError, match="fits 2 runs") as error:
        RunDirectory.open("abc", tmp_path)
    assert "a-20260101-000000-abc123, a-20260101-000001-abc999" in str(error.value)
    assert "fed123" not in str(error.value)


@pytest.mark.parametrize("reference", ["zzz", ""])
def test_an_unknown_reference_lists_all_runs(tmp_path: Path, reference: str) -> None:
    made(tmp_path, "a-20260101-000000-abc123")
    with pytest.raises(ConfigError, match="a-20260101-000000-abc123"):
        RunDirectory.open(reference, tmp_path)
    with pytest.raises(ConfigError, match="none"):
        RunDirectory.open(reference, tmp_path / "nothing-here")


def test_a_renamed_folder_stays_the_same_run(tmp_path: Path) -> None:
    run = made(tmp_path, "a-20260101-000000-abc123")
    with Journal.open(run.journal_path) as journal:
        journal.append("start", run=run.id, name="long name")
    moved = RunDirectory(run.path.rename(tmp_path / "kept"))
    assert moved.id == "a-20260101-000000-abc123"
    assert moved.name == "long name"


def test_a_second_driver_is_told_who_the_first_is(tmp_path: Path) -> None:
    run = made(tmp_path, "a")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert run.locked()
    with pytest.raises(RunLockedError, match=f"process {holder.pid} on host {socket.gethostname()}"), run.lock():
        pass
    holder.kill()
    holder.communicate()
    assert not run.locked()
    with run.lock():
        assert run.locked()
        assert str(os.getpid()) in run.lock_path.read_text()
    assert not run.locked()


def test_one_process_cannot_drive_a_run_twice(tmp_path: Path) -> None:
    run = made(tmp_path, "a")
    with run.lock(), pytest.raises(RunLockedError), RunDirectory(run.path).lock():
        pass


def test_results_come_back_with_nan_and_inf(tmp_path: Path) -> None:
    run = made(tmp_path, "a")
    assert run.read_results() is None
    run.write_results({"format": 1, "test": {"L": math.inf}})
    assert run.read_results() == {"format": 1, "test": {"L": math.inf}}
    assert '"inf"' in run.results_path.read_text()


def test_results_that_are_no_json_are_named(tmp_path: Path) -> None:
    run = made(tmp_path, "a")
    run.results_path.write_text("{")
    with pytest.raises(ConfigError, match=r"results\.json is not JSON"):
        run.read_results()


def test_checkpoints_are_in_the_run(tmp_path: Path) -> None:
    run = made(tmp_path, "a")
    assert run.latest_checkpoint() is None
    path = run.save_checkpoint(3, {"a": 1}, best=True)
    assert path == run.path / "checkpoints" / "00000003"
    assert run.latest_checkpoint(5) == path
    assert run.load_checkpoint("checkpoints/00000003") == run.load_checkpoint(path) == {"a": 1}
