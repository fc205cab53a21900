import math
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from metasearch.core.errors import JournalError
from metasearch.core.faults import VARIABLE
from metasearch.tracking.journal import Journal, read, tail

APPEND_FOUR = """
import sys
from metasearch.tracking.journal import Journal
with Journal.open(sys.argv[1]) as journal:
    for number in range(4):
        journal.append("evaluation", id=number)
"""


def filled(path: Path, n: int = 3) -> Path:
    with Journal.open(path) as journal:
        for number in range(n):
            journal.append("evaluation", id=number)
            journal.sync()
    return path


def ids(path: Path) -> list[int]:
    return [record["id"] for record in read(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_records_come_back_as_append_returned_them(path: Path) -> None:
    with Journal.open(path) as journal:
        returned = [
            journal.append("start", run="a", versions={"torch": "2"}),
            journal.append("evaluation", L=0.1 + 0.2, choices={"name": "nan", "shape": (1, 2)}),
        ]
        assert journal.records() == returned
        assert len(journal) == 2
    assert returned[1]["choices"] == {"name": "nan", "shape": [1, 2]}
    assert [(record["n"], record["type"]) for record in returned] == [(0, "start"), (1, "evaluation")]
    assert returned[1]["L"] == 0.1 + 0.2


def test_nan_and_infinities_stay_floats(path: Path) -> None:
    with Journal.open(path) as journal:
        journal.append("evaluation", L=math.nan, metrics={"a": math.inf, "b": -math.inf})
    (record,) = read(path)
    assert math.isnan(record["L"])
    assert record["metrics"] == {"a": math.inf, "b": -math.inf}
    assert '"L":"nan"' in path.read_text()


def test_numbering_and_elapsed_time_go_on_after_a_resume(path: Path) -> None:
    with Journal.open(path) as journal:
        time.sleep(0.03)
        first = journal.append("evaluation")
    time.sleep(0.1)
    with Journal.open(path) as journal:
        second = journal.append("event", event="resume")
    assert second["n"] == 1
    assert first["elapsed"] >= 0.03
    assert first["elapsed"] <= second["elapsed"] < first["elapsed"] + 0.09


@pytest.mark.parametrize("keep", [1, 20, -1])
def test_a_torn_last_line_is_ignored_by_readers_and_cut_off_by_the_next_writer(path: Path, keep: int) -> None:
    filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:keep])
    assert ids(path) == [0, 1]
    assert path.stat().st_size > len(b"".join(lines[:2]))
    with Journal.open(path) as journal:
        assert journal.append("evaluation", id=9)["n"] == 2
    assert ids(path) == [0, 1, 9]


def test_a_last_line_of_zeros_is_torn_too(path: Path) -> None:
    filled(path)
    with path.open("ab") as file:
        file.write(b"\0" * 30 + b"\n")
    assert ids(path) == [0, 1, 2]
    with Journal.open(path) as journal:
        journal.append("evaluation", id=9)
    assert ids(path) == [0, 1, 2, 9]


def test_damage_in_the_middle_names_file_and_line(path: Path) -> None:
    filled(path, 4)
    path.write_bytes(path.read_bytes().replace(b'"id":1', b'"id":7'))
    before = path.read_bytes()
    for opened in (read, Journal.open):
        with pytest.raises(JournalError, match=r"journal\.jsonl, line 2: .*checksum"):
            opened(path)
    assert path.read_bytes() == before


def test_a_missing_line_is_damage(path: Path) -> None:
    filled(path, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2] + lines[3])
    with pytest.raises(JournalError, match=r"line 2: .*number 2"):
        read(path)


def test_tail_goes_on_where_it_stopped(path: Path) -> None:
    filled(path, 3)
    first, offset = tail(path, limit=2)
    assert [record["id"] for record in first] == [0, 1]
    assert tail(path, offset)[0][0]["id"] == 2
    _, end = tail(path, offset)
    assert tail(path, end) == ([], end)
    with Journal.open(path) as journal:
        journal.append("evaluation", id=3)
    assert [record["id"] for record in tail(path, end)[0]] == [3]


def test_tail_waits_for_a_line_that_is_being_written(path: Path) -> None:
    filled(path, 2)
    whole = path.read_bytes()
    _, offset = tail(path, limit=1)
    path.write_bytes(whole[:-5])
    assert tail(path, offset) == ([], offset)
    path.write_bytes(whole)
    assert [record["id"] for record in tail(path, offset)[0]] == [1]


def test_damage_seen_by_tail_names_the_line_in_the_file(path: Path) -> None:
    filled(path, 4)
    _, offset = tail(path, limit=2)
    path.write_bytes(path.read_bytes().replace(b'"id":2', b'"id":7'))
    with pytest.raises(JournalError, match="line 3"):
        tail(path, offset)


def test_a_missing_journal_is_an_error(path: Path) -> None:
    with pytest.raises(JournalError, match="there is no journal"):
        read(path)


@pytest.mark.parametrize("name", ["n", "time", "elapsed", "crc"])
def test_fields_of_the_journal_itself_are_refused(path: Path, name: str) -> None:
    with Journal.open(path) as journal, pytest.raises(ValueError, match=name):
        journal.append("event", **{name: 1})
    assert read(path) == []


def test_a_refused_record_leaves_no_trace(path: Path) -> None:
    with Journal.open(path) as journal:
        with pytest.raises(TypeError):
            journal.append("event", detail=object())
        assert journal.append("event", detail=1)["n"] == 0


def test_a_closed_journal_refuses_records(path: Path) -> None:
    journal = Journal.open(path)
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        journal.append("event")


def test_a_full_disk_closes_the_journal_and_the_next_open_repairs_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(path)
    journal.append("evaluation", id=0)
    real = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(JournalError, match="No space left"):
            journal.append("evaluation", id=1)
    with pytest.raises(JournalError, match="closed"):
        journal.append("evaluation", id=1)
    with Journal.open(path) as again:
        again.append("evaluation", id=1)
    assert ids(path) == [0, 1]


@pytest.mark.parametrize(("fault", "on_disk"), [("journal.write:3", [0, 1]), ("journal.after:3", [0, 1, 2])])
def test_a_kill_leaves_whole_records_only(path: Path, fault: str, on_disk: list[int]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", APPEND_FOUR, str(path)], env={**os.environ, VARIABLE: fault}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert ids(path) == on_disk
    torn = path.read_bytes().rpartition(b"\n")[2]
    assert bool(torn) == fault.startswith("journal.write")
    with Journal.open(path) as journal:
        journal.append("evaluation", id=99)
    assert ids(path) == [*on_disk, 99]


def test_an_append_writes_once_and_never_reads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    real = os.write

    def counted(descriptor: int, data: bytes) -> int:
        writes.append(len(data))
        return real(descriptor, data)

    with Journal.open(path) as journal:
        monkeypatch.setattr(os, "write", counted)
        monkeypatch.setattr(Path, "open", None)
        for number in range(5):
            journal.append("evaluation", id=number)
    assert len(writes) == 5


def test_records_are_flushed_to_disk_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []  # bytes of the journal at each flush
    now = [100.0]
    path = tmp_path / "journal.jsonl"
    monkeypatch.setattr("metasearch.tracking.journal.time.monotonic", lambda: now[0])
    with Journal.open(path) as journal:
        monkeypatch.setattr("metasearch.tracking.journal.os.fsync", lambda _: flushed.append(path.stat().st_size))
        for step in range(100):
            journal.append("ask", step=step)
        assert len(read(path)) == 100  # written, so the end of the process takes none of them
        assert len(flushed) == 1
        assert flushed.pop() == path.read_bytes().index(b"\n") + 1  # the first
        now[0] += 0.2
        journal.append("ask", step=100)
        assert flushed == [path.stat().st_size]
        journal.append("ask", step=101)
        journal.sync()
        journal.sync()
        assert flushed[1:] == [path.stat().st_size]
        journal.append("ask", step=102)
        before = path.stat().st_size
        journal.append("end", status="finished")
        assert flushed[2:] == [before]
    assert flushed[3:] == [path.stat().st_size]


@pytest.mark.parametrize("zeros", [False, True])
def test_what_a_power_cut_leaves_of_records_that_were_not_flushed_is_cut_off(path: Path, zeros: bool) -> None:
    filled(path, 2)
    with Journal.open(path) as journal:
        for number in range(2, 6):
            journal.append("evaluation", id=number)
    whole = path.read_bytes()
    damaged = whole.replace(b'"id":3', b'"id":7')
    if zeros:
        start, end = whole.index(b'"id":2'), whole.index(b'"id":4')
        damaged = whole[:start] + bytes(end - start) + whole[end:]
    path.write_bytes(damaged)
    kept = [0, 1] if zeros else [0, 1, 2]
    assert ids(path) == kept
    _, offset = tail(path, limit=2)
    assert [record["id"] for record in tail(path, offset)[0]] == kept[2:]
    with Journal.open(path) as journal:
        journal.append("evaluation", id=9)
    assert ids(path) == [*kept, 9]
    path.write_bytes(whole.replace(b'"id":1', b'"id":7'))  # this one had been flushed
    with pytest.raises(JournalError, match="line 2"):
        read(path)


def test_a_journal_whose_records_were_flushed_one_by_one_is_read(path: Path) -> None:
    filled(path, 3)
    lines = []
    for line in path.read_bytes().splitlines():
        body = line.partition(b',"synced":')[0]
        lines.append(body + b',"crc":"%08x"}\n' % zlib.crc32(body + b"}"))
    path.write_bytes(b"".join(lines))
    assert ids(path) == [0, 1, 2]
    path.write_bytes(lines[0] + lines[1].replace(b'"id":1', b'"id":7') + lines[2])
    with pytest.raises(JournalError, match="line 2"):
        read(path)
