"""A fitted estimator as a folder: phi, and the examples it learned from. No pickle; the same network is made of them.

phi/                  as a search leaves it
estimator.json        what kind of estimator, its settings and its labels
support.safetensors   ``x [n, *input_shape]`` and ``y`` (positions among the labels, or values)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save as dump_tensors
from torch import Tensor

from metasearch.artifacts.store import read_tensors
from metasearch.core.errors import ArtifactError
from metasearch.core.files import folder_in_place

__all__ = ["FORMAT", "Fitted", "labels_of", "read_fitted", "stored_labels", "write_fitted"]

FORMAT = 1
_ESTIMATOR, _SUPPORT = "estimator.json", "support.safetensors"


@dataclass(frozen=True)
class Fitted:
    """What a fitted estimator is, besides its phi and its examples.

    Args:
        kind: which of the two.
        steps: inner steps; None as many as at the search's test.
        labels: of a classifier, in their order.
        labels_dtype: numpy's name of their dtype.
        flat: whether a regressor was given values without an axis for outputs.
        features: names of columns, where they had any.
        format: version of the format.
    """

    kind: Literal["classifier", "regressor"]
    steps: int | None = None
    labels: Sequence[Any] = ()
    labels_dtype: str = ""
    flat: bool = False
    features: Sequence[str] | None = None
    format: int = FORMAT


def write_fitted(folder: Path, save_phi: Callable[[Path], Any], fitted: Fitted, x: Tensor, y: Tensor) -> Path:
    """Writes it to a folder, replacing an estimator that was there only when the new one is complete.

    Raises:
        ArtifactError: if something else is in the folder.
    """
    if folder.exists() and not (folder / _ESTIMATOR).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"{folder} exists and holds no {_ESTIMATOR}; give an empty or new folder")
    with folder_in_place(folder) as temporary:
        save_phi(temporary / "phi")
        arrays = {"x": x.detach().cpu().contiguous(), "y": y.detach().cpu().contiguous()}
        (temporary / _SUPPORT).write_bytes(dump_tensors(arrays))
        (temporary / _ESTIMATOR).write_text(json.dumps(asdict(fitted), indent=2) + "\n", encoding="utf-8")
    return folder


def read_fitted(folder: Path) -> tuple[Fitted, Tensor, Tensor]:
    """What :func:`write_fitted` wrote, but for phi, which is in the folder ``phi``.

    Raises:
        ArtifactError: if there is none, it is damaged, or a later metasearch wrote it.
    """
    path = folder / _ESTIMATOR
    try:
        content = json.loads(path.read_bytes())
        fitted = Fitted(**content)
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read ({error.strerror}); expected the folder of a fitted estimator, from .save(folder)"
        ) from error
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged, or of a later metasearch ({error}); restore it from a copy") from error
    if fitted.format != FORMAT:
        raise ArtifactError(f"{path} has format {fitted.format}, this metasearch reads {FORMAT}; upgrade metasearch")
    arrays = read_tensors(folder / _SUPPORT)
    if arrays.keys() != {"x", "y"}:
        raise ArtifactError(f"{folder / _SUPPORT} should hold x and y, got {sorted(arrays)}; restore it from a copy")
    return fitted, arrays["x"], arrays["y"]


def stored_labels(labels: NDArray[Any]) -> tuple[list[Any], str]:
    """Labels as plain values, and their dtype.

    Raises:
        ArtifactError: if they are neither strings nor numbers.
    """
    values = labels.tolist()
    if labels.dtype.kind not in "biufUO" or not all(isinstance(one, str | int | float) for one in values):
        raise ArtifactError(f"labels of dtype {labels.dtype} cannot be stored; fit on strings or numbers")
    return values, str(labels.dtype)


def labels_of(fitted: Fitted) -> NDArray[Any]:
    """The labels as they were."""
    return np.array(list(fitted.labels), dtype=np.dtype(fitted.labels_dtype))
