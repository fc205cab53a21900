import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metasearch.core.errors import ResumeError
from metasearch.core.faults import VARIABLE
from metasearch.tracking.checkpoints import Checkpoints, load_checkpoint

SAVE_TWO = """
import sys
from pathlib import Path
from metasearch.tracking.checkpoints import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]))
for step in (1, 2):
    checkpoints.save(step, {"step": step})
"""


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


def saved(checkpoints: Checkpoints, steps: range) -> None:
    for step in steps:
        checkpoints.save(step, {"step": step})


def test_a_checkpoint_comes_back(checkpoints: Checkpoints) -> None:
    path = checkpoints.save(12, {"phi": {"w": torch.arange(3.0)}, "n": (1, None)})
    assert path.name == "00000012"
    tree = load_checkpoint(path)
    assert tree["phi"]["w"].tolist() == [0, 1, 2]
    assert tree["n"] == (1, None)


def test_the_newest_two_the_best_and_powers_of_two_are_kept(checkpoints: Checkpoints) -> None:
    for count in range(1, 14):
        checkpoints.save(count * 10, {}, best=count == 6)
    assert checkpoints.steps() == [10, 20, 40, 60, 80, 120, 130]
    assert checkpoints.best() == checkpoints.path(60)


def test_a_best_that_was_beaten_is_let_go(checkpoints: Checkpoints) -> None:
    saved(checkpoints, range(1, 4))
    checkpoints.mark_best(3)
    saved(checkpoints, range(4, 8))
    checkpoints.mark_best(7)
    saved(checkpoints, range(8, 11))
    assert checkpoints.steps() == [1, 2, 4, 7, 8, 9, 10]


def test_counting_goes_on_after_a_resume_as_if_nothing_had_happened(checkpoints: Checkpoints) -> None:
    for step in range(1, 10):
        Checkpoints(checkpoints.folder).save(step, {})
        Checkpoints(checkpoints.folder).save(step, {"again": True})
    assert checkpoints.steps() == [1, 2, 4, 8, 9]
    assert load_checkpoint(checkpoints.path(9)) == {"again": True}


def test_latest_may_be_limited_to_a_step(checkpoints: Checkpoints) -> None:
    assert checkpoints.latest() is None
    assert checkpoints.best() is None
    saved(checkpoints, range(10, 13))
    assert checkpoints.latest() == checkpoints.path(12)
    assert checkpoints.latest(11) == checkpoints.path(11)
    assert checkpoints.latest(9) is None


def test_a_step_without_checkpoint_cannot_be_the_best(checkpoints: Checkpoints) -> None:
    saved(checkpoints, range(1, 2))
    with pytest.raises(ValueError, match=r"\[1\]"):
        checkpoints.mark_best(5)


@pytest.mark.parametrize("name", ["meta.json", "state.json", "tensors.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_checkpoint_says_what_to_do(checkpoints: Checkpoints, name: str, damage: str) -> None:
    path = checkpoints.save(1, {"w": torch.ones(2)})
    if damage == "missing":
        (path / name).unlink()
    else:
        (path / name).write_bytes((path / name).read_bytes()[:-1])
    with pytest.raises(ResumeError, match="delete this folder to go on from the one before"):
        load_checkpoint(path)


def test_a_newer_format_is_refused(checkpoints: Checkpoints) -> None:
    path = checkpoints.save(1, {})
    meta = path / "meta.json"
    meta.write_text(meta.read_text().replace('"format":1', '"format":2'))
    with pytest.raises(ResumeError, match=r"format 2.*upgrade"):
        load_checkpoint(path)


def test_a_tree_that_cannot_be_saved_leaves_the_old_checkpoint(checkpoints: Checkpoints) -> None:
    path = checkpoints.save(1, {"a": 1})
    with pytest.raises(TypeError, match=r"state\.a"):
        checkpoints.save(1, {"a": object()})
    assert load_checkpoint(path) == {"a": 1}


@pytest.mark.parametrize(("passage", "steps"), [(1, []), (2, [1]), (3, [1])])
def test_a_kill_around_the_rename_leaves_whole_checkpoints_only(tmp_path: Path, passage: int, steps: list[int]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAVE_TWO, str(tmp_path)],
        env={**os.environ, VARIABLE: f"checkpoint.rename:{passage}"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == steps
    assert [load_checkpoint(checkpoints.path(step)) for step in steps] == [{"step": step} for step in steps]
    checkpoints.save(3, {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [f"{step:08d}" for step in [*steps, 3]]
