"""A fitted estimator as a model of MLflow: the same predictions, and nothing pickled."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from metasearch.core.errors import ArtifactError
from metasearch.core.values import TaskSpec
from metasearch.loaded import LoadedPhi, load
from metasearch.testing.phi import stored_phi

pytestmark = pytest.mark.filterwarnings("ignore:.*AnyType:UserWarning")  # MLflow's own, when pyfunc is imported
MAPS = {"type": "conv4", "filters": 4, "blocks": 2, "pool": "max", "head": "none", "norm": "running"}
IMAGES = TaskSpec("classification", (1, 6, 6), 3, 3, 6)
NAMES = ["owl", "cat", "dog", "owl"]


def learned(folder: Path) -> LoadedPhi:
    return load(stored_phi(folder / "phi", learner={"type": "prototypical", "model": MAPS}, spec=IMAGES))


def levels(n: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, 1, 6, 6)).astype(np.uint8)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_logged_classifier_predicts_what_the_classifier_does(store: str, tmp_path: Path) -> None:
    import mlflow

    few = learned(tmp_path).classifier().fit(levels(4), NAMES)
    before = mlflow.get_tracking_uri()
    uri = few.log_model("letters", input_example=levels(2), registered_model_name="letters")
    assert uri == "models:/letters/1"
    assert mlflow.get_tracking_uri() == before
    model = mlflow.pyfunc.load_model(uri)
    queries = levels(7, seed=1)
    assert model.predict(queries).tolist() == few.predict(queries).tolist()
    assert np.array_equal(model.predict(queries, params={"method": "predict_proba"}), few.predict_proba(queries))
    with pytest.raises(ValueError, match="expected one of the methods predict, predict_proba, decision_function"):
        model.predict(queries, params={"method": "fit"})
    with pytest.raises(mlflow.exceptions.MlflowException, match="shape"):
        model.predict(queries[:, :, :5])
    spec = model.metadata.signature.inputs.to_dict()[0]
    assert spec["tensor-spec"] == {"dtype": "uint8", "shape": (-1, 1, 6, 6)}


def test_a_saved_model_is_code_and_artifacts_without_a_pickle(store: str, tmp_path: Path) -> None:
    import mlflow

    few = learned(tmp_path).classifier().fit(levels(4), NAMES)
    folder = few.save_model(tmp_path / "served")
    fitted = {f"artifacts/fitted/{name}" for name in ("estimator.json", "phi/manifest.json", "phi/phi.safetensors")}
    assert files(folder) == fitted | {
        "artifacts/fitted/support.safetensors",
        "few_shot.py",
        "MLmodel",
        "conda.yaml",
        "input_example.json",
        "python_env.yaml",
        "requirements.txt",
        "serving_input_example.json",
    }
    required = {line.partition("==")[0] for line in (folder / "requirements.txt").read_text().split()}
    assert required == {"metasearch", "mlflow", "numpy", "scikit-learn", "torch"}
    model = mlflow.pyfunc.load_model(str(folder))
    queries = levels(5, seed=1) / np.float32(255)
    assert model.predict(queries).tolist() == few.predict(queries).tolist()
    with pytest.raises(ArtifactError, match="served exists and is not empty"):
        few.save_model(folder)


def test_a_regressor_is_a_model_too(store: str, tmp_path: Path) -> None:
    import mlflow

    phi = load(stored_phi(tmp_path / "phi", spec=TaskSpec("regression", (2,), 1, 5, 5)))
    X = np.random.default_rng(0).random((5, 2))
    regressor = phi.regressor().fit(X, X.sum(1))
    model = mlflow.pyfunc.load_model(str(regressor.save_model(tmp_path / "served", input_example=X)))
    assert np.array_equal(model.predict(X), regressor.predict(X))
    assert np.array_equal(model.predict(pd.DataFrame(X)), regressor.predict(X))
    with pytest.raises(ValueError, match="expected one of the methods predict, got 'predict_proba'"):
        model.predict(X, params={"method": "predict_proba"})


def test_columns_keep_their_names(store: str, tmp_path: Path) -> None:
    import mlflow

    table = pd.DataFrame(np.eye(3, 4), columns=list("abcd"))
    few = load(stored_phi(tmp_path / "phi")).classifier().fit(table, NAMES[:3])
    model = mlflow.pyfunc.load_model(str(few.save_model(tmp_path / "served", input_example=table)))
    assert model.predict(table[list("dcba")]).tolist() == few.predict(table).tolist()


def test_a_name_that_mlflow_refuses_is_an_error_of_ours(store: str, tmp_path: Path) -> None:
    few: Any = learned(tmp_path).classifier().fit(levels(4), NAMES)
    with pytest.raises(ArtifactError, match="MLflow did not take the model 'a/b:c'"):
        few.log_model("a/b:c")


def test_the_example_of_a_request_is_one_that_the_model_answers(store: str, tmp_path: Path) -> None:
    import mlflow

    few = learned(tmp_path).classifier().fit(levels(4), NAMES)
    folder = few.save_model(tmp_path / "served", input_example=levels(2))
    asked = json.loads((folder / "serving_input_example.json").read_text())
    given = np.array(asked["inputs"], dtype=np.uint8)
    assert mlflow.pyfunc.load_model(str(folder)).predict(given).tolist() == few.predict(levels(2)).tolist()
