"""A policy of augmentation for pictures of one's own: the script of the README, as it is written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_serving import SCRIPTS, drawn, environment


@pytest.mark.ray
def test_a_policy_is_searched_on_a_folder_and_used_in_a_data_loader(tmp_path: Path) -> None:
    drawn(tmp_path / "pictures", ["alif", "beh", "teh", "dal"], 20)
    (tmp_path / "augment.py").write_text(SCRIPTS["augment.py"], "utf-8")
    done = subprocess.run(
        [sys.executable, "augment.py"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.search(r"^best of 12 policies: (\d+) % of test pictures\nloss ([\d.]+) on", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    assert int(found[1]) > 60
    assert float(found[2]) < 1.3
