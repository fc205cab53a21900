from pathlib import Path
from typing import Any

import pytest
import yaml

SINE: dict[str, Any] = {
    "name": "sine",
    "tasks": {"type": "sinusoid"},
    "learner": {
        "recipe": "maml",
        "model": {"type": "mlp", "hidden": [4]},
        "slots": {"learning_rates": {"value": 0.01}},
    },
    "searcher": {"type": "gradient", "lr": 0.001},
    "evaluation": {"type": "episodes", "estimator": "backprop", "tasks": 4, "shard": 4},
    "validation": {"every": 2, "episodes": 4},
    "test": {"episodes": 4, "baselines": ["random"]},
    "budget": {"steps": 4},
    "numerics": {"compile": "never"},
    "tracking": {"mlflow": False},
}


@pytest.fixture
def sine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search of a second's work, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "sine.yaml"
    file.write_text(yaml.safe_dump(SINE))
    return file
