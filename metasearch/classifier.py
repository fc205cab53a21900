"""A learned phi as scikit-learn estimators: ``fit`` on a few examples runs the inner loop, ``predict`` uses the result.

>>> import tempfile
>>> import numpy as np
>>> from metasearch.loaded import load
>>> from metasearch.testing.phi import stored_phi
>>> with tempfile.TemporaryDirectory() as folder:
...     learned = load(stored_phi(folder))  # in practice the phi of a search: load("runs/...")
>>> X = np.eye(3, 4)
>>> few_shot = learned.classifier(steps=20).fit(X, ["cat", "dog", "owl"])
>>> few_shot.predict(X + 0.01).tolist()
['cat', 'dog', 'owl']
>>> few_shot.predict_proba(X).shape
(3, 3)
>>> four = learned.classifier(steps=20).fit(np.eye(4), ["cat", "dog", "owl", "yak"])  # the head starts at zero
>>> four.classes_.tolist()
['cat', 'dog', 'owl', 'yak']
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data
from torch import Tensor

from metasearch.takeaway.adapted import AdaptedNetwork, Learned
from metasearch.takeaway.fitted import Fitted, labels_of, read_fitted, stored_labels, write_fitted
from metasearch.takeaway.inputs import as_examples

__all__ = ["MetaClassifier", "MetaRegressor", "read_estimator"]

_SCRIPT = Path(__file__).parent / "takeaway" / "templates" / "few_shot.py"


class _FewShot(ABC, BaseEstimator):  # type: ignore[misc]
    """What both estimators share: the support set, and the network that F_phi makes of it.

    Only the support set is pickled; the same network is made of it again.
    """

    phi: Learned
    steps: int | None
    device: str

    def __init__(self, phi: Learned, steps: int | None = None, device: str = "cpu") -> None:
        # scikit-learn's rule: the constructor stores its arguments and nothing else.
        self.phi, self.steps, self.device = phi, steps, device

    @property
    def network_(self) -> AdaptedNetwork:
        """The network that has learned the support set.

        Raises:
            NotFittedError: before ``fit``.
        """
        if not hasattr(self, "support_"):
            raise NotFittedError(f"this {type(self).__name__} has seen no examples yet; call fit(X, y) first")
        if not hasattr(self, "_network"):
            x, y = self.support_
            self._network = self.phi.adapt(x, y, self.steps, ways=self._outputs(), device=self.device)
        return self._network

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_network"}

    def save(self, folder: str | Path) -> Path:
        """Writes the fitted estimator to a folder, without pickle: its phi and its examples.
        :func:`metasearch.load_fitted` reads it.

        Raises:
            NotFittedError: before ``fit``.
            ArtifactError: if something else is in the folder, or labels are neither strings nor numbers.
        """
        _ = self.network_
        x, y = self.support_
        return write_fitted(Path(folder), self.phi.save, self._fitted(), x, y)

    def log_model(
        self,
        name: str,
        *,
        input_example: Any = None,
        registered_model_name: str | None = None,
        tracking_uri: str | None = None,
        code_paths: Sequence[str | Path] = (),
    ) -> str:
        """Logs the fitted estimator to MLflow as a model that can be served, and returns its URI.

        The model is code and artifacts: a short script, and what :meth:`save` writes. Nothing is pickled.
        ``mlflow.pyfunc.load_model(uri).predict(X)`` is :meth:`predict`; ``params={"method": "predict_proba"}`` asks for
        another method.

        Args:
            name: what MLflow calls it.
            input_example: an example of what will be sent, ``[n, ...]``; its dtype and shape (but for the number of
                examples), or the names of its columns, are those the model takes then. None means examples
                ``[n, *input_shape]`` in phi's precision.
            registered_model_name: also makes a version of this registered model, whose URI is then returned.
            tracking_uri: MLflow store; None takes ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the working directory.
            code_paths: files and folders of yours that phi's network or tasks are defined in.

        Raises:
            NotFittedError: before ``fit``.
            ArtifactError: if MLflow refuses it or cannot be reached, or labels are neither strings nor numbers.
        """
        from metasearch.tracking.mlflow_model import log_model

        with self._served(input_example, code_paths) as model:
            return log_model(model, name, registered_model_name=registered_model_name, tracking_uri=tracking_uri)

    def save_model(
        self, folder: str | Path, *, input_example: Any = None, code_paths: Sequence[str | Path] = ()
    ) -> Path:
        """Writes the model that :meth:`log_model` logs to a folder, for ``mlflow models serve -m FOLDER``.

        Raises:
            NotFittedError: before ``fit``.
            ArtifactError: if the folder is not empty, or labels are neither strings nor numbers.
        """
        from metasearch.tracking.mlflow_model import save_model

        with self._served(input_example, code_paths) as model:
            return save_model(model, folder)

    @contextmanager
    def _served(self, input_example: Any, code_paths: Sequence[str | Path]) -> Iterator[Any]:
        from metasearch.tracking.mlflow_model import CodeModel

        with tempfile.TemporaryDirectory(prefix="metasearch-model-") as temporary:
            folder = self.save(Path(temporary) / "fitted")
            given = self.support_[0][:1] if input_example is None else input_example
            given = given if hasattr(given, "columns") else _array(given)
            yield CodeModel(
                code=_SCRIPT,
                artifacts={"fitted": folder},
                inputs=given,
                outputs=self.predict(given),
                params={"method": "predict"},
                config={"allow_user_code": bool(getattr(self.phi, "allow_user_code", False))},
                code_paths=code_paths,
            )

    @abstractmethod
    def _fitted(self) -> Fitted:
        """What is stored beside phi and the examples."""

    @abstractmethod
    def _restore(self, fitted: Fitted) -> None:
        """Takes what was stored."""

    @classmethod
    def _of(cls, phi: Learned, fitted: Fitted, x: Tensor, y: Tensor, device: str) -> Self:
        """The estimator that was stored."""
        made = cls(phi, steps=fitted.steps, device=device)
        made._restore(fitted)
        made._learn(x, x, y)
        if fitted.features is not None:
            made.feature_names_in_ = np.array(list(fitted.features), dtype=object)
        return made

    def _features(self) -> list[str] | None:
        names = getattr(self, "feature_names_in_", None)
        return None if names is None else [str(name) for name in names]

    def _learn(self, X: Any, x: Tensor, y: Tensor) -> None:
        """Takes examples ``x`` (given as ``X``) for the support set, and learns them."""
        self.__dict__.pop("_network", None)
        # Sets n_features_in_, and feature_names_in_ where the columns have names.
        validate_data(self, X if _tabular(X) else x.flatten(1).cpu().numpy(), reset=True, skip_check_array=True)
        self.support_ = (x, y)
        _ = self.network_

    def _outputs(self) -> int | None:
        return None

    def _examples(self, X: Any) -> Tensor:
        return as_examples(X, self.phi.spec.input_shape, dtype=self.phi.dtype)

    def _predicted(self, X: Any) -> NDArray[Any]:
        """Outputs ``[n, outputs]`` of the network."""
        network = self.network_
        if _tabular(X):
            validate_data(self, X, reset=False, skip_check_array=True)
        return np.asarray(network(self._examples(X)).cpu().numpy())


class MetaClassifier(ClassifierMixin, _FewShot):  # type: ignore[misc]
    """Learns classes from a few examples of each, with what a search has learned about learning.

    The number of classes is that of the examples, and classes may have different numbers of examples. With as many
    classes as in training the learned head is the start; with another number, the parameters whose shape depends on
    that number start at zero (and, if their learning rates are learned, take the mean rate over the classes of
    training), all others as learned.

    Training never told classes apart by their order (labels of a task are drawn at random), so the order of
    ``classes_`` means nothing either. Everything is deterministic: the same examples in the same order give the same
    numbers, those of the search's own test. A network with batch norm is transductive, there and here: it normalizes
    by the examples of one call, so predictions depend on what is predicted together; give it all queries of a task at
    once, never one by one.

    Args:
        phi: what :func:`metasearch.load` returns, learned on classification tasks.
        steps: inner steps; None means as many as at the search's test.
        device: where to compute.

    Attributes:
        classes_: labels, sorted; the columns of :meth:`predict_proba`.
        network_: the network that has learned them (:class:`~metasearch.takeaway.adapted.AdaptedNetwork`).
    """

    classes_: NDArray[Any]

    def fit(self, X: Any, y: ArrayLike) -> MetaClassifier:
        """Runs the inner loop.

        Args:
            X: numpy or torch ``[n, *input_shape]``; ``[n, height, width]`` for images of one channel and ``[n,
                features]``, a table of numbers or flattened images, also do: as many features as an input has numbers.
                uint8 is scaled to [0, 1]; beyond that the examples must be prepared as in training
                (:meth:`~metasearch.loaded.LoadedPhi.images` does so for pictures).
            y: ``[n]`` labels of any kind that can be sorted. If phi learns from unlabelled examples, too
                (``phi.takes_unlabelled``), numbers are labels and -1 says that there is none, as elsewhere in
                scikit-learn; for all others -1 is a label like any.

        Raises:
            ValueError: for other shapes, values that are not finite, unequal lengths or fewer than two classes.
            TypeError: for sparse matrices, and objects that are no numbers.
            ArtifactError: if phi cannot do with this number of classes.
        """
        x, labels = self._examples(X), _targets(self, y)
        if labels.shape not in ((len(x),), (len(x), 1)):
            raise ValueError(
                f"expected one label for each of {len(x)} examples, got an array of shape {list(labels.shape)}"
            )
        labels = column_or_1d(labels, warn=True)
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise ValueError("expected a label for each example, got nan or inf; drop these examples first")
        known = np.ones(len(x), dtype=bool)
        if self.phi.takes_unlabelled and labels.dtype.kind in "if":
            known = labels != -1
        check_classification_targets(labels[known])
        classes, codes = np.unique(labels[known], return_inverse=True)
        if len(classes) < 2:
            found = f"one class: {classes.tolist()[0]!r}" if len(classes) else "no labelled example"
            raise ValueError(f"expected examples of at least two classes, got {found}")
        self.classes_ = classes
        filled = np.full(len(x), -1, dtype=np.int64)
        filled[known] = codes
        self._learn(X, x, torch.from_numpy(filled))
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels ``[n]``.

        Raises:
            ValueError: for other shapes, or values that are not finite.
            NotFittedError: before :meth:`fit`.
        """
        codes = self._predicted(X).argmax(-1)
        return self.classes_[codes]

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities ``[n, classes]``, softmax of the network's outputs; errors as in :meth:`predict`."""
        logits = torch.from_numpy(self._predicted(X))
        return np.asarray(torch.softmax(logits.to(torch.float64), dim=-1).numpy())

    def decision_function(self, X: Any) -> NDArray[Any]:
        """The network's outputs ``[n, classes]``; of two classes ``[n]``, by how much the second one's is larger.

        Errors as in :meth:`predict`.
        """
        logits = self._predicted(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def _outputs(self) -> int:
        return len(self.classes_)

    def _fitted(self) -> Fitted:
        labels, dtype = stored_labels(self.classes_)
        return Fitted("classifier", self.steps, labels, dtype, features=self._features())

    def _restore(self, fitted: Fitted) -> None:
        self.classes_ = labels_of(fitted)


class MetaRegressor(RegressorMixin, _FewShot):  # type: ignore[misc]
    """Learns a function from a few of its values, with what a search has learned about learning.

    Batch norm is transductive and everything deterministic, as with :class:`MetaClassifier`.

    Args:
        phi: what :func:`metasearch.load` returns, learned on regression tasks.
        steps: inner steps; None means as many as at the search's test.
        device: where to compute.
    """

    def fit(self, X: Any, y: ArrayLike) -> MetaRegressor:
        """Runs the inner loop on ``X`` (see :meth:`MetaClassifier.fit`) and values ``[n, outputs]`` (or ``[n]``).

        Raises:
            ValueError: for other shapes, values that are not finite, or unequal lengths.
        """
        x, values = self._examples(X), _targets(self, y)
        outputs = self.phi.spec.outputs
        if values.shape != (len(x), outputs) and not (outputs == 1 and values.shape == (len(x),)):
            raise ValueError(f"expected values of shape [{len(x)}, {outputs}], got {list(values.shape)}")
        values = values.astype(np.float64) if values.dtype.kind == "O" else values
        if values.dtype.kind not in "buif" or not np.isfinite(values).all():
            raise ValueError("expected finite numbers in y, got others; drop these examples first")
        self._flat = values.ndim == 1
        self._learn(X, x, torch.from_numpy(values.reshape(len(x), outputs).astype(np.float64)))
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Values (float64), shaped like those it was fitted on: ``[n]`` or ``[n, outputs]``.

        Raises:
            ValueError: for other shapes, or values that are not finite.
            NotFittedError: before :meth:`fit`.
        """
        values = self._predicted(X).astype(np.float64)
        return values[:, 0] if self._flat else values

    def _fitted(self) -> Fitted:
        return Fitted("regressor", self.steps, flat=self._flat, features=self._features())

    def _restore(self, fitted: Fitted) -> None:
        self._flat = fitted.flat

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _tabular(X: Any) -> bool:
    """Whether it has rows and columns, so that scikit-learn compares their number and names."""
    return not isinstance(X, Tensor) and len(getattr(X, "shape", ())) == 2


def _targets(estimator: _FewShot, y: Any) -> NDArray[Any]:
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    return _array(y)


def _array(given: Any) -> NDArray[Any]:
    return given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)


def read_estimator(
    folder: str | Path, load: Callable[[Path], Learned], device: str = "cpu"
) -> MetaClassifier | MetaRegressor:
    """The estimator in a folder that ``save`` wrote.

    Args:
        folder: see there.
        load: makes a phi of its folder.
        device: where to compute.

    Raises:
        ArtifactError: if there is none, or it is damaged.
    """
    place = Path(folder)
    fitted, x, y = read_fitted(place)
    kind = MetaClassifier if fitted.kind == "classifier" else MetaRegressor
    return kind._of(load(place / "phi"), fitted, x, y, device)
