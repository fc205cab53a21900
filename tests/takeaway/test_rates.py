"""Learned rates in a training loop of one's own: the same numbers that the inner loop computes."""

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import metasearch as ms
from metasearch.core.errors import ArtifactError
from metasearch.loaded import LoadedPhi, load
from metasearch.optim import ElementwiseSGD, schedule
from metasearch.testing.phi import LEARNER, stored_phi

SCALAR = [(kind, per_step) for kind in ("shared", "per_layer", "per_tensor") for per_step in (False, True)]
ALL = [*SCALAR, ("per_parameter", False), ("per_parameter", True)]


def learned(folder: Path, kind: str, per_step: bool, **learner: Any) -> LoadedPhi:
    """A phi whose rates all differ, one of them negative; three inner steps in training."""
    rates = {"type": kind, "init": [0.1, 0.4], "per_step": per_step}
    block = {**LEARNER, "steps": 3, "slots": {**LEARNER["slots"], "learning_rates": rates}, **learner}
    phi = load(stored_phi(folder / "phi", learner=block))
    last = [value for name, value in phi.phi.tensors.items() if name.startswith("learning_rates.")][-1]
    last.neg_()
    return phi


def support() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 1, 2, 2, 1, 0])


def train(module: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any = None, steps: int = 5) -> None:
    x, y = support()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def arrives(phi: LoadedPhi, module: nn.Module, steps: int = 5) -> None:
    expected = phi.adapt(*support(), steps=steps).parameters
    for name, value in module.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "per_step"), SCALAR)
def test_param_groups_in_a_plain_loop_arrive_where_the_inner_loop_does(
    tmp_path: Path, kind: str, per_step: bool
) -> None:
    phi = learned(tmp_path, kind, per_step)
    module = phi.network()
    optimizer = torch.optim.SGD(phi.param_groups(module))
    assert len(optimizer.param_groups) == {"shared": 1, "per_layer": 2, "per_tensor": 4}[kind]
    train(module, optimizer, phi.scheduler(optimizer))  # five steps; training had three
    arrives(phi, module)


@pytest.mark.parametrize(("kind", "per_step"), ALL)
def test_sgd_in_a_plain_loop_arrives_where_the_inner_loop_does(tmp_path: Path, kind: str, per_step: bool) -> None:
    phi = learned(tmp_path, kind, per_step)
    module = phi.network()
    train(module, phi.sgd(module))
    arrives(phi, module)


def test_a_fixed_rate_is_a_group_too(tmp_path: Path) -> None:
    phi = load(stored_phi(tmp_path / "phi"))
    module = phi.network()
    (group,) = phi.param_groups(module)
    assert group["lr"] == 0.4
    assert group["param_names"] == ["layers.0.weight", "layers.0.bias", "head.weight", "head.bias"]
    train(module, torch.optim.SGD([group]))
    arrives(phi, module)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_every_optimizer_of_torch_takes_the_groups(tmp_path: Path, make: Any) -> None:
    phi = learned(tmp_path, "per_layer", False)
    module = phi.network()
    optimizer = make(phi.param_groups(module))
    rates = [float(phi.phi.tensors[f"learning_rates.{layer}"]) for layer in ("layers.0", "head")]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(rates)
    train(module, optimizer, steps=2)


def test_groups_can_be_those_of_any_step(tmp_path: Path) -> None:
    phi = learned(tmp_path, "per_layer", True)
    rates = phi.phi.tensors["learning_rates.layers.0"]
    found = [phi.param_groups(phi.network(), step=step)[0]["lr"] for step in (0, 1, 2, 7)]
    assert found == pytest.approx([float(rates[step]) for step in (0, 1, 2, 2)])


def test_rates_of_single_numbers_are_refused_with_what_to_do(tmp_path: Path) -> None:
    phi = learned(tmp_path, "per_parameter", False)
    module = phi.network()
    with pytest.raises(ArtifactError, match=r"weight have a learned rate for each .*\.sgd\(module\).*average=True"):
        phi.param_groups(module)
    groups = phi.param_groups(module, average=True)
    means = {name: float(value.mean()) for name, value in phi.phi.part("learning_rates").items()}
    assert {name: group["lr"] for group in groups for name in group["param_names"]} == pytest.approx(means)


def test_another_last_layer_keeps_its_rates(tmp_path: Path) -> None:
    phi = learned(tmp_path, "per_layer", False)
    assert [len(group["params"]) for group in phi.param_groups(phi.network(7))] == [2, 2]
    wide = learned(tmp_path / "wide", "per_parameter", False)
    module = wide.network(7)
    wide.sgd(module, ways=7)
    with pytest.raises(ms.MetasearchError, match=r"head\.weight' have shape \[1, 3, 8\].*fits \[7, 8\]"):
        wide.sgd(module)


def test_parameters_that_the_inner_loop_never_changed_are_left_out_or_take_the_rest_s_rate(tmp_path: Path) -> None:
    phi = learned(tmp_path, "shared", False, adapt=["head.*"])
    module = phi.network()
    (group,) = phi.param_groups(module)
    assert group["param_names"] == ["head.weight", "head.bias"]
    _, rest = phi.param_groups(module, rest=1e-3)
    assert (rest["param_names"], rest["lr"]) == (["layers.0.weight", "layers.0.bias"], 1e-3)
    train(module, torch.optim.SGD([group]))
    arrives(phi, module)
    optimizer = torch.optim.SGD(phi.param_groups(module, rest=1e-3))
    scheduler = phi.scheduler(optimizer)
    train(module, optimizer, scheduler, steps=2)
    assert optimizer.param_groups[1]["lr"] == 1e-3


def test_saved_in_the_middle_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    phi = learned(tmp_path, "per_tensor", True)
    for make in (lambda module: torch.optim.SGD(phi.param_groups(module)), phi.sgd):
        whole = phi.network()
        optimizer = make(whole)
        stepped = not isinstance(optimizer, ElementwiseSGD)
        scheduler = phi.scheduler(optimizer) if stepped else None
        train(whole, optimizer, scheduler, steps=2)
        half = copy.deepcopy(whole)
        buffer = io.BytesIO()
        torch.save([optimizer.state_dict(), scheduler and scheduler.state_dict()], buffer)
        train(whole, optimizer, scheduler, steps=3)
        buffer.seek(0)
        states = torch.load(buffer, weights_only=True)
        again = make(half)
        following = phi.scheduler(again) if stepped else None
        again.load_state_dict(states[0])
        if following is not None:
            following.load_state_dict(states[1])
        train(half, again, following, steps=3)
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), half.parameters(), strict=True))


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    phi = learned(tmp_path, "per_layer", True)
    module = phi.network()
    with pytest.raises(ArtifactError, match=r"Linear has no parameters layers\.0\.weight.*\.network\(\)"):
        phi.param_groups(nn.Linear(2, 2))
    with pytest.raises(ArtifactError, match=r"does not name its parameters.*param_groups"):
        phi.scheduler(torch.optim.SGD(module.parameters(), lr=0.1))
    with pytest.raises(ArtifactError, match="are in one group and have different learned rates"):
        phi.scheduler(torch.optim.SGD(module.named_parameters(), lr=0.1))
    with pytest.raises(ArtifactError, match="it needs no scheduler"):
        phi.scheduler(phi.sgd(module))
    with pytest.raises(ArtifactError, match="PixelNearestNeighbour takes no inner steps"):
        load(stored_phi(tmp_path / "none", learner={"type": "nearest_neighbour"})).param_groups(module)


def objective(config: dict[str, Any], trial: Any) -> float:
    """Ten steps on a parabola under the chosen curve."""
    point = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = torch.optim.SGD([point], lr=1.0)
    scheduler = schedule(config["curve"]).scheduler(optimizer, config["steps"])
    for _ in range(config["steps"]):
        optimizer.zero_grad()
        (point * point * torch.tensor([0.5, 5.0])).sum().backward()
        optimizer.step()
        scheduler.step()
    return float((point * point).sum())


CURVES: dict[str, dict[str, Any]] = {
    "warmup_cosine": {
        "type": "warmup_cosine",
        "peak": {"float": [0.01, 0.3], "log": True},
        "warmup": {"float": [0.0, 0.5]},
        "floor": 0.1,
    },
    "pieces": {"type": "pieces", "values": [{"float": [0.01, 0.3], "log": True}] * 3},
}


@pytest.mark.parametrize("kind", CURVES)
def test_a_searched_schedule_leaves_as_a_scheduler(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = ms.search(
        name="curve",
        objective=objective,
        space={"curve": CURVES[kind], "steps": 10},
        searcher={"type": "optuna", "sampler": "tpe"},
        budget={"evaluations": 6},
        execution={"type": "inline"},
        tracking={"mlflow": False, "report": False},
        runs=tmp_path / "runs",
    )
    assert run.results is not None
    phi = ms.load(run.phi_path)
    module = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    scheduler = phi.scheduler(optimizer, steps=10, name="curve")
    found = []
    for _ in range(10):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    chosen = {name.removeprefix("evaluation.config.curve."): one for name, one in phi.phi.choices.items()}
    if kind == "pieces":
        assert sorted(set(found), key=found.index) == [chosen[f"values.{index}"] for index in range(3)]
    else:
        assert max(found) <= chosen["peak"]
        assert found[-1] == pytest.approx(0.1 * chosen["peak"])
    settings = {"steps": 10, "curve": {**CURVES[kind], **chosen}}
    if kind == "pieces":
        settings["curve"] = {"type": "pieces", "values": [chosen[f"values.{index}"] for index in range(3)]}
    assert objective(settings, None) == run.results["selected"]["L"]
    with pytest.raises(ArtifactError, match=r"no setting 'schedule' .*settings: curve, steps"):
        phi.scheduler(optimizer, steps=10)
    with pytest.raises(ArtifactError, match="needs the length of the run"):
        phi.scheduler(optimizer, name="curve")


def test_rates_and_schedule_work_in_a_lightning_module(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="needs the extra: pip install -e '.[lightning]'")
    phi = learned(tmp_path, "per_layer", True)

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = phi.network()

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(phi.param_groups(self.net))
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": phi.scheduler(optimizer), "interval": "step"},
            }

    module = Module()
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*support()), batch_size=6)
    trainer = lightning.Trainer(
        max_steps=5,
        max_epochs=5,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, data)
    arrives(phi, module.net)
