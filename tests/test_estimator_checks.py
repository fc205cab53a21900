"""scikit-learn's own checks of estimators, all of them: none is expected to fail.

The checks come with data of many widths, and a phi takes inputs of one shape. So each is given a phi that was learned
on inputs as wide as its data. Nothing else is changed.
"""

import tempfile
from typing import Any

import numpy as np
from sklearn.utils.estimator_checks import parametrize_with_checks

from metasearch.classifier import MetaClassifier, MetaRegressor
from metasearch.core.values import TaskSpec
from metasearch.loaded import LoadedPhi, load
from metasearch.testing.phi import LEARNER, stored_phi

WIDER = {**LEARNER, "model": {"type": "mlp", "hidden": [20]}}


class Fitting(LoadedPhi):
    """A phi as if learned on what is to be learned: as wide as the examples, with as many outputs as the values."""

    def __init__(self, kind: str, features: int = 2, outputs: int = 1) -> None:
        spec = TaskSpec(kind, (features,), 3 if kind == "classification" else outputs, 3, 6)
        with tempfile.TemporaryDirectory() as folder:
            self.__dict__.update(vars(load(stored_phi(folder, learner=WIDER, spec=spec))))

    def fit_to(self, X: Any, y: Any) -> None:
        width, targets = getattr(X, "shape", np.asarray(X).shape)[-1], np.asarray(y).shape
        outputs = targets[1] if len(targets) == 2 and self.spec.kind == "regression" else 1
        found = (width,), 3 if self.spec.kind == "classification" else outputs
        if width and found != (self.spec.input_shape, self.spec.outputs):
            Fitting.__init__(self, self.spec.kind, width, outputs)


class Classifier(MetaClassifier):
    def fit(self, X: Any, y: Any) -> MetaClassifier:
        self.phi.fit_to(X, y)  # type: ignore[attr-defined]
        return super().fit(X, y)


class Regressor(MetaRegressor):
    def fit(self, X: Any, y: Any) -> MetaRegressor:
        self.phi.fit_to(X, y)  # type: ignore[attr-defined]
        return super().fit(X, y)


@parametrize_with_checks([Classifier(Fitting("classification"), steps=20), Regressor(Fitting("regression"), steps=20)])
def test_scikit_learn_finds_an_estimator_of_its_own_kind(estimator: Any, check: Any) -> None:
    check(estimator)
