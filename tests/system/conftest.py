"""Small experiments that run to their end in a second, and drivers that are killed."""

import multiprocessing
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PARTS = HERE / "parts"
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(PARTS))

# Children are forked from a server that has imported everything, so a driver to kill starts in milliseconds.
multiprocessing.get_context("forkserver").set_forkserver_preload(["driver"])


@pytest.fixture
def tiny() -> dict[str, Any]:
    """MAML on sinusoids with a small network: 4 shards of 3 tasks a step, inline, without MLflow."""
    return {
        "name": "tiny",
        "tasks": {"type": "sinusoid", "shots": 5, "queries": 5},
        "learner": {
            "recipe": "maml",
            "model": {"type": "mlp", "hidden": [8]},
            "steps": {"train": 1, "test": 2},
            "slots": {"learning_rates": {"type": "fixed", "value": 0.01}},
        },
        "searcher": {"type": "gradient", "lr": 0.01},
        "evaluation": {"type": "episodes", "estimator": "backprop", "tasks": 12, "shard": 3},
        "validation": {"every": 3, "episodes": 6, "shard": 3},
        "test": {"episodes": 6, "shard": 3, "baselines": ["random"]},
        "budget": {"steps": 8},
        "checkpoints": {"every": 2},
        "execution": {"type": "inline"},
        "numerics": {"compile": "never"},
        "tracking": {"mlflow": False, "report": False},
    }


class Drivers:
    """Starts drivers of a run in processes of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._context = multiprocessing.get_context("forkserver")

    def start(self, tree: dict[str, Any], fault: str = "", *, run: Path | None = None) -> Any:
        """A driver that starts ``tree`` (or resumes ``run``), and dies at a fault point if one is named."""
        from driver import drive

        process = self._context.Process(
            target=drive, args=(tree, str(self.root), fault, None if run is None else str(run))
        )
        process.start()
        return process

    def until_dead(self, tree: dict[str, Any], fault: str, *, run: Path | None = None) -> Path:
        """Runs a driver into a fault point; the run's directory, which it left behind."""
        process = self.start(tree, fault, run=run)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, f"the driver ended with {process.exitcode}, not at {fault}"
        return self.run() if run is None else run

    def run(self) -> Path:
        """The only run under the root."""
        (found,) = (path for path in self.root.iterdir() if (path / "config.yaml").exists())
        return found


@pytest.fixture
def drivers(tmp_path: Path) -> Drivers:
    return Drivers(tmp_path / "killed")
