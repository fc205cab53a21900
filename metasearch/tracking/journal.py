"""The record of a run: one JSON object a line, appended before anything acts on it.

A record outlives its process from the moment it is appended. For the whole machine to die, records are flushed to disk
in groups, since a flush can take longer than an evaluation: the first record, then those appended 0.2 s or more after
the last flush, and whenever :meth:`Journal.sync` is called (after an evaluation that took that long, when the driver
waits, before a checkpoint, before phi is stored, before MLflow sees them). A power cut takes the evaluations of the
last fraction of a second, which resuming does again.

Each line ends in the number of records that were flushed when it was written, and the CRC-32 of all that stands before
it, so damage is seen. A process that dies while it writes leaves a torn last line, and a power cut may leave damage
anywhere among the lines that had not been flushed: the next writer cuts that off, readers pass over it. Damage anywhere
else is an error, since a record that somebody may have acted on is gone.
"""

from __future__ import annotations

import logging
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from metasearch.core.errors import JournalError
from metasearch.core.faults import fault_armed, fault_point
from metasearch.core.files import SYNC_S, from_json, sync, to_json

__all__ = ["Journal", "Record", "read", "tail"]

Record = dict[str, Any]
"""``n`` (place in the journal, from 0), ``time`` (unix seconds), ``elapsed`` (seconds of driving, summed over resumes),
``type``, and the fields of that type. nan and inf are floats; tuples have become lists."""

_OWN = ("n", "time", "elapsed", "type", "synced", "crc")
_log = logging.getLogger(__name__)


class Journal:
    """The writing end of a journal; one process a run may hold it (see ``RunDirectory.lock``).

    An append is one write, whatever the length of the journal, and at most five times a second a flush to disk.
    """

    def __init__(self, path: Path, descriptor: int, following: int, elapsed: float) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        self._next = following
        self._elapsed = elapsed
        self._opened = self._synced_at = time.monotonic()
        self._synced = following  # so many records are on disk

    @classmethod
    def open(cls, path: Path | str) -> Journal:
        """Opens a journal for writing, creating it if need be; a torn last line is cut off.

        Raises:
            JournalError: if a record that had been flushed is damaged, naming file and line.
        """
        path = Path(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            records, end = tail(path)
            torn = os.fstat(descriptor).st_size - end
            if torn:
                _log.warning(
                    "%s: cut off %d bytes that an interrupted write left after record %d", path, torn, len(records) - 1
                )
                os.ftruncate(descriptor, end)
            os.fsync(descriptor)
            sync(path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, len(records), records[-1]["elapsed"] if records else 0.0)

    def __len__(self) -> int:
        return self._next

    @property
    def elapsed(self) -> float:
        """Seconds of driving so far: those of earlier drivers, and the time since this one opened the journal."""
        return self._elapsed + time.monotonic() - self._opened

    def append(self, type: str, /, **fields: Any) -> Record:
        """Writes one record and returns it as a reader will see it; when this returns, no end of the process loses it.

        Raises:
            ValueError: if a field has a name that the journal uses itself.
            TypeError: if a field holds something else than plain values.
            JournalError: if the disk refuses; the journal is then closed, and resuming repairs it.
        """
        if taken := [name for name in _OWN if name in fields]:
            raise ValueError(f"a record's fields cannot be called {', '.join(taken)}: the journal sets them itself")
        if type == "end":
            self.sync()  # so that a driver's last record vouches for all before it
        own = {"n": self._next, "time": round(time.time(), 6), "elapsed": round(self.elapsed, 6), "type": type}
        body = to_json({**own, **fields})
        line = f'{body[:-1]},"synced":{self._synced}'
        self._write((f'{line},"crc":"{zlib.crc32((line + "}").encode()):08x}"' + "}\n").encode())
        fault_point("journal.after")
        record: Record = from_json(body)
        return record

    def sync(self) -> None:
        """Flushes to disk what has been appended, so that no end of the machine loses it either.

        Raises:
            JournalError: as :meth:`append` does.
        """
        if self._synced < self._next:
            with self._guarded():
                self._flush()

    def records(self) -> list[Record]:
        """All records so far, read from disk."""
        return read(self.path)

    def close(self) -> None:
        """Gives the file back; the journal can be read but no longer written."""
        if self._descriptor is None:
            return
        try:
            self.sync()
        finally:
            self._release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        with self._guarded() as descriptor:
            if fault_armed("journal.write"):
                half = len(line) // 2
                _write_all(descriptor, line[:half])
                os.fsync(descriptor)
                fault_point("journal.write")
                line = line[half:]
            _write_all(descriptor, line)
            self._next += 1
            if self._next == 1 or time.monotonic() - self._synced_at >= SYNC_S:
                self._flush()

    def _flush(self) -> None:
        assert self._descriptor is not None
        os.fsync(self._descriptor)
        self._synced_at, self._synced = time.monotonic(), self._next

    @contextmanager
    def _guarded(self) -> Iterator[int]:
        """Work on the file; after an error of the disk the journal is closed.

        What reached the disk is unknown then, so nothing may follow it: the next open decides by the checksum.
        """
        if self._descriptor is None:
            raise JournalError(f"{self.path} is closed for writing; open it again, or resume the run")
        try:
            yield self._descriptor
        except OSError as error:
            self._release()
            problem = f"records from {self._synced} on may not be on disk ({error})"
            raise JournalError(f"{self.path}: {problem}; free the disk and resume the run") from error

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read(path: Path | str) -> list[Record]:
    """All records of a journal; needs no lock and may run while another process writes.

    Raises:
        JournalError: if there is no journal, or if a record that had been flushed is damaged.
    """
    return tail(path)[0]


def tail(path: Path | str, offset: int = 0, limit: int | None = None) -> tuple[list[Record], int]:
    """The records that start at a byte offset, at most ``limit`` of them, and the offset from which to go on.

    Raises:
        JournalError: if there is no journal, or a damaged record that had been flushed, or a gap in the numbering.
    """
    path = Path(path)
    records: list[Record] = []
    try:
        with path.open("rb") as file:
            file.seek(offset)
            for line in _lines(file, limit):
                record, _ = _parse(line)
                if record is None:
                    if _flushed(file) > _number(path, offset):
                        raise _damaged(path, offset, "its checksum does not match")
                    break
                if record["n"] != (records[-1]["n"] + 1 if records else record["n"] if offset else 0):
                    raise _damaged(path, offset, f"it has number {record['n']}, which is not the next one")
                records.append(record)
                offset += len(line)
    except FileNotFoundError:
        raise JournalError(f"there is no journal at {path}; expected the journal.jsonl of a run directory") from None
    return records, offset


def _lines(file: BinaryIO, limit: int | None) -> Iterator[bytes]:
    """Whole lines; what follows the last newline is still being written, or was torn."""
    count = 0
    while limit is None or count < limit:
        line = file.readline()
        if not line.endswith(b"\n"):
            return
        count += 1
        yield line


def _parse(line: bytes) -> tuple[Record | None, int]:
    """The record on a line, or None if its checksum does not match, and how many had been flushed before it."""
    body, separator, crc = line.rpartition(b',"crc":"')
    try:
        if not separator or int(crc[:8], 16) != zlib.crc32(body + b"}") or crc[8:] != b'"}\n':
            return None, 0
        record = from_json(body + b"}")
    except ValueError:
        return None, 0
    if not isinstance(record, dict) or not isinstance(record.get("n"), int):
        return None, 0
    return record, record.pop("synced", record["n"])  # before version 0.1 each record was flushed by itself


def _flushed(file: BinaryIO) -> int:
    """How many records the rest of a file says had been flushed."""
    return max((_parse(line)[1] for line in _lines(file, None)), default=0)


def _number(path: Path, offset: int) -> int:
    """The number of the record that starts at a byte offset."""
    with path.open("rb") as file:
        return file.read(offset).count(b"\n")


def _damaged(path: Path, offset: int, what: str) -> JournalError:
    return JournalError(
        f"{path}, line {_number(path, offset) + 1}: this record is damaged ({what}) and others follow it that were "
        f"written when it was on disk, so it is no interrupted write; "
        f"restore the file from a copy, or start the run anew"
    )


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
