"""The libraries that take seconds to import are imported when they are needed, not before."""

import json
import subprocess
import sys

HEAVY = {"lightning", "matplotlib", "mlflow", "optuna", "pandas", "ray", "sklearn", "torch"}

HELP = """
import sys
from metasearch.cli import main
sys.argv = ["metasearch", "--help"]
try:
    code = main()
except SystemExit as end:
    code = end.code
assert not code, code
"""


def run(source: str) -> tuple[str, set[str]]:
    """What a fresh interpreter prints for ``source``, and the top-level modules that it has loaded by its end."""
    listing = (
        "\nimport json, sys\nprint()\nprint(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source + listing], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    output, _, modules = done.stdout.rstrip("\n").rpartition("\n")
    return output, set(json.loads(modules))


def test_import_metasearch_loads_no_heavy_library() -> None:
    _, modules = run("import metasearch")
    assert "metasearch" in modules
    assert not modules & HEAVY


def test_help_loads_no_heavy_library() -> None:
    output, modules = run(HELP)
    assert "usage" in output.lower()
    assert {"run", "resume"} <= set(output.replace(",", " ").split())
    assert not modules & HEAVY
