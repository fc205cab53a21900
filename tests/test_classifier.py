import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from torch.nn import functional as F

from metasearch.classifier import MetaClassifier
from metasearch.core.errors import ArtifactError
from metasearch.core.values import Batch, Task, TaskSpec
from metasearch.loaded import LoadedPhi, load, load_fitted
from metasearch.testing.phi import LEARNER, stored_phi

IMAGES = TaskSpec("classification", (1, 6, 6), 3, 3, 6)
CONV4 = {**LEARNER, "model": {"type": "conv4", "filters": 4, "blocks": 2}}
LINE = TaskSpec("regression", (1,), 1, 5, 5)
NAMES = np.array(["owl", "cat", "dog"])


def learned(folder: Path, **given: Any) -> LoadedPhi:
    return load(stored_phi(folder / "phi", **given))


def images(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((n, 1, 6, 6), dtype=np.float32)


def test_probabilities_and_labels_are_those_of_the_inner_loop(tmp_path: Path) -> None:
    phi = learned(tmp_path, learner=CONV4, spec=IMAGES)
    support, query, codes = images(3), images(6, seed=1), torch.tensor([2, 0, 1])
    few_shot = phi.classifier().fit(support, NAMES)
    logits = phi.learner().adapt(phi.phi, Batch(torch.from_numpy(support)[None], codes[None]), 0)(
        torch.from_numpy(query)[None]
    )[0]
    assert few_shot.classes_.tolist() == ["cat", "dog", "owl"]
    assert np.array_equal(few_shot.predict_proba(query), logits.double().softmax(-1).numpy())
    assert np.array_equal(few_shot.predict(query), few_shot.classes_[logits.argmax(-1).numpy()])


def test_its_loss_and_score_are_the_query_loss_and_accuracy_of_the_search(tmp_path: Path) -> None:
    phi = learned(tmp_path, learner=CONV4, spec=IMAGES)
    support, query = torch.from_numpy(images(3)), torch.from_numpy(images(6, seed=1))
    y, targets = torch.arange(3), torch.arange(6) % 3
    task = Task(Batch(support[None], y[None]), Batch(query[None], targets[None]), np.zeros(1, np.int64))
    inside = phi.learner().evaluate(phi.phi, task, 0, train=False, create_graph=False)
    few_shot = phi.classifier().fit(support, y)
    loss = F.nll_loss(torch.from_numpy(few_shot.predict_proba(query)).log(), targets)
    assert float(loss) == pytest.approx(float(inside.query[0]), rel=1e-6)
    assert few_shot.score(query, targets) == float(inside.metrics["accuracy"][0])


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_the_number_of_steps_is_the_callers_choice(tmp_path: Path, steps: int) -> None:
    phi = learned(tmp_path)
    X = np.eye(3, 4)
    expected = phi.adapt(X, torch.arange(3), steps)(X).double().softmax(-1).numpy()
    assert np.array_equal(phi.classifier(steps=steps).fit(X, [0, 1, 2]).predict_proba(X), expected)


@pytest.mark.parametrize("shape", [(6, 1, 6, 6), (6, 6, 6), (6, 36)])
@pytest.mark.parametrize("kind", ["numpy", "torch", "uint8", "list"])
def test_examples_come_in_several_forms_and_mean_the_same(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (6, 1, 6, 6)).astype(np.uint8)
    scaled = torch.from_numpy(levels).float() * (1.0 / 255.0)
    few_shot = learned(tmp_path, learner=CONV4, spec=IMAGES).classifier()
    expected = few_shot.fit(scaled, [0, 1, 2, 0, 1, 2]).predict_proba(scaled)
    forms = {"numpy": scaled.numpy(), "torch": scaled, "uint8": levels, "list": scaled.numpy()}
    X: Any = forms[kind].reshape(shape)
    X = X.tolist() if kind == "list" else X
    assert np.array_equal(few_shot.fit(X, [0, 1, 2, 0, 1, 2]).predict_proba(X), expected)


def test_unequal_shots_learn_every_class(tmp_path: Path) -> None:
    X, y = np.eye(4), np.array(["a", "b", "b", "c"])
    few_shot = learned(tmp_path).classifier(steps=30).fit(X, y)
    assert few_shot.predict(X).tolist() == y.tolist()
    assert few_shot.score(X, y) == 1.0


@pytest.mark.parametrize("classes", [2, 4, 7])
def test_another_number_of_classes_starts_from_a_head_of_zeros(tmp_path: Path, classes: int) -> None:
    phi = learned(tmp_path, spec=TaskSpec("classification", (7,), 3, 3, 6))
    X, y = np.eye(classes, 7), np.arange(classes)
    untouched = phi.classifier(steps=0).fit(X, y).predict_proba(X)
    assert np.array_equal(untouched, np.full((classes, classes), 1 / classes))
    few_shot = phi.classifier(steps=40).fit(X, y)
    assert few_shot.predict(X).tolist() == y.tolist()
    np.testing.assert_allclose(few_shot.predict_proba(X).sum(1), 1.0, rtol=1e-12)
    hidden = few_shot.network_.parameters["layers.0.weight"]
    assert hidden.shape == phi.initialization()["layers.0.weight"].shape


def test_the_same_number_of_classes_starts_from_the_learned_head(tmp_path: Path) -> None:
    phi = learned(tmp_path)
    X = np.eye(3, 4)
    module = phi.network()
    expected = module(torch.eye(3, 4)).double().softmax(-1).detach().numpy()
    np.testing.assert_allclose(phi.classifier(steps=0).fit(X, NAMES).predict_proba(X), expected, rtol=1e-6)


def test_equal_examples_give_equal_numbers(tmp_path: Path) -> None:
    random = {**LEARNER, "slots": {**LEARNER["slots"], "initialization": {"type": "random"}}}
    phi = learned(tmp_path, learner=random)
    X = np.eye(3, 4)
    first = phi.classifier().fit(X, NAMES).predict_proba(X)
    torch.manual_seed(1)
    assert np.array_equal(phi.classifier().fit(X, NAMES).predict_proba(X), first)


def test_batch_norm_sees_all_queries_of_a_call(tmp_path: Path) -> None:
    few_shot = learned(tmp_path, learner=CONV4, spec=IMAGES).classifier().fit(images(3), NAMES)
    query = images(6, seed=1)
    together, apart = few_shot.predict_proba(query)[:2], few_shot.predict_proba(query[:2])
    assert np.abs(together - apart).max() > 1e-3


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.zeros((3, 5)), [0, 1, 2], r"expected X of shape \[n, 4\], got \[3, 5\]"),
        (np.zeros(()), [0], r"expected X of shape \[n, 4\], got \[\]"),
        (np.zeros((0, 4)), [], "at least one example in X, got none"),
        (np.zeros((3, 0)), [0, 1, 2], r"X has 0 feature\(s\).* while a minimum of 4 is required"),
        (np.eye(3, 4) + 1j, [0, 1, 2], "Complex data not supported"),
        (np.eye(3, 4), None, "requires y to be passed"),
        (np.eye(3, 4), [0.1, 0.2, 0.3], "Unknown label type: continuous"),
        (np.full((2, 4), np.nan), [0, 1], "finite numbers in X, got nan or inf"),
        (np.array([["a", "b", "c", "d"]]), [0], "expected numbers in X, got an array of dtype <U1"),
        (np.eye(4), [0, 1], r"one label for each of 4 examples, got an array of shape \[2\]"),
        (np.eye(4), [[0, 1]] * 4, r"one label for each of 4 examples, got an array of shape \[4, 2\]"),
        (np.eye(4), [1, 1, 1, 1], "at least two classes, got one class: 1"),
        (np.eye(2, 4), [0.0, np.nan], "a label for each example, got nan"),
    ],
)
def test_impossible_examples_are_refused(tmp_path: Path, X: NDArray[Any], y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learned(tmp_path).classifier().fit(X, y)


def test_queries_are_checked_like_examples(tmp_path: Path) -> None:
    few_shot = learned(tmp_path, learner=CONV4, spec=IMAGES).classifier()
    with pytest.raises(NotFittedError, match="call fit"):
        few_shot.predict(images(2))
    few_shot.fit(images(3), NAMES)
    with pytest.raises(ValueError, match=r"\[n, 1, 6, 6\] or \[n, 6, 6\] or \[n, 36\], got \[2, 7, 7\]"):
        few_shot.predict(np.zeros((2, 7, 7)))


def test_it_is_a_scikit_learn_estimator(tmp_path: Path) -> None:
    phi = learned(tmp_path)
    few_shot = phi.classifier(steps=20)
    assert few_shot.get_params() == {"phi": phi, "steps": 20, "device": "cpu"}
    X, y = np.concatenate([np.eye(2, 4)] * 4), np.tile(["a", "b"], 4)
    assert cross_val_score(few_shot, X, y, cv=2).tolist() == [1.0, 1.0]
    fresh = clone(few_shot).set_params(steps=1)
    assert (fresh.steps, few_shot.steps) == (1, 20)
    assert not hasattr(fresh, "classes_")


def test_flattened_images_go_through_pipelines_and_cross_validation(tmp_path: Path) -> None:
    few_shot = learned(tmp_path, learner=CONV4, spec=IMAGES).classifier()
    X, y = images(12).reshape(12, 36), np.tile(NAMES, 4)
    pipeline = make_pipeline(MinMaxScaler((0, 1)), few_shot, memory=str(tmp_path / "memory"))
    expected = few_shot.fit(MinMaxScaler().fit_transform(X).reshape(12, 1, 6, 6), y).predict_proba(X)
    np.testing.assert_allclose(pipeline.fit(X, y)[-1].predict_proba(X), expected, rtol=1e-4, atol=1e-6)
    assert cross_val_score(pipeline, X, y, cv=2).shape == (2,)
    found = GridSearchCV(few_shot, {"steps": [0, 1]}, cv=2).fit(X, y)
    assert found.best_params_["steps"] in (0, 1)
    assert few_shot.n_features_in_ == 36


def test_columns_of_a_table_keep_their_names(tmp_path: Path) -> None:
    table = pd.DataFrame(np.eye(3, 4), columns=list("abcd"))
    few_shot = learned(tmp_path).classifier(steps=20).fit(table, pd.Series(NAMES))
    assert few_shot.feature_names_in_.tolist() == list("abcd")
    assert few_shot.predict(table).tolist() == NAMES.tolist()
    with pytest.raises(ValueError, match="feature names should match"):
        few_shot.predict(table[list("bacd")])


@pytest.mark.parametrize("names", [["no", "yes"], NAMES])
def test_what_it_decides_by_is_the_logits(tmp_path: Path, names: Any) -> None:
    X = np.eye(len(names), 4)
    few_shot = learned(tmp_path).classifier(steps=20).fit(X, names)
    logits = few_shot.network_(X).numpy()
    decided = few_shot.decision_function(X)
    if len(names) == 2:
        assert np.array_equal(decided, logits[:, 1] - logits[:, 0])
        assert few_shot.predict(X).tolist() == few_shot.classes_[(decided > 0).astype(int)].tolist()
    else:
        assert np.array_equal(decided, logits)
        assert few_shot.predict(X).tolist() == few_shot.classes_[decided.argmax(1)].tolist()


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (csr_array(np.eye(3, 4)), r"Sparse data was passed for X, but dense data is required; use \.toarray"),
        (torch.eye(3, 4).to_sparse(), "Sparse data was passed for X"),
        (np.array([[{}, 1, 2, 3]] * 3), "must be a string or a real number"),
    ],
)
def test_what_holds_no_plain_numbers_is_refused(tmp_path: Path, X: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        learned(tmp_path).classifier().fit(X, NAMES)


def test_one_example_without_an_axis_for_examples_is_refused_with_the_shape_it_needs(tmp_path: Path) -> None:
    few_shot = learned(tmp_path).classifier().fit(np.eye(3, 4), NAMES)
    with pytest.raises(ValueError, match=r"got \[4\].* Reshape your data to \[1, 4\] if it is one example"):
        few_shot.predict(np.zeros(4))


def test_copies_of_a_phi_are_the_same_to_the_caches_of_joblib(tmp_path: Path) -> None:
    phi = learned(tmp_path)
    copy = clone(phi.classifier()).phi
    assert copy is not phi
    assert joblib.hash(copy) == joblib.hash(phi)
    assert copy.initialization().keys() == phi.initialization().keys()
    assert all(torch.equal(value, copy.initialization()[name]) for name, value in phi.initialization().items())


def test_a_fitted_classifier_survives_pickling(tmp_path: Path) -> None:
    few_shot = learned(tmp_path).classifier().fit(np.eye(3, 4), NAMES)
    again = pickle.loads(pickle.dumps(few_shot))
    assert np.array_equal(again.predict_proba(np.eye(4)), few_shot.predict_proba(np.eye(4)))


def test_fitting_again_forgets_the_first_task(tmp_path: Path) -> None:
    X = np.eye(3, 4)
    few_shot = learned(tmp_path).classifier(steps=30).fit(X, NAMES)
    assert few_shot.fit(X, NAMES[::-1]).predict(X).tolist() == NAMES[::-1].tolist()


@pytest.mark.parametrize("flat", [True, False])
def test_a_regressor_gives_values_of_the_inner_loop_in_the_shape_it_was_given(tmp_path: Path, flat: bool) -> None:
    phi = learned(tmp_path, spec=LINE)
    x = np.linspace(-1, 1, 5)
    y = 2 * x
    X, values = (x, y) if flat else (x[:, None], y[:, None])
    regressor = phi.regressor().fit(X, values)
    expected = phi.adapt(x[:, None], y[:, None])(x[:, None]).numpy()
    assert np.array_equal(regressor.predict(X), expected[:, 0] if flat else expected)
    before = np.square(phi.regressor(steps=0).fit(X, values).predict(X) - values).mean()
    assert np.square(phi.regressor(steps=3).fit(X, values).predict(X) - values).mean() < before


def test_a_regressor_refuses_values_of_another_shape_and_what_is_not_finite(tmp_path: Path) -> None:
    regressor = learned(tmp_path, spec=LINE).regressor()
    with pytest.raises(ValueError, match=r"values of shape \[3, 1\], got \[2\]"):
        regressor.fit(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="finite numbers in y"):
        regressor.fit(np.zeros(2), [0.0, np.inf])


def test_the_kind_of_tasks_decides_between_classifier_and_regressor(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"kind 'regression', not classification; use \.regressor"):
        learned(tmp_path, spec=LINE).classifier()
    with pytest.raises(ArtifactError, match=r"kind 'classification', not regression; use \.classifier"):
        load(stored_phi(tmp_path / "other")).regressor()


@pytest.mark.parametrize("labels", [["owl", "cat", "dog"], [3, -1, 7], [2.0, 1.0, 3.0], [True, False, True]])
def test_a_saved_classifier_is_the_same_classifier(tmp_path: Path, labels: list[Any]) -> None:
    few_shot = learned(tmp_path).classifier(steps=2).fit(np.eye(3, 4), labels)
    again = load_fitted(few_shot.save(tmp_path / "few"))
    assert isinstance(again, MetaClassifier)
    assert again.classes_.dtype == few_shot.classes_.dtype
    assert again.classes_.tolist() == few_shot.classes_.tolist()
    assert np.array_equal(again.predict_proba(np.eye(4)), few_shot.predict_proba(np.eye(4)))
    assert (again.steps, again.n_features_in_) == (2, 4)


def test_names_of_columns_and_labels_of_a_table_are_saved(tmp_path: Path) -> None:
    table = pd.DataFrame(np.eye(3, 4), columns=list("abcd"))
    few_shot = learned(tmp_path).classifier().fit(table, pd.Series(NAMES))
    again = load_fitted(few_shot.save(tmp_path / "few"))
    assert again.predict(table).tolist() == few_shot.predict(table).tolist()
    with pytest.raises(ValueError, match="feature names should match"):
        again.predict(table[list("bacd")])


def test_a_saved_regressor_is_the_same_regressor(tmp_path: Path) -> None:
    x = np.linspace(-1, 1, 5)
    regressor = learned(tmp_path, spec=LINE).regressor().fit(x, 2 * x)
    assert np.array_equal(load_fitted(regressor.save(tmp_path / "line")).predict(x), regressor.predict(x))


def test_what_cannot_be_saved_or_loaded_says_why(tmp_path: Path) -> None:
    few_shot = learned(tmp_path).classifier()
    with pytest.raises(NotFittedError, match="call fit"):
        few_shot.save(tmp_path / "few")
    few_shot.fit(np.eye(3, 4), NAMES)
    folder = few_shot.save(tmp_path / "few")
    assert few_shot.save(folder) == folder
    with pytest.raises(ArtifactError, match=r"phi exists and holds no estimator\.json"):
        few_shot.save(tmp_path / "phi")
    with pytest.raises(ArtifactError, match="expected the folder of a fitted estimator"):
        load_fitted(tmp_path / "phi")
    (folder / "estimator.json").write_text("{}")
    with pytest.raises(ArtifactError, match="is damaged, or of a later metasearch"):
        load_fitted(folder)
    dates = np.array(["2026-01-01", "2026-01-02", "2026-01-03"], dtype="datetime64[D]")
    with pytest.raises(ArtifactError, match=r"labels of dtype datetime64\[D\] cannot be stored"):
        few_shot.fit(np.eye(3, 4), dates).save(tmp_path / "dates")
