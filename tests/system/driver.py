"""What a driver's process does; imported once by the fork server."""

import os
import sys
from pathlib import Path
from typing import Any

import torch

import metasearch.nested
import metasearch.objective
import metasearch.running
import metasearch.searchers.optuna
import metasearch.tasks.sinusoid
from metasearch.resolution import resolve

PARTS = Path(__file__).parent / "parts"
sys.path.insert(0, str(PARTS))
torch.set_num_threads(1)


def drive(tree: dict[str, Any], root: str, fault: str, run: str | None) -> None:
    os.environ["METASEARCH_FAULT"] = fault
    if run is None:
        metasearch.running.run(resolve(tree, PARTS), root=root)
    else:
        metasearch.running.resume(run, root=root)
