import os
import signal
import subprocess
import sys

import pytest

from metasearch.core.errors import ConfigError
from metasearch.core.faults import VARIABLE, fault_armed, fault_point

THREE_PASSAGES = """
from metasearch.core.faults import fault_point
for passage in (1, 2, 3):
    fault_point("here")
    print(passage, flush=True)
"""


def passages(fault: str) -> tuple[int, str]:
    environment = {**os.environ, VARIABLE: fault}
    done = subprocess.run(
        [sys.executable, "-c", THREE_PASSAGES], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.replace("\n", "")


def test_the_named_passage_kills_the_process() -> None:
    assert passages("here:2") == (-signal.SIGKILL, "1")


def test_other_points_pass() -> None:
    assert passages("elsewhere:1") == (0, "123")


def test_nothing_is_armed_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not fault_armed("here")
    fault_point("here")


@pytest.mark.parametrize("value", ["here", "here:", "here:0", "here:-1", "here:x"])
def test_a_passage_that_is_no_positive_number_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ConfigError, match="point:passage"):
        fault_point("here")
