"""What two runs are compared by."""

from pathlib import Path
from typing import Any

from metasearch import artifacts
from metasearch.core.values import fingerprint
from metasearch.tracking import read

WHEN = ("n", "time", "elapsed", "seconds", "crc")


def journal(run: Path) -> list[dict[str, Any]]:
    return read(run / "journal.jsonl")


def of_type(run: Path, type_: str) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in one.items() if key not in WHEN} for one in journal(run) if one["type"] == type_
    ]


def sequence(run: Path) -> list[tuple[Any, ...]]:
    """The L(phi) sequence, bit for bit, with the gradients' hashes."""
    return [(one["id"], one["L"].hex(), (one["gradient"] or {}).get("hash")) for one in of_type(run, "evaluation")]


def content(run: Path) -> dict[str, Any]:
    """All that an undisturbed run and a resumed one have in common.

    What was asked, found, validated, tested, and phi.
    """
    return {
        "asks": of_type(run, "ask"),
        "evaluations": sorted(of_type(run, "evaluation"), key=lambda one: one["id"]),
        "validations": of_type(run, "validation"),
        "tests": of_type(run, "test"),
        "phi": fingerprint(artifacts.load(run / "phi").phi.tensors),
        "ends": [one["status"] for one in of_type(run, "end")],
    }
