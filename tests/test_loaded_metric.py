"""What can be done with the phi of a metric learner outside of a search."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from metasearch import artifacts
from metasearch.core.errors import ArtifactError, UnsupportedError
from metasearch.core.values import Batch, TaskSpec
from metasearch.loaded import LoadedPhi, load
from metasearch.testing.phi import LEARNER, stored_phi

IMAGES = TaskSpec("classification", (1, 8, 8), 4, 4, 8)
CONV4 = {"type": "conv4", "filters": 4, "blocks": 2, "pool": "max", "head": "none", "norm": "running"}
KINDS: dict[str, dict[str, Any]] = {
    "prototypical": {"type": "prototypical", "model": CONV4},
    "matching": {"type": "matching", "model": CONV4, "context": {"steps": 1}},
    "relation": {"type": "relation", "model": CONV4, "relation": {"type": "mlp", "hidden": [4]}},
    "siamese": {"type": "siamese", "model": CONV4},
}
NAMES = np.array(["owl", "cat", "dog"])


def learned(folder: Path, kind: str = "prototypical", **changes: Any) -> LoadedPhi:
    """A stored phi whose running statistics are not those of the start."""
    path = stored_phi(folder / "phi", learner={**KINDS[kind], **changes}, spec=IMAGES)
    stored = artifacts.load(path)
    moved = {name: value + 0.01 * (1 + index) for index, (name, value) in enumerate(stored.phi.buffers.items())}
    artifacts.save(path, stored.phi.replace(buffers=moved), stored.manifest)
    return load(path)


def images(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((n, 1, 8, 8), dtype=np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_takes_other_ways_and_unequal_shots(tmp_path: Path, kind: str) -> None:
    phi = learned(tmp_path, kind)
    support, query = images(5), images(6, seed=1)
    few_shot = phi.classifier().fit(support, NAMES[[0, 1, 2, 1, 1]])
    assert few_shot.classes_.tolist() == ["cat", "dog", "owl"]
    codes = torch.tensor([[2, 0, 1, 0, 0]])
    inside = phi.learner(3).adapt(phi.phi, Batch(torch.from_numpy(support)[None], codes), 0)
    logits = inside(torch.from_numpy(query)[None])[0]
    assert np.array_equal(few_shot.predict_proba(query), logits.double().softmax(-1).numpy())
    assert np.array_equal(few_shot.predict(query), few_shot.classes_[logits.argmax(-1).numpy()])
    one_by_one = np.concatenate([few_shot.predict_proba(query[i : i + 1]) for i in range(6)])
    np.testing.assert_allclose(one_by_one, few_shot.predict_proba(query), rtol=1e-5)  # not transductive


@pytest.mark.parametrize("kind", KINDS)
def test_support_examples_are_recognized_by_what_compares_with_them(tmp_path: Path, kind: str) -> None:
    if kind == "relation":
        pytest.skip("an untrained relation module prefers nothing")
    X = images(3)
    head = {"energy": "euclidean"} if kind == "siamese" else {"context": None} if kind == "matching" else {}
    assert learned(tmp_path, kind, **head).classifier().fit(X, NAMES).predict(X).tolist() == NAMES.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_the_embedding_is_an_ordinary_module_with_the_learned_values(tmp_path: Path, kind: str) -> None:
    phi = learned(tmp_path, kind)
    module = phi.embedding()
    assert isinstance(module, nn.Module)
    assert not module.training
    state = module.state_dict()
    assert state.keys() == (phi.phi.part("embedding") | phi.phi.buffers_of("embedding")).keys()
    assert all(torch.equal(state[name], value) for name, value in phi.phi.part("embedding").items())
    assert all(torch.equal(state[name], value) for name, value in phi.phi.buffers_of("embedding").items())
    x = torch.from_numpy(images(5))
    expected = phi.learner().embedding(phi.phi, x[None])[0]  # type: ignore[attr-defined]
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)


def test_networks_for_queries_are_handed_out_as_well(tmp_path: Path) -> None:
    phi = learned(tmp_path, "matching", shared=False, context=None)
    first, second = phi.embedding(), phi.embedding("query_embedding")
    assert not torch.equal(first.state_dict()["blocks.0.conv.weight"], second.state_dict()["blocks.0.conv.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_metric_learner_has_not_says_what_to_use(tmp_path: Path, kind: str) -> None:
    phi = learned(tmp_path, kind)
    hint = (
        r"no learned initialization \(it holds: .*embedding.*\); use \.embedding\(\) for the network.*\.classifier\(\)"
    )
    with pytest.raises(ArtifactError, match=hint):
        phi.network()
    with pytest.raises(ArtifactError, match=hint):
        phi.initialize(nn.Linear(2, 2))
    with pytest.raises(UnsupportedError, match=rf"steps: {kind} has no inner steps"):
        phi.classifier(steps=2).fit(images(3), NAMES)
    if kind != "siamese":
        with pytest.raises(ArtifactError, match=r"only Siamese networks judge single pairs.*\.classifier"):
            phi.similarity(images(2), images(2))


def test_an_initialization_is_no_embedding(tmp_path: Path) -> None:
    phi = load(stored_phi(tmp_path / "phi", learner=LEARNER))
    with pytest.raises(ArtifactError, match=r"no 'embedding' \(it holds: initialization\)"):
        phi.embedding()


def test_an_adapted_network_is_a_module_for_squared_euclidean_prototypes(tmp_path: Path) -> None:
    adapted = learned(tmp_path).adapt(images(3), [0, 1, 2], ways=3)
    query = images(6, seed=1)
    module = adapted.module()
    torch.testing.assert_close(
        module(torch.from_numpy(query)).softmax(-1), adapted(query).softmax(-1), rtol=1e-4, atol=1e-6
    )
    with pytest.raises(ArtifactError, match=r"siamese says of an example is no linear function.*\.embedding\(\)"):
        learned(tmp_path / "other", "siamese").adapt(images(3), [0, 1, 2], ways=3).module()


def test_the_embedding_is_exported_as_a_state_dict(tmp_path: Path) -> None:
    phi = learned(tmp_path)
    state = torch.load(phi.save(tmp_path / "weights.pt"), weights_only=True)
    phi.embedding().load_state_dict(state)
    assert state.keys() == phi.embedding().state_dict().keys()


@pytest.mark.parametrize("energy", ["weighted_l1", "cosine"])
def test_pairs_are_judged_one_by_one(tmp_path: Path, energy: str) -> None:
    phi = learned(tmp_path, "siamese", energy=energy)
    first, second = images(3), images(3, seed=1)
    found = phi.similarity(first, second)
    h, other = (phi.embedding()(torch.from_numpy(one)) for one in (first, second))
    if energy == "cosine":
        expected = nn.functional.cosine_similarity(h, other) - 1
        assert phi.similarity(first, first).abs().max() < 1e-6
    else:
        values = phi.phi.part("verdict")
        expected = torch.sigmoid((h - other).abs() @ values["weight"] + values["bias"])
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="expected pairs, got 3 first and 2 second"):
        phi.similarity(first, second[:2])


def test_minus_one_is_an_unlabelled_example_only_to_those_that_learn_from_them(tmp_path: Path) -> None:
    refined = learned(tmp_path / "refined", refinement={"steps": 1})
    plain = learned(tmp_path / "plain")
    X, y, query = images(6), np.array([3, 7, 7, -1, -1, 3]), images(4, seed=1)
    few_shot = refined.classifier().fit(X, y)
    assert few_shot.classes_.tolist() == [3, 7]
    support = Batch(torch.from_numpy(X)[None], torch.tensor([[0, 1, 1, -1, -1, 0]]))
    inside = refined.learner(2).adapt(refined.phi, support, 0)(torch.from_numpy(query)[None])[0]
    assert np.array_equal(few_shot.predict_proba(query), inside.double().softmax(-1).numpy())
    labelled = refined.classifier().fit(X[y > 0], y[y > 0])
    assert not np.allclose(few_shot.predict_proba(query), labelled.predict_proba(query))
    assert plain.classifier().fit(X, y).classes_.tolist() == [-1, 3, 7]
    with pytest.raises(ValueError, match="at least two classes"):
        refined.classifier().fit(X[2:4], y[2:4])
