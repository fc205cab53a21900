"""The record of a run (journal and run directory) and its view in MLflow (``metasearch.tracking.mlflow``)."""

from metasearch.tracking.checkpoints import Checkpoints, load_checkpoint
from metasearch.tracking.journal import Journal, Record, read, tail
from metasearch.tracking.rundir import RunDirectory
from metasearch.tracking.runs import RunSummary, list_runs, status_of

__all__ = [
    "Checkpoints",
    "Journal",
    "Record",
    "RunDirectory",
    "RunSummary",
    "list_runs",
    "load_checkpoint",
    "read",
    "status_of",
    "tail",
]
