"""Folders that an MLflow store keeps: artifacts of runs, and versions of registered models."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metasearch.core.errors import ArtifactError
from metasearch.tracking.mlflow_store import default_uri, quiet_mlflow, short_timeouts

__all__ = ["downloaded"]

_RUN = re.compile(r"runs:/(?P<run>[^/]+)(?:/(?P<path>.+?))?/?")
_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/]+))/?")
_FORMS = "runs:/<run id>, runs:/<run id>/<folder>, models:/<name>/<version> or models:/<name>@<alias>"


@contextmanager
def downloaded(uri: str, tracking_uri: str | None = None) -> Iterator[Path]:
    """A folder of an MLflow store, on this machine until the context is left.

    Args:
        uri: ``runs:/<run id>[/<folder>]`` (the folder is ``phi`` where none is given), ``models:/<name>/<version>`` or
            ``models:/<name>@<alias>``.
        tracking_uri: the store, and its registry; None takes ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the
            working directory.

    Raises:
        ArtifactError: if the URI has another form, or the store does not have it or cannot be reached.
    """
    store = tracking_uri or default_uri()
    run, model = _RUN.fullmatch(uri), _MODEL.fullmatch(uri)
    if run is None and model is None:
        raise ArtifactError(f"{uri!r} is none of {_FORMS}")
    quiet_mlflow()
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory(prefix="metasearch-phi-") as temporary, short_timeouts():
        try:
            address = f"runs:/{run['run']}/{run['path'] or 'phi'}" if run else _address(model, store)
            found = download_artifacts(artifact_uri=address, dst_path=temporary, tracking_uri=store, registry_uri=store)
        except (MlflowException, OSError) as error:
            raise ArtifactError(
                f"{uri} cannot be had from the MLflow store {store} ({_first_line(error)}); check the id, or name the "
                "store in MLFLOW_TRACKING_URI"
            ) from error
        yield Path(found)


def _address(model: Any, store: str) -> str:
    """Where the files of a registered version are."""
    from mlflow.tracking import MlflowClient

    # Asked of the client, since MLflow's own resolution of models:/ looks at the process-wide registry only.
    client = MlflowClient(tracking_uri=store, registry_uri=store)
    name = model["name"]
    version = model["version"] or client.get_model_version_by_alias(name, model["alias"]).version
    return str(client.get_model_version_download_uri(name, version))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
