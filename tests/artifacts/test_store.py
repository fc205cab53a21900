import importlib.metadata
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from metasearch.artifacts import FORMAT, Manifest, Provenance, check_fits, load, save
from metasearch.core.errors import ArtifactError
from metasearch.core.seeds import ALGORITHM
from metasearch.core.values import Phi, fingerprint

FORMAT_1 = Path(__file__).parent / "fixtures" / "format1"


def manifest(**changes: Any) -> Manifest:
    values = {
        "components": {"initialization": "tensors"},
        "model": {"type": "mlp", "hidden": [2]},
        "config": {"seed": 3, "learner": {"model": {"type": "mlp"}}},
        "provenance": Provenance(
            run="run", evaluations=10, selected_step=5, seeds={"search": 2**62}, validation={"L": math.inf}
        ),
    }
    return Manifest(**{**values, **changes})


def phi() -> Phi:
    return Phi(
        tensors={"initialization.w": torch.randn(2, 3).T, "initialization.half": torch.randn(2).bfloat16()},
        buffers={"initialization.count": torch.tensor(4)},
        choices={"rate": 0.1, "op": "nan", "sizes": [1, 2]},
    )


def damage_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def damage_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    path = folder / "phi.safetensors"
    tensors = load_file(path)
    for name, value in changes.items():
        key = f"tensors/initialization.{name}"
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value
    save_file(tensors, path)


def test_phi_comes_back_bit_for_bit_with_its_manifest(tmp_path: Path) -> None:
    before = phi()
    written = save(tmp_path / "a" / "phi", before, manifest())
    stored = load(tmp_path / "a" / "phi")
    assert fingerprint(stored.phi.tensors) == fingerprint(before.tensors)
    assert fingerprint(stored.phi.buffers) == fingerprint(before.buffers)
    assert stored.phi.choices == before.choices
    assert stored.manifest == written
    assert stored.manifest.tensors["initialization.w"].shape == (3, 2)
    assert stored.manifest.tensors["initialization.half"].dtype == "bfloat16"
    assert stored.manifest.provenance.validation == {"L": math.inf}


def test_provenance_names_versions_seed_algorithm_and_date() -> None:
    provenance = manifest().provenance
    assert provenance.seed_algorithm == ALGORITHM
    assert provenance.versions["torch"] == importlib.metadata.version("torch")
    assert set(provenance.versions) == {"python", "metasearch", "torch", "numpy"}
    assert provenance.date.endswith("+00:00")


def test_tied_tensors_and_gradients_are_stored_as_plain_values(tmp_path: Path) -> None:
    weight = torch.ones(2, requires_grad=True)
    save(tmp_path / "phi", Phi({"a.w": weight, "b.w": weight}), manifest())
    tensors = load(tmp_path / "phi").phi.tensors
    assert not tensors["a.w"].requires_grad
    assert tensors["a.w"].data_ptr() != tensors["b.w"].data_ptr()


def test_the_folder_holds_json_and_safetensors_only(tmp_path: Path) -> None:
    save(tmp_path / "phi", phi(), manifest())
    save(tmp_path / "phi", phi(), manifest())
    assert [entry.name for entry in tmp_path.iterdir()] == ["phi"]
    assert sorted(entry.name for entry in (tmp_path / "phi").iterdir()) == ["manifest.json", "phi.safetensors"]


def test_a_folder_with_other_files_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match="give an empty or new folder"):
        save(tmp_path, phi(), manifest())
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_setting_that_is_no_plain_value_is_refused_and_the_old_phi_stays(tmp_path: Path) -> None:
    save(tmp_path / "phi", phi(), manifest())
    with pytest.raises(ArtifactError, match="manifest cannot be written"):
        save(tmp_path / "phi", phi(), manifest(config={"a": object()}))
    assert load(tmp_path / "phi").manifest.config["seed"] == 3


def test_a_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read"):
        load(tmp_path / "nothing")
    save(tmp_path / "phi", phi(), manifest())
    (tmp_path / "phi" / "phi.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"phi\.safetensors cannot be read"):
        load(tmp_path / "phi")


def test_a_newer_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    save(tmp_path / "phi", phi(), manifest())
    damage_manifest(tmp_path / "phi", format=FORMAT + 1, components=["not", "what", "it", "was"])
    with pytest.raises(ArtifactError, match=f"format {FORMAT + 1}.*reads up to {FORMAT}.*pip install --upgrade"):
        load(tmp_path / "phi")


@pytest.mark.parametrize("version", [None, 0, "1"])
def test_a_manifest_without_format_is_no_phi(tmp_path: Path, version: Any) -> None:
    save(tmp_path / "phi", phi(), manifest())
    damage_manifest(tmp_path / "phi", format=version)
    with pytest.raises(ArtifactError, match="no valid format number"):
        load(tmp_path / "phi")


def test_keys_of_a_later_release_are_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "phi", phi(), manifest())
    damage_manifest(tmp_path / "phi", licence="CC0")
    assert load(tmp_path / "phi").phi.choices["op"] == "nan"


def test_a_manifest_damaged_inside_names_the_place(tmp_path: Path) -> None:
    save(tmp_path / "phi", phi(), manifest())
    damage_manifest(tmp_path / "phi", provenance={"run": "x"})
    with pytest.raises(ArtifactError, match=r"damaged at provenance\.evaluations"):
        load(tmp_path / "phi")
    (tmp_path / "phi" / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="not JSON"):
        load(tmp_path / "phi")


def test_a_wrong_shape_is_shown_with_the_right_one(tmp_path: Path) -> None:
    save(tmp_path / "phi", phi(), manifest())
    damage_tensors(tmp_path / "phi", w=torch.zeros(4, 2))
    with pytest.raises(ArtifactError, match=r"initialization\.w should have shape \[3, 2\], got \[4, 2\]"):
        load(tmp_path / "phi")


def test_a_wrong_dtype_and_changed_numbers_are_seen(tmp_path: Path) -> None:
    save(tmp_path / "phi", phi(), manifest())
    damage_tensors(tmp_path / "phi", half=torch.zeros(2))
    with pytest.raises(ArtifactError, match="should be bfloat16, got float32"):
        load(tmp_path / "phi")
    damage_tensors(tmp_path / "phi", half=torch.zeros(2).bfloat16())
    with pytest.raises(ArtifactError, match="hash"):
        load(tmp_path / "phi")


def test_missing_and_unexpected_tensors_are_named(tmp_path: Path) -> None:
    save(tmp_path / "phi", phi(), manifest())
    damage_tensors(tmp_path / "phi", w=None, extra=torch.zeros(1))
    with pytest.raises(ArtifactError, match=r"missing \['tensors/initialization\.w'\], unexpected .*extra"):
        load(tmp_path / "phi")


def test_a_damaged_tensor_file_is_named(tmp_path: Path) -> None:
    save(tmp_path / "phi", phi(), manifest())
    path = tmp_path / "phi" / "phi.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ArtifactError, match=r"phi\.safetensors is damaged"):
        load(tmp_path / "phi")


def test_phi_is_checked_against_the_learner_it_is_put_into() -> None:
    template = Phi({"a.w": torch.zeros(2, 3)}, {"a.n": torch.zeros(1)})
    check_fits(Phi({"a.w": torch.ones(2, 3)}, {"a.n": torch.ones(1)}), template)
    with pytest.raises(ArtifactError, match=r"a\.w should have shape \[2, 3\], got \[3, 2\]"):
        check_fits(Phi({"a.w": torch.ones(3, 2)}, {"a.n": torch.ones(1)}), template)
    with pytest.raises(ArtifactError, match=r"buffers.*missing \['a\.n'\]"):
        check_fits(Phi({"a.w": torch.ones(2, 3)}), template)


def test_loading_imports_no_code_that_the_manifest_names(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')")
    save(tmp_path / "phi", phi(), manifest(components={"initialization": "mine:Init"}, config={"type": "mine:Net"}))
    code = "import sys; from metasearch.artifacts import load; load('phi'); assert 'mine' not in sys.modules"
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)


def test_the_first_format_still_loads() -> None:
    stored = load(FORMAT_1)
    tensors = stored.phi.tensors
    assert sorted(tensors) == [
        "initialization.head.bias",
        "initialization.head.weight",
        "initialization.layers.0.bias",
        "initialization.layers.0.weight",
        "learning_rates.value",
    ]
    assert tensors["initialization.layers.0.weight"].tolist() == [[0.5], [-0.25], [1.5], [-2.0]]
    assert tensors["learning_rates.value"].dtype == torch.float64
    assert stored.phi.buffers["initialization.norms.0.steps"].item() == 3
    assert stored.phi.choices == {
        "learner.steps.train": 5,
        "slots.update_rule.momentum": 0.9,
        "slots.augmentation": "rotate",
    }
    assert stored.manifest.components["update_rule"] == "sgd"
    assert stored.manifest.config["seed"] == 7
    assert stored.manifest.provenance.selected_step == 250
    assert stored.manifest.provenance.validation["L"] == 0.75
