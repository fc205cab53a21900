import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from metasearch import artifacts
from metasearch.core.errors import ArtifactError
from metasearch.core.registry import registry
from metasearch.core.values import Batch, TaskSpec
from metasearch.learners.losses import squared_error
from metasearch.loaded import LoadedPhi, load
from metasearch.testing.phi import LEARNER, stored_phi

IMAGES = TaskSpec("classification", (1, 8, 8), 3, 3, 6)
CONV4 = {**LEARNER, "model": {"type": "conv4", "filters": 4, "blocks": 2}}
META_SGD = {**LEARNER, "slots": {**LEARNER["slots"], "learning_rates": {"type": "per_parameter", "init": 0.1}}}
RANDOM = {**LEARNER, "slots": {**LEARNER["slots"], "initialization": {"type": "random"}}}
PARTS = """
from metasearch.core.registry import registry
from metasearch.models.mlp import MLP

registry("model").add("theirs", MLP)
"""
NETS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.body = nn.Linear(4, 5)
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, classes)

    def forward(self, x):
        return self.head(self.norm(self.body(x)).relu())
"""


def learned(folder: Path, **given: Any) -> LoadedPhi:
    return load(stored_phi(folder / "phi", **given))


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def with_config(folder: Path, **config: Any) -> Path:
    """The phi of a folder with another configuration in its manifest."""
    stored = artifacts.load(folder)
    artifacts.save(
        folder, stored.phi, stored.manifest.model_copy(update={"config": {**stored.manifest.config, **config}})
    )
    return folder


def test_a_phi_is_found_by_folder_run_folder_id_and_beginning_of_an_id(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "tiny-20260102-030405-abc123"
    stored_phi(run / "phi")
    (run / "config.yaml").write_text("name: tiny\n")
    for uri in (run / "phi", run, str(run), run / "phi" / "manifest.json", run.name, "abc123", "tiny-2026"):
        assert load(uri, runs=tmp_path / "runs").manifest.provenance.run == "example"


def test_a_run_without_a_phi_and_a_place_without_a_run_say_what_was_tried(tmp_path: Path) -> None:
    run = tmp_path / "tiny-20260102-030405-abc123"
    run.mkdir()
    (run / "config.yaml").write_text("name: tiny\n")
    with pytest.raises(ArtifactError, match=r"abc123 has no phi yet.*manifest\.json.*resume"):
        load("abc123", runs=tmp_path)
    with pytest.raises(
        ArtifactError, match=r"'nowhere'\. Tried: nowhere/manifest.json, nowhere/phi/manifest.json.*Runs there: tiny"
    ):
        load("nowhere", runs=tmp_path)


def test_the_learner_is_built_again_without_data_and_takes_the_stored_phi(tmp_path: Path) -> None:
    phi = learned(tmp_path, learner=META_SGD)
    artifacts.check_fits(phi.phi, phi.learner().init(0))
    assert phi.spec == TaskSpec("classification", (4,), 3, 3, 6)
    assert phi.learner() is phi.learner()
    assert phi.learner(5).init(0).tensors["initialization.head.weight"].shape == (5, 8)


def test_ranges_in_the_manifest_take_the_values_that_were_chosen(tmp_path: Path) -> None:
    folder = stored_phi(tmp_path / "phi")
    stored = artifacts.load(folder)
    rates = {"type": "fixed", "value": {"float": [0.01, 1.0], "log": True, "searcher": "tpe"}}
    slots = {**LEARNER["slots"], "learning_rates": rates, "initialization": {"type": "tensors", "searcher": "weights"}}
    manifest = stored.manifest.model_copy(update={"config": {"learner": {**LEARNER, "slots": slots}}})
    choices = {"learner.slots.learning_rates.value": 0.25, "tasks.unrelated": 3}
    artifacts.save(folder, stored.phi.replace(choices=choices), manifest)
    learner: Any = load(folder).learner()
    assert learner.slots["learning_rates"].config.value == 0.25


def test_an_adapted_network_computes_what_the_inner_loop_computes(tmp_path: Path) -> None:
    phi = learned(tmp_path, learner=CONV4, spec=IMAGES)
    support, query, y = images(4), images(6, seed=1), torch.tensor([0, 1, 2, 2])
    inside: Any = phi.learner().adapt(phi.phi, Batch(support[None], y[None]), 0)
    outside = phi.adapt(support, y)
    assert torch.equal(outside(query), inside(query[None])[0])
    for name, value in outside.parameters.items():
        assert torch.equal(value, inside.theta[name][0])
    torch.testing.assert_close(outside.module()(query), outside(query), rtol=1e-5, atol=1e-6)


def test_plain_torch_from_the_network_arrives_where_the_inner_loop_does(tmp_path: Path) -> None:
    phi = learned(tmp_path, learner=CONV4, spec=IMAGES)
    support, y = images(4), torch.tensor([0, 1, 2, 2])
    module = phi.network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.4)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(module(support), y).backward()
        optimizer.step()
    found = phi.adapt(support, y, steps=5).parameters
    for name, value in module.named_parameters():
        torch.testing.assert_close(value.detach(), found[name], rtol=1e-4, atol=1e-6)


def test_no_inner_step_leaves_the_initialization(tmp_path: Path) -> None:
    phi = learned(tmp_path)
    network = phi.adapt(torch.eye(3, 4), [0, 1, 2], steps=0)
    initial = phi.initialization()
    assert set(network.parameters) == set(initial)
    assert all(torch.equal(value, initial[name]) for name, value in network.parameters.items())


@pytest.mark.parametrize(
    ("y", "steps", "message"),
    [
        ([0, 1, 3], None, "expected classes from 0 to 2, got 0 to 3"),
        ([0, 1], None, r"expected 3 whole numbers as classes, got torch.int64 of shape \[2\]"),
        ([0.0, 1.0, 2.0], None, "whole numbers as classes, got torch.float32"),
        ([0, 1, 2], -1, "at least 0 inner steps, got -1"),
    ],
)
def test_impossible_support_sets_are_refused(tmp_path: Path, y: list[float], steps: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learned(tmp_path).adapt(torch.eye(3, 4), torch.tensor(y), steps)


def test_another_number_of_outputs_starts_at_zero_and_takes_mean_rates(tmp_path: Path) -> None:
    phi = learned(tmp_path, learner=META_SGD)
    rates = torch.arange(24.0).reshape(3, 8)
    phi.phi.tensors["learning_rates.head.weight"] = rates
    changed = phi.for_ways(5).tensors
    assert torch.equal(changed["initialization.head.weight"], torch.zeros(5, 8))
    assert torch.equal(changed["initialization.head.bias"], torch.zeros(5))
    assert torch.equal(changed["learning_rates.head.weight"], rates.mean(0).expand(5, 8))
    assert torch.equal(changed["initialization.layers.0.weight"], phi.phi.tensors["initialization.layers.0.weight"])
    assert phi.for_ways(3) is phi.phi


def test_a_head_that_the_inner_loop_never_changes_cannot_start_at_zero(tmp_path: Path) -> None:
    phi = learned(tmp_path, learner={**LEARNER, "adapt": ["layers.*"]})
    with pytest.raises(ArtifactError, match=r"head\.weight, head\.bias.*does not change them"):
        phi.for_ways(5)
    only_head = load(stored_phi(tmp_path / "anil", learner={**LEARNER, "adapt": ["head.*"]}))
    assert only_head.for_ways(5).tensors["initialization.head.weight"].shape == (5, 8)


def test_the_network_holds_the_initialization_and_draws_nothing(tmp_path: Path) -> None:
    phi = learned(tmp_path)
    state = torch.random.get_rng_state()
    same, other = phi.network(), phi.network(7)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in phi.initialization().items():
        assert torch.equal(same.get_parameter(name), value)
    assert torch.equal(other.get_parameter("layers.0.weight"), same.get_parameter("layers.0.weight"))
    assert other.get_parameter("head.weight").shape == (7, 8)
    assert torch.equal(other.get_parameter("head.weight"), phi.network(7).get_parameter("head.weight"))
    assert other.get_parameter("head.weight").std() > 0


class Twin(nn.Module):
    """The architecture of the stored phi, written by somebody else."""

    def __init__(self, hidden: int = 8, classes: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, hidden)])
        self.head = nn.Linear(hidden, classes)


def test_initialize_fills_a_module_and_says_so(tmp_path: Path) -> None:
    phi, module = learned(tmp_path), Twin().double()
    report = phi.initialize(module)
    assert set(report.loaded) == {"layers.0.weight", "layers.0.bias", "head.weight", "head.bias"}
    assert not report.fresh
    assert str(report) == "loaded 4: layers.0.weight, layers.0.bias, head.weight, head.bias"
    for name, value in phi.initialization().items():
        assert torch.equal(module.get_parameter(name), value.double())


def test_initialize_leaves_a_head_for_other_classes_as_it_is(tmp_path: Path) -> None:
    phi, module = learned(tmp_path), Twin(classes=7)
    head = module.head.weight.detach().clone()
    report = phi.initialize(module)
    assert report.loaded == ("layers.0.weight", "layers.0.bias")
    assert report.fresh == {"head.weight": ((3, 8), (7, 8)), "head.bias": ((3,), (7,))}
    assert torch.equal(module.head.weight, head)
    assert torch.equal(module.get_parameter("layers.0.weight"), phi.initialization()["layers.0.weight"])


def wider(module: Twin) -> nn.Module:
    module.layers.append(nn.Linear(8, 8))
    return module


def without_bias(module: Twin) -> nn.Module:
    module.head = nn.Linear(8, 3, bias=False)
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Twin(hidden=9), r"layers\.0\.weight was learned with shape \[8, 4\], the module has \[9, 4\]; only the last"),
        (Twin(hidden=9, classes=7), r"layers\.0\.weight was learned with shape \[8, 4\], the module has \[9, 4\]"),
        (wider(Twin()), r"lacks none and has \['layers\.1\.weight', 'layers\.1\.bias'\]"),
        (without_bias(Twin()), r"lacks \['head\.bias'\] and has none"),
    ],
)
def test_initialize_refuses_what_does_not_fit_and_changes_nothing(
    tmp_path: Path, module: nn.Module, message: str
) -> None:
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ArtifactError, match=message):
        learned(tmp_path).initialize(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_phi_without_learned_initialization_says_so(tmp_path: Path) -> None:
    phi = learned(
        tmp_path, learner={**RANDOM, "slots": {**RANDOM["slots"], "learning_rates": {"type": "shared", "init": 0.1}}}
    )
    with pytest.raises(ArtifactError, match=r"no learned initialization \(it holds: learning_rates\)"):
        phi.initialize(Twin())
    with pytest.raises(ArtifactError, match=r"no learned initialization to write to phi\.pt"):
        phi.save(tmp_path / "phi.pt")
    assert phi.initialization() == {}
    assert phi.adapt(torch.eye(3, 4), [0, 1, 2])(torch.eye(3, 4)).shape == (3, 3)


def test_code_of_a_user_is_imported_only_with_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    folder = stored_phi(tmp_path / "phi", learner={**LEARNER, "model": {"type": "their_nets:Net"}})
    monkeypatch.delitem(sys.modules, "their_nets")
    phi = load(folder)
    with pytest.raises(ArtifactError, match=r"not part of metasearch: their_nets:Net.*allow_user_code=True"):
        phi.learner()
    assert "their_nets" not in sys.modules
    assert phi.learner(allow_user_code=True) is phi.learner(allow_user_code=True)
    network = load(folder, allow_user_code=True).network()
    assert torch.equal(network.get_parameter("body.weight"), phi.initialization()["body.weight"])
    report = phi.initialize(sys.modules["their_nets"].Net(classes=4))
    assert "running statistics" in str(report)
    assert set(report.fresh) == {"head.weight", "head.bias"}


def test_modules_that_the_search_imported_are_imported_only_with_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_parts.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(registry("model"), "_entries", {**registry("model")._entries})
    learner = {**LEARNER, "model": {"type": "theirs", "hidden": [8]}}
    folder = with_config(stored_phi(tmp_path / "phi"), learner=learner, imports=["their_parts"])
    with pytest.raises(ArtifactError, match=r"unknown model 'theirs'.*imported their_parts; allow_user_code=True"):
        load(folder).learner()
    assert "their_parts" not in sys.modules
    assert isinstance(load(folder, allow_user_code=True).network(), nn.Module)


@pytest.mark.parametrize(
    "model",
    [
        {"type": "module", "factory": "metasearch.core.files:os.mkdir", "arguments": {"path": "run"}},
        {"type": "module", "factory": "metasearch.core.registry:resolve", "arguments": {"reference": "mlp"}},
        {"type": "their_trap:Net!"},
        {"type": " their_trap:Net"},
        {"type": "metasearch.nowhere:Net"},
    ],
)
def test_no_spelling_of_a_reference_runs_other_code_without_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, Any]
) -> None:
    (tmp_path / "their_trap.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    phi = load(with_config(stored_phi(tmp_path / "phi"), learner={**LEARNER, "model": model}))
    with pytest.raises(ArtifactError, match="not part of metasearch"):
        phi.learner()
    assert not (tmp_path / "run").exists()
    assert "their_trap" not in sys.modules


def test_a_loss_that_tasks_brought_along_is_used_again(tmp_path: Path) -> None:
    stored = artifacts.load(stored_phi(tmp_path / "phi"))

    def with_loss(loss: str) -> LoadedPhi:
        spec = {**stored.manifest.spec, "loss": loss}
        return LoadedPhi(artifacts.StoredPhi(stored.phi, stored.manifest.model_copy(update={"spec": spec})))

    assert with_loss("metasearch.learners.losses:squared_error").spec.loss is squared_error
    for loss in ("theirs:loss", "metasearch.learners.losses:torch.load"):
        with pytest.raises(ArtifactError, match="allow_user_code=True"):
            with_loss(loss).learner()


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (None, "describes no learner"),
        ({"object": "__main__:Mine"}, r"learner was given as an object \(__main__:Mine\)"),
        ({**LEARNER, "model": {"object": "torch.nn.modules:Linear"}}, r"learner\.model was given as an object"),
        ({**LEARNER, "steps": "many"}, "cannot be built here: learner.steps"),
    ],
)
def test_a_learner_that_cannot_be_built_says_why(tmp_path: Path, learner: Any, message: str) -> None:
    phi = load(with_config(stored_phi(tmp_path / "phi"), learner=learner))
    with pytest.raises(ArtifactError, match=message):
        phi.learner()
    assert len(phi.initialize(Twin()).loaded) == 4


def test_a_manifest_without_shapes_still_gives_its_tensors(tmp_path: Path) -> None:
    stored = artifacts.load(stored_phi(tmp_path / "phi"))
    phi = LoadedPhi(artifacts.StoredPhi(stored.phi, stored.manifest.model_copy(update={"spec": {}})))
    with pytest.raises(ArtifactError, match="no input_shape, kind, outputs in spec"):
        phi.learner()
    assert len(phi.initialize(Twin()).loaded) == 4


@pytest.mark.parametrize("name", ["copy", "phi.safetensors", "phi.pt"])
def test_save_writes_a_folder_or_a_state_dict(tmp_path: Path, name: str) -> None:
    phi = learned(tmp_path)
    path = phi.save(tmp_path / "out" / name)
    if name == "copy":
        again = load(path)
        assert again.manifest == phi.manifest
        values = again.initialization()
    else:
        values = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        phi.network().load_state_dict(values)
    assert all(torch.equal(value, values[name]) for name, value in phi.initialization().items())


def test_a_safetensors_file_names_the_run_it_comes_from(tmp_path: Path) -> None:
    with safe_open(learned(tmp_path).save(tmp_path / "phi.safetensors"), "pt") as file:
        assert file.metadata()["metasearch.run"] == "example"


def test_a_loaded_phi_says_what_it_is(tmp_path: Path) -> None:
    phi = learned(tmp_path, learner=META_SGD)
    assert (
        repr(phi) == "LoadedPhi('example', step 0: initialization 67 values, learning_rates 67 values; validation L 1)"
    )
    for part in ("learned:", "mlp", "classification, inputs [4], 3 outputs", "validation: L 1", str(tmp_path)):
        assert part in " ".join(str(phi).split())


def test_a_loaded_phi_survives_pickling(tmp_path: Path) -> None:
    phi = learned(tmp_path)
    before = phi.adapt(torch.eye(3, 4), [0, 1, 2])(torch.eye(3, 4))
    again = pickle.loads(pickle.dumps(phi))
    assert torch.equal(again.adapt(torch.eye(3, 4), [0, 1, 2])(torch.eye(3, 4)), before)
