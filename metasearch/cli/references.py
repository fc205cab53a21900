"""What PHI and RUN on the command line name."""

from __future__ import annotations

from pathlib import Path

from metasearch.core.errors import ConfigError
from metasearch.tracking.rundir import RunDirectory

__all__ = ["phi_folder"]


def phi_folder(reference: str, root: Path | str = "runs") -> Path:
    """The folder of a stored phi: itself, or that of a run.

    Raises:
        ConfigError: if there is neither, or the run has no phi yet.
    """
    path = Path(reference)
    if (path / "manifest.json").is_file():
        return path
    try:
        run = RunDirectory.open(reference, root)
    except ConfigError as error:
        raise ConfigError("", f"{reference!r} is no folder with a phi (manifest.json), and {error.problem}") from None
    if not run.phi_path.is_dir():
        raise ConfigError(
            "", f"{run.path.name} has no phi yet: none has been validated. Continue it with metasearch resume"
        )
    return run.phi_path
