"""Where a stored phi is, from the many ways in which people name one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metasearch.artifacts import shipped
from metasearch.core.errors import ArtifactError, ConfigError
from metasearch.tracking import RunDirectory

__all__ = ["find"]

_MANIFEST = "manifest.json"
_REMOTE = ("runs:/", "models:/")


@contextmanager
def find(uri: str | Path, runs: str | Path = "runs", tracking_uri: str | None = None) -> Iterator[Path]:
    """The folder that holds manifest.json and the tensors; what was downloaded is removed on leaving.

    Args:
        uri: see :func:`metasearch.loaded.load`.
        runs: folder of run directories, for ids.
        tracking_uri: MLflow store, for ``runs:/`` and ``models:/``.

    Raises:
        ArtifactError: if nothing is there, listing what was tried.
    """
    if not str(uri).startswith(_REMOTE):
        yield _local(uri, runs)
        return
    from metasearch.tracking.mlflow_artifacts import downloaded

    with downloaded(str(uri), tracking_uri) as folder:
        found, tried = _within(folder)
        if found is None:
            names = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise ArtifactError(
                f"{uri} was downloaded and holds no phi ({' and '.join(path.name for path in tried)} have no "
                f"{_MANIFEST}; it holds: {names}); name the artifact folder that search results are logged to, 'phi'"
            )
        yield found


def _local(uri: str | Path, runs: str | Path) -> Path:
    if isinstance(uri, str) and uri in shipped.names():
        return shipped.folder(uri)
    path = Path(uri)
    found, tried = _within(path.parent if path.is_file() else path)
    if found is not None:
        return found
    try:
        run = RunDirectory.open(uri, runs)
    except ConfigError as error:
        places = ", ".join(str(place / _MANIFEST) for place in tried)
        raise ArtifactError(
            f"nothing to load at {str(uri)!r}. Tried: {places} (no such file); a run ({error.problem}). Give the path "
            "of a phi or a run, a run's id, runs:/<MLflow run id>, models:/<name>/<version>, or a learned optimizer "
            f"that comes with the package: {', '.join(shipped.names())}"
        ) from None
    if not (run.phi_path / _MANIFEST).is_file():
        raise ArtifactError(
            f"run {run.id} has no phi yet (no {run.phi_path / _MANIFEST}); it is written at the first validation that "
            f"is the best so far, or at the end: `metasearch resume {run.path.name}`"
        )
    return run.phi_path


def _within(folder: Path) -> tuple[Path | None, tuple[Path, Path]]:
    """The folder itself, or ``phi`` in it, whichever has a manifest; and what was looked at."""
    tried = (folder, folder / "phi")
    return next((place for place in tried if (place / _MANIFEST).is_file()), None), tried
