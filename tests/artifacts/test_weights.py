"""Searches that start from given weights: what is loaded, what stays fresh, what is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from metasearch import artifacts
from metasearch.artifacts import shipped
from metasearch.artifacts.store import load as stored
from metasearch.artifacts.weights import read_weights, rule_settings, start_from
from metasearch.assembly import initial_phi
from metasearch.core.errors import ArtifactError, ConfigError
from metasearch.core.values import Phi, TaskSpec
from metasearch.resolution import resolve
from metasearch.running import resume, run
from metasearch.testing.phi import stored_phi
from metasearch.tracking import read
from metasearch.trees import override

BODY = {"body.weight": torch.randn(4, 3), "body.bias": torch.randn(4)}
HEAD = {"head.weight": torch.randn(5, 4), "head.bias": torch.randn(5)}


def fresh(**more: torch.Tensor) -> Phi:
    state = {**BODY, **HEAD, **more}
    tensors = {f"initialization.{name}": torch.zeros(value.shape, dtype=torch.float64) for name, value in state.items()}
    return Phi({**tensors, "learning_rates.rate": torch.tensor(0.1)}, {"initialization.seen": torch.zeros(2)})


def saved(folder: Path, state: Any, name: str = "weights.pt") -> Path:
    if name.endswith(".safetensors"):
        save_file(state, folder / name)
    else:
        torch.save(state, folder / name)
    return folder / name


SEEN = {"seen": torch.ones(2)}


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "nested.pt"])
def test_a_whole_state_dict_is_loaded(name: str, tmp_path: Path) -> None:
    state = {**BODY, **HEAD, **SEEN}
    phi, start = start_from(saved(tmp_path, {"state_dict": state} if "nested" in name else state, name), fresh())
    assert set(start.loaded) == set(state)
    assert (start.fresh, start.unused) == ({}, ())
    for key, value in {**BODY, **HEAD}.items():
        assert torch.equal(phi.tensors[f"initialization.{key}"], value.double())
    assert torch.equal(phi.buffers["initialization.seen"], SEEN["seen"])
    assert torch.equal(phi.tensors["learning_rates.rate"], torch.tensor(0.1))


def test_the_initialization_of_a_phi_or_a_run_is_loaded(tmp_path: Path) -> None:
    folder = stored_phi(tmp_path / "run" / "phi", seed=3)
    stored = artifacts.load(folder).phi
    blank = Phi({name: torch.zeros_like(value) for name, value in stored.tensors.items()})
    for place in (folder, tmp_path / "run"):
        phi, _ = start_from(place, blank)
        assert all(torch.equal(phi.tensors[name], value) for name, value in stored.tensors.items())


def test_a_head_for_another_number_of_outputs_and_what_is_not_known_are_named(tmp_path: Path) -> None:
    state = {**BODY, **SEEN, "head.weight": torch.randn(9, 4), "head.bias": torch.randn(9), "extra": torch.ones(1)}
    phi, start = start_from(saved(tmp_path, state), fresh())
    assert set(start.loaded) == {*BODY, "seen"}
    assert start.fresh["head.weight"] == "there [9, 4], here [5, 4]"
    assert start.unused == ("extra",)
    assert "fresh: head.weight (there [9, 4], here [5, 4]), head.bias" in str(start)
    assert not phi.tensors["initialization.head.weight"].any()


def test_one_layer_may_be_missing(tmp_path: Path) -> None:
    _, start = start_from(saved(tmp_path, {**BODY, **SEEN}), fresh())
    assert dict(start.fresh) == {"head.weight": "not there", "head.bias": "not there"}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {**HEAD, **SEEN, "body.weight": torch.ones(4, 2), "body.bias": torch.ones(4)},
            r"body.weight \(there \[4, 2\]",
        ),
        ({**BODY, **SEEN, "head.weight": torch.ones(9, 4), "head.bias": torch.ones(9, 1)}, "head.bias"),
        ({"module.body.weight": torch.ones(4, 3)}, r"missing body.weight, body.bias.*it has module.body.weight"),
    ],
)
def test_another_network_is_refused_with_both_shapes(state: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=message):
        start_from(saved(tmp_path, state), fresh())


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_weights(tmp_path / "nothing.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint", "utf-8")
    with pytest.raises(ArtifactError, match="without running code"):
        read_weights(tmp_path / "text.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(ArtifactError, match="without running code"):
        read_weights(tmp_path / "module.pt")
    with pytest.raises(ArtifactError, match=r"no state dict \(tensors by name\); got list"):
        read_weights(saved(tmp_path, [torch.ones(1)], "list.pt"))


def test_a_learner_without_an_initialization_cannot_start_from_weights(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="learns no initialization"):
        start_from(saved(tmp_path, BODY), Phi({"learning_rates.rate": torch.ones(1)}))


def test_all_of_an_update_rule_must_be_there(tmp_path: Path) -> None:
    rule = {"0.weight": torch.ones(4, 3), "out.bias": torch.ones(1)}
    phi = Phi({f"update_rule.{name}": torch.zeros_like(value) for name, value in rule.items()} | fresh().tensors)
    begun, start = start_from(saved(tmp_path, rule), phi, "update_rule")
    assert set(start.loaded) == set(rule)
    assert all(begun.tensors[f"update_rule.{name}"].all() for name in rule)
    assert not begun.tensors["initialization.head.bias"].any()
    with pytest.raises(ArtifactError, match=r"another update_rule: missing out.bias.*All must fit"):
        start_from(saved(tmp_path, {"0.weight": torch.ones(4, 3)}), phi, "update_rule")
    with pytest.raises(ArtifactError, match=r"another update_rule: .*1.weight"):
        start_from(saved(tmp_path, {**rule, "1.weight": torch.ones(4, 3)}), phi, "update_rule")
    with pytest.raises(ArtifactError, match="learns no update_rule"):
        start_from(saved(tmp_path, rule), fresh(), "update_rule")


def tree(source: str) -> dict[str, Any]:
    return {
        "tasks": {"type": "sinusoid", "shots": 5, "queries": 5},
        "learner": {
            "recipe": "maml",
            "model": {"type": "mlp", "hidden": [4]},
            "slots": {"initialization": {"from": source}},
        },
        "searcher": {"type": "gradient", "lr": 0.01},
        "evaluation": {"type": "episodes", "tasks": 2, "shard": 2},
        "budget": {"steps": 2},
        "execution": {"type": "inline"},
        "numerics": {"compile": "never"},
        "tracking": {"mlflow": False, "report": False},
    }


def weights() -> dict[str, torch.Tensor]:
    shapes = {"layers.0.weight": (4, 1), "layers.0.bias": (4,), "head.weight": (1, 4), "head.bias": (1,)}
    return {name: torch.full(shape, 0.25) for name, shape in shapes.items()}


def test_a_search_starts_there_says_so_and_can_be_resumed_from_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, weights())
    experiment = resolve(tree("weights.pt"), tmp_path)
    with caplog.at_level(logging.WARNING, logger="metasearch"):
        outcome = run(experiment, root=tmp_path / "runs")
    (said,) = [one.getMessage() for one in caplog.records if "initialization from" in one.getMessage()]
    assert "loaded 4: layers.0.weight" in said
    (event,) = [one for one in read(outcome.directory.journal_path) if one.get("event") == "initialization"]
    assert event["detail"]["loaded"] == list(weights())
    phi = initial_phi(experiment.program, 0)
    assert all(torch.equal(phi.tensors[f"initialization.{name}"], value) for name, value in weights().items())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resume(outcome.directory.path).status == "finished"
    from metasearch.loaded import load

    assert load(outcome.phi_path).learner() is not None


def test_check_names_the_key(tmp_path: Path) -> None:
    key = "learner.slots.initialization.from"
    with pytest.raises(ConfigError, match=f"{key}: expected weights at one of .*absent.pt"):
        resolve(tree("absent.pt"), tmp_path)
    saved(tmp_path, {"other": torch.ones(1)})
    with pytest.raises(ConfigError, match=f"{key}: the weights in .* are those of another network"):
        resolve(tree("weights.pt"), tmp_path)


def test_a_network_and_an_optimizer_that_comes_with_the_package_are_starts_together(tmp_path: Path) -> None:
    saved(tmp_path, weights())
    given = tree("weights.pt")
    given["learner"] = {
        "recipe": "lstm_optimizer",
        "model": {"type": "mlp", "hidden": [4]},
        "steps": 2,
        "slots": {
            "initialization": {"type": "tensors", "from": "weights.pt"},
            "update_rule": {**(rule_settings(stored(shipped.folder("lstm-v1"))) or {}), "from": "lstm-v1"},
        },
    }
    experiment = resolve(given, tmp_path)
    assert experiment.file.learner["slots"]["update_rule"]["from"] == "lstm-v1"  # no path of this machine
    phi = initial_phi(experiment.program, 0)
    learned = stored(shipped.folder("lstm-v1")).phi.part("update_rule")
    assert learned
    assert all(torch.equal(phi.tensors[f"update_rule.{name}"], value) for name, value in learned.items())
    assert torch.equal(phi.tensors["initialization.head.bias"], weights()["head.bias"])
    rule = given["learner"]["slots"]["update_rule"]
    with pytest.raises(ConfigError, match=r"update_rule.p: the rule in lstm-v1 was learned with .*, got 3.0"):
        resolve(override(given, {"learner.slots.update_rule": {**rule, "p": 3.0}}), tmp_path)
    with pytest.raises(ConfigError, match=r"update_rule.from: expected weights at .* or one of lstm-v1, small-mlp-v1"):
        resolve(override(given, {"learner.slots.update_rule.from": "lstm-v2"}), tmp_path)


CONV = {"type": "conv4", "filters": 4, "blocks": 2, "head": "flatten"}


@pytest.mark.parametrize(
    "learner",
    [
        {"recipe": "recurrent_reader", "features": 5, "hidden": 6, "embedding": {**CONV, "from": "start"}},
        {"recipe": "prototypical", "model": {**CONV, "from": "start"}},
    ],
)
def test_an_embedding_starts_from_that_of_another_learner(learner: dict[str, Any], tmp_path: Path) -> None:
    spec = TaskSpec("classification", (1, 8, 8), 2, 2, 2)
    source = stored(stored_phi(tmp_path / "start", learner={"type": "transformer", "embedding": CONV}, spec=spec)).phi
    changes = {
        "tasks": {"type": "omniglot", "ways": 2, "shots": 1, "queries": 1, "image_size": 8},
        "learner": learner,
    }
    experiment = resolve({**tree("no"), **changes}, tmp_path)
    said: list[Any] = []
    phi = initial_phi(experiment.program, 0, said.append)
    (start,) = said
    assert start.slot == "embedding"
    assert len(start.loaded) == (
        8 if "model" in learner else 6
    )  # 64 outputs there; a reader with five has its own head
    for name in start.loaded:
        assert torch.equal(phi.tensors[f"embedding.{name}"], source.tensors[f"embedding.{name}"])
    own = phi.buffers if "model" in learner else ("embedding.head.weight", "embedding.head.bias")
    assert {f"embedding.{name}" for name in start.fresh} == set(own)


def test_an_inner_loops_network_starts_by_its_initialization(tmp_path: Path) -> None:
    saved(tmp_path, weights())
    learner = {"recipe": "maml", "model": {"type": "mlp", "hidden": [4], "from": "weights.pt"}}
    with pytest.raises(ConfigError, match=r"learner\.model\.from: .*learns no embedding .*initialization"):
        resolve({**tree("no"), "learner": learner}, tmp_path)
