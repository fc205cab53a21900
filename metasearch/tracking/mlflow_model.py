"""Models in MLflow's format, made of code and artifacts ("models from code"): nothing in them is pickled."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from metasearch.core.errors import ArtifactError
from metasearch.tracking.mlflow_store import default_uri, quiet_mlflow

__all__ = ["CodeModel", "log_model", "save_model"]

_REQUIRED = ("metasearch", "mlflow", "numpy", "scikit-learn", "torch")


@dataclass(frozen=True)
class CodeModel:
    """A model as code and files.

    Args:
        code: script that calls ``mlflow.models.set_model``.
        artifacts: files and folders by the name that the script finds them under.
        inputs: an example of what it is given, ``[n, ...]``; the first axis may have any size.
        outputs: what it then answers.
        params: further arguments of a call and their defaults.
        config: settings that the script is given when it is loaded.
        code_paths: further modules that must be importable.
    """

    code: Path
    artifacts: Mapping[str, Path]
    inputs: Any
    outputs: Any
    params: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    code_paths: Sequence[str | Path] = ()


def log_model(
    model: CodeModel, name: str, *, registered_model_name: str | None = None, tracking_uri: str | None = None
) -> str:
    """Logs it to MLflow, under the active run if there is one, and returns its URI.

    Args:
        model: what is logged.
        name: what MLflow calls it.
        registered_model_name: also makes a version of this registered model, whose URI is then returned.
        tracking_uri: store; None takes ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the working directory.

    Raises:
        ArtifactError: if the store cannot be reached, or MLflow refuses the name.
    """
    with _store(tracking_uri) as mlflow:
        try:
            logged = mlflow.pyfunc.log_model(
                name=name, registered_model_name=registered_model_name, **_arguments(mlflow, model)
            )
        except mlflow.exceptions.MlflowException as error:
            raise ArtifactError(f"MLflow did not take the model {name!r}: {error}") from error
    if registered_model_name is not None:
        return f"models:/{registered_model_name}/{logged.registered_model_version}"
    return str(logged.model_uri)


def save_model(model: CodeModel, folder: str | Path) -> Path:
    """Writes it to a folder, for ``mlflow models serve -m FOLDER``.

    Raises:
        ArtifactError: if the folder is not empty.
    """
    place = Path(folder)
    if place.exists() and (not place.is_dir() or list(place.iterdir())):
        raise ArtifactError(f"{place} exists and is not empty; give an empty or new folder")
    with _store(None) as mlflow:
        mlflow.pyfunc.save_model(path=str(place), **_arguments(mlflow, model))
    return place


def _arguments(mlflow: Any, model: CodeModel) -> dict[str, Any]:
    signature = mlflow.models.infer_signature(model.inputs, model.outputs, dict(model.params) or None)
    return {
        "python_model": str(model.code),
        "artifacts": {name: str(path) for name, path in model.artifacts.items()},
        "signature": signature,
        "input_example": model.inputs,
        "pip_requirements": [f"{one}=={version(one).partition('+')[0]}" for one in _REQUIRED],
        "model_config": dict(model.config),
        "code_paths": [str(path) for path in model.code_paths] or None,
    }


@contextmanager
def _store(tracking_uri: str | None) -> Iterator[Any]:
    """MLflow on a store; the process's own setting is put back."""
    quiet_mlflow()
    with warnings.catch_warnings():
        # MLflow's own: its import warns of types in itself, its database layer and its examples of deprecations.
        warnings.filterwarnings("ignore", message=".*AnyType", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*noload.*", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="Operation with range", category=DeprecationWarning)
        import mlflow.pyfunc

        before, wanted = mlflow.get_tracking_uri(), tracking_uri or default_uri()
        if wanted != before:
            mlflow.set_tracking_uri(wanted)
        try:
            yield mlflow
        finally:
            if wanted != before:
                mlflow.set_tracking_uri(before)
