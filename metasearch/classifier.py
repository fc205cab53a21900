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

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import NotFittedError
from torch import Tensor

from metasearch.takeaway.adapted import AdaptedNetwork, Learned
from metasearch.takeaway.inputs import as_examples

__all__ = ["MetaClassifier", "MetaRegressor"]


class _FewShot(BaseEstimator):  # type: ignore[misc]
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

    def _learn(self, x: Tensor, y: Tensor) -> None:
        self.__dict__.pop("_network", None)
        self.support_ = (x, y)
        self.n_features_in_ = int(x[0].numel())
        _ = self.network_

    def _outputs(self) -> int | None:
        return None

    def _examples(self, x: Any) -> Tensor:
        return as_examples(x, self.phi.spec.input_shape, dtype=self.phi.dtype)


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
                features]`` also do. uint8 is scaled to [0, 1]; beyond that the examples must be prepared as in
                training.
            y: ``[n]`` labels of any kind that can be sorted. If phi learns from unlabelled examples, too
                (``phi.takes_unlabelled``), numbers are labels and -1 says that there is none, as elsewhere in
                scikit-learn; for all others -1 is a label like any.

        Raises:
            ValueError: for other shapes, values that are not finite, unequal lengths or fewer than two classes.
            ArtifactError: if phi cannot do with this number of classes.
        """
        x, labels = self._examples(X), _array(y)
        if labels.shape != (len(x),):
            raise ValueError(
                f"expected one label for each of {len(x)} examples, got an array of shape {list(labels.shape)}"
            )
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise ValueError("expected a label for each example, got nan or inf; drop these examples first")
        known = np.ones(len(x), dtype=bool)
        if self.phi.takes_unlabelled and labels.dtype.kind in "if":
            known = labels != -1
        self.classes_, codes = np.unique(labels[known], return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"expected examples of at least two classes, got only {self.classes_.tolist()}")
        filled = np.full(len(x), -1, dtype=np.int64)
        filled[known] = codes
        self._learn(x, torch.from_numpy(filled))
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels ``[n]``.

        Raises:
            ValueError: for other shapes, or values that are not finite.
            NotFittedError: before :meth:`fit`.
        """
        logits = self.network_(self._examples(X))
        return self.classes_[logits.argmax(-1).cpu().numpy()]

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities ``[n, classes]``, softmax of the network's outputs; errors as in :meth:`predict`."""
        logits = self.network_(self._examples(X))
        return np.asarray(torch.softmax(logits.to(torch.float64), dim=-1).cpu().numpy())

    def _outputs(self) -> int:
        return len(self.classes_)


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
        x, values = self._examples(X), _array(y)
        outputs = self.phi.spec.outputs
        if values.shape != (len(x), outputs) and not (outputs == 1 and values.shape == (len(x),)):
            raise ValueError(f"expected values of shape [{len(x)}, {outputs}], got {list(values.shape)}")
        if values.dtype.kind not in "buif" or not np.isfinite(values).all():
            raise ValueError("expected finite numbers in y, got others; drop these examples first")
        self._flat = values.ndim == 1
        self._learn(x, torch.from_numpy(values.reshape(len(x), outputs).astype(np.float64)))
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Values, shaped like those it was fitted on: ``[n]`` or ``[n, outputs]``.

        Raises:
            ValueError: for other shapes, or values that are not finite.
            NotFittedError: before :meth:`fit`.
        """
        values = np.asarray(self.network_(self._examples(X)).cpu().numpy())
        return values[:, 0] if self._flat else values


def _array(given: Any) -> NDArray[Any]:
    return given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
