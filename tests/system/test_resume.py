"""A run that is killed at any moment and resumed equals one that was not."""

import random
import time
from pathlib import Path
from typing import Any

import pytest
from records import content, journal, of_type

from metasearch.core.errors import ConfigError, ResumeError, RunLockedError
from metasearch.rehearsal import replay
from metasearch.resolution import resolve
from metasearch.running import extend, resume, run
from metasearch.tracking import Journal, RunDirectory


@pytest.fixture
def undisturbed(tiny: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return content(run(resolve(tiny), root=tmp_path / "whole").directory.path)


@pytest.mark.parametrize(
    "fault",
    [
        "journal.write:1",  # the start itself
        "journal.write:2",
        "journal.write:7",
        "journal.after:6",  # an evaluation that nobody was told of
        "journal.after:11",
        "checkpoint.rename:1",
        "checkpoint.rename:2",
        "checkpoint.rename:5",
        "journal.write:26",  # a test record
    ],
)
def test_a_driver_killed_at_a_fault_point_resumes_to_the_same_end(
    fault: str, tiny: dict[str, Any], undisturbed: dict[str, Any], drivers: Any
) -> None:
    path = drivers.until_dead(tiny, fault)
    outcome = resume(path)
    assert outcome.status == "finished"
    assert content(path) == undisturbed


def test_a_driver_killed_again_and_again_at_random_moments_resumes_to_the_same_end(
    tiny: dict[str, Any], tmp_path: Path, drivers: Any
) -> None:
    tiny["budget"] = {"steps": 60}
    whole = content(run(resolve(tiny), root=tmp_path / "whole").directory.path)
    draw = random.Random(0)
    path = None
    for _ in range(4):
        process = drivers.start(tiny, run=path)
        path = path or _appears(drivers)
        before = _size(path)
        while process.is_alive() and _size(path) <= before:
            time.sleep(0.005)
        time.sleep(draw.uniform(0.0, 0.3))
        process.kill()
        process.join()
    resume(path)
    ended = content(path)
    assert ended.pop("ends")[-1] == whole.pop("ends")[-1] == "finished"
    assert ended == whole


def _appears(drivers: Any) -> Path:
    deadline = time.monotonic() + 60
    while not (drivers.root.exists() and any(drivers.root.glob("*/journal.jsonl"))):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return drivers.run()


def _size(path: Path) -> int:
    journal_path = path / "journal.jsonl"
    return journal_path.stat().st_size if journal_path.exists() else 0


def test_a_second_driver_is_refused_while_the_first_one_works(tiny: dict[str, Any], drivers: Any) -> None:
    tiny["budget"] = {"steps": 100_000}
    process = drivers.start(tiny)
    try:
        deadline = time.monotonic() + 60
        while not (drivers.root.exists() and any(drivers.root.glob("*/checkpoints/0*"))):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(RunLockedError, match=str(process.pid)):
            resume(drivers.run())
    finally:
        process.kill()
        process.join()


def test_resuming_under_another_configuration_fails_loudly(tiny: dict[str, Any], drivers: Any) -> None:
    path = drivers.until_dead(tiny, "journal.after:11")
    config = path / "config.yaml"
    config.write_text(config.read_text().replace("value: 0.01", "value: 0.02"))
    with pytest.raises(ResumeError, match="computed again"):
        resume(path)


def test_resuming_a_finished_run_changes_nothing(tiny: dict[str, Any], tmp_path: Path) -> None:
    path = run(resolve(tiny), root=tmp_path).directory.path
    before = content(path)
    assert resume(path).status == "finished"
    after = content(path)
    assert {**after, "ends": before["ends"]} == before


def test_extending_equals_a_longer_run(tiny: dict[str, Any], tmp_path: Path) -> None:
    short = run(resolve({**tiny, "budget": {"steps": 6}, "test": None}), root=tmp_path / "a").directory.path
    extend(short, ["budget.steps=9"])
    whole = run(resolve({**tiny, "budget": {"steps": 9}, "test": None}), root=tmp_path / "b").directory.path
    for type_ in ("ask", "evaluation", "validation"):
        assert of_type(short, type_) == of_type(whole, type_)
    assert content(short)["phi"] == content(whole)["phi"]


def test_an_extended_search_takes_its_test_again_and_baselines_once(tiny: dict[str, Any], tmp_path: Path) -> None:
    short = run(resolve({**tiny, "budget": {"steps": 3}}), root=tmp_path / "a").directory.path
    extended = extend(short, ["budget.steps=8"])
    whole = run(resolve({**tiny, "budget": {"steps": 8}}), root=tmp_path / "b")
    assert extended.results is not None
    assert whole.results is not None
    figures = [{name: one["test"][name] for name in ("L", "L_ci95")} for one in (extended.results, whole.results)]
    assert figures[0] == figures[1]
    assert [record["name"] for record in of_type(short, "test")] == ["metasearch", "random", "metasearch"]


def test_extend_changes_the_budget_only(tiny: dict[str, Any], tmp_path: Path) -> None:
    path = run(resolve({**tiny, "budget": {"steps": 2}}), root=tmp_path).directory.path
    with pytest.raises(ConfigError, match="budget only"):
        extend(path, ["searcher.lr=1"])


def test_replay_computes_a_recorded_evaluation_again(tiny: dict[str, Any], tmp_path: Path) -> None:
    path = run(resolve(tiny), root=tmp_path).directory.path
    said: list[str] = []
    for evaluation in (0, 3, 7):
        result = replay(path, evaluation, say=said.append)
        assert result["equal"], result
        assert result["from_step"] <= evaluation
    assert "evaluations" in said[0]
    with pytest.raises(ConfigError, match="it has 8"):
        replay(path, 8)


def test_replay_finds_a_record_that_was_changed(tiny: dict[str, Any], tmp_path: Path) -> None:
    path = run(resolve(tiny), root=tmp_path).directory.path
    records = journal(path)
    (path / "journal.jsonl").unlink()
    with Journal.open(path / "journal.jsonl") as written:
        for record in records:
            fields = {key: value for key, value in record.items() if key not in ("n", "time", "elapsed", "type")}
            if record["type"] == "evaluation" and record["id"] == 3:
                fields["L"] += 1e-9
            written.append(record["type"], **fields)
    assert not replay(path, 3, say=lambda text: None)["equal"]


def test_a_run_is_found_by_a_unique_prefix(tiny: dict[str, Any], tmp_path: Path) -> None:
    path = run(resolve({**tiny, "budget": {"steps": 1}}), root=tmp_path).directory.path
    assert RunDirectory.open(path.name[-6:-2], tmp_path).path == path
