"""What MLflow runs to serve a fitted few-shot estimator; phi and the examples it learned from are its artifacts."""

from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

import metasearch as ms

Array = np.ndarray  # to MLflow a type that says nothing: shapes and dtypes come from the signature


class FewShot(PythonModel):
    """``predict``, or with ``params={"method": "predict_proba"}`` another method of the estimator."""

    def load_context(self, context: Any) -> None:
        """Learns the examples again."""
        self._fitted = ms.load_fitted(context.artifacts["fitted"], **context.model_config)

    def predict(self, context: Any, model_input: Array, params: dict[str, Any] | None = None) -> Array:
        """What the method says of examples ``[n, ...]``."""
        known = [name for name in ("predict", "predict_proba", "decision_function") if hasattr(self._fitted, name)]
        method = (params or {}).get("method", "predict")
        if method not in known:
            raise ValueError(f"expected one of the methods {', '.join(known)}, got {method!r}")
        return getattr(self._fitted, method)(model_input)


set_model(FewShot())
