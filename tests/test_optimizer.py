"""A learned rule as an optimizer: the inner loop's numbers, and what torch's own optimizers can do."""

from __future__ import annotations

import copy
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import metasearch.takeaway.optimizer as module
from metasearch.core.errors import ArtifactError
from metasearch.core.registry import build
from metasearch.core.values import Batch, Task, TaskSpec
from metasearch.loaded import LoadedPhi, load
from metasearch.takeaway.optimizer import LearnedOptimizer
from metasearch.testing.phi import LEARNER, stored_phi

GOLDEN = Path(__file__).parent / "golden_optimizers.json"
SPEC = TaskSpec("regression", (5,), 2, 6, 6)
RULES: dict[str, dict[str, Any]] = {
    "lstm": {"type": "lstm", "hidden": 6, "scale": 0.1},
    "mlp": {"type": "mlp", "hidden": [4, 4], "momenta": [0.9], "second_moments": [0.999], "size": 0.05},
    "momentum": {"type": "learned_momentum", "rate": 0.05},
    "adam": {"type": "learned_adam", "rate": 0.05},
    "adam for each tensor": {"type": "learned_adam", "rate": 0.05, "constants": "tensor"},
    "padam": {"type": "learned_padam", "rate": 0.05, "power": 0.4, "knots": [0, 2], "constants": "tensor"},
}


def block(rule: dict[str, Any]) -> dict[str, Any]:
    slots = {"initialization": {"type": "random"}, "update_rule": rule}
    model = {"type": "mlp", "hidden": [7], "activation": "tanh"}
    return {"type": "inner_loop", "model": model, "steps": 5, "slots": slots}


def learned(folder: Path, rule: dict[str, Any]) -> LoadedPhi:
    return load(stored_phi(folder / "phi", learner=block(rule), spec=SPEC))


class Net(nn.Module):
    """The inner loop's network, written with torch's layers under the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 7)])
        self.head = nn.Linear(7, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.layers[0](x)))


def data(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(6, 5, generator=draw).to(dtype), torch.randn(6, 2, generator=draw).to(dtype)


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, count: int = 5) -> nn.Module:
    x, y = (one.to(next(net.parameters()).dtype) for one in data())
    for _ in range(count):
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()
    return net


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def values(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in net.named_parameters()}


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.fixture
def lstm(tmp_path: Path) -> LoadedPhi:
    return learned(tmp_path, RULES["lstm"])


@pytest.mark.parametrize("case", RULES)
@pytest.mark.parametrize("piece", [4, 1 << 16])
def test_the_numbers_are_those_of_the_inner_loop(
    case: str, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", piece)
    phi = learned(tmp_path, RULES[case])
    inside: Any = build("learner", block(RULES[case]), "learner", spec=SPEC)
    x, y = data(torch.float64)
    batch = Batch(x[None], y[None])
    task = Task(batch, batch, torch.zeros(1, dtype=torch.int64).numpy())
    wide = phi.phi.to("cpu", torch.float64)
    state = inside.begin(wide, task, 3)
    outside = Net().double()
    with torch.no_grad():
        for name, parameter in outside.named_parameters():
            parameter.copy_(state["theta"][name][0])
    optimizer = phi.optimizer(outside.named_parameters())
    for _ in range(5):
        state = inside.step(wide, task, state, 3, create_graph=False)
        optimizer.zero_grad()
        F.mse_loss(outside(x), y).backward()
        optimizer.step()
        for name, parameter in outside.named_parameters():
            torch.testing.assert_close(parameter.detach(), state["theta"][name][0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", RULES)
def test_a_trajectory_of_an_earlier_version_is_repeated(case: str, tmp_path: Path) -> None:
    """`python tests/test_optimizer.py` writes the fixture again, if the numbers shall change."""
    torch.testing.assert_close(
        trajectory(tmp_path, case), torch.tensor(json.loads(GOLDEN.read_text())[case]), rtol=2e-5, atol=1e-6
    )


def trajectory(folder: Path, case: str) -> torch.Tensor:
    """The sum of squares of all parameters after each of five steps, from fixed weights."""
    model = Net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-0.5, 0.4, parameter.numel()).view_as(parameter))
    optimizer = learned(folder, RULES[case]).optimizer(model.named_parameters())
    found = []
    for _ in range(5):
        steps(model, optimizer, 1)
        found.append(torch.stack([value.detach().square().sum() for value in model.parameters()]).sum())
    return torch.stack(found)


@pytest.mark.parametrize("case", RULES)
@pytest.mark.parametrize("way", ["state_dict", "saved state_dict", "deepcopy", "pickle"])
def test_it_goes_on_exactly(case: str, way: str, tmp_path: Path) -> None:
    phi = learned(tmp_path, RULES[case])
    whole, first = net(), net()
    steps(whole, phi.optimizer(whole.named_parameters()), 6)
    optimizer = phi.optimizer(first.named_parameters())
    steps(first, optimizer, 3)
    if way in ("deepcopy", "pickle"):
        pair = (first, optimizer)
        second, again = copy.deepcopy(pair) if way == "deepcopy" else pickle.loads(pickle.dumps(pair))
    else:
        state = optimizer.state_dict()
        if way == "saved state_dict":
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
        second = net(1)
        second.load_state_dict(first.state_dict())
        again = phi.optimizer(second.named_parameters())
        again.load_state_dict(state)
    assert equal(steps(second, again, 3), whole)
    assert not equal(first, whole)  # what was copied is not moved along


def test_groups_have_their_own_factor_and_decay(lstm: LoadedPhi) -> None:
    plain, grouped = net(), net()
    steps(plain, lstm.optimizer(plain.parameters()), 1)
    groups = [
        {"params": grouped.layers.parameters(), "lr": 0.5, "weight_decay": 0.1},
        {"params": grouped.head.parameters()},
    ]
    steps(grouped, lstm.optimizer(groups), 1)
    start, moved, found = values(net()), values(plain), values(grouped)
    for name, value in found.items():
        step = moved[name] - start[name]
        expected = 0.95 * start[name] + 0.5 * step if name.startswith("layers") else moved[name]
        torch.testing.assert_close(value, expected)


def test_a_group_may_come_later_and_begins_at_its_own_first_step(tmp_path: Path) -> None:
    phi = learned(tmp_path, RULES["adam"])
    late = net()
    optimizer = phi.optimizer(late.layers.parameters())
    head = values(late)["head.weight"]
    steps(late, optimizer, 2)
    assert torch.equal(late.head.weight, head)
    optimizer.add_param_group({"params": list(late.head.parameters()), "lr": 0.1})
    steps(late, optimizer, 1)
    moved = (late.head.weight.detach() - head).abs()
    assert float(moved.mean()) == pytest.approx(0.1 * 0.05, rel=1e-3)  # Adam's first step
    assert [int(optimizer.state[p]["step"]) for p in (late.layers[0].weight, late.head.weight)] == [3, 1]


def test_schedulers_act_on_it(lstm: LoadedPhi) -> None:
    one, other = net(), net()
    scheduled, plain = lstm.optimizer(one.parameters()), lstm.optimizer(other.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(scheduled, lambda epoch: 0.5**epoch)
    for epoch in range(3):
        plain.param_groups[0]["lr"] = 0.5**epoch
        steps(one, scheduled, 1)
        steps(other, plain, 1)
        scheduler.step()
    assert equal(one, other)
    torch.optim.lr_scheduler.CosineAnnealingLR(lstm.optimizer(one.parameters()), 10)
    torch.optim.lr_scheduler.ReduceLROnPlateau(lstm.optimizer(one.parameters())).step(1.0)


def test_parameters_without_a_gradient_are_left_alone_and_do_not_age(lstm: LoadedPhi) -> None:
    model = net()
    optimizer = lstm.optimizer(model.parameters())
    model.head.bias.requires_grad_(False)
    before = values(model)
    steps(model, optimizer, 2)
    assert torch.equal(model.head.bias, before["head.bias"])
    assert model.head.bias not in optimizer.state
    model.head.bias.requires_grad_(True)
    steps(model, optimizer, 1)
    assert int(optimizer.state[model.head.bias]["step"]) == 1
    assert int(optimizer.state[model.head.weight]["step"]) == 3
    lstm.optimizer(net().parameters()).step()  # no gradient at all


def test_sparse_gradients_are_refused(lstm: LoadedPhi) -> None:
    table = nn.Embedding(4, 3, sparse=True)
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match=r"does not support sparse gradients.*shape \(4, 3\).*sparse=False"):
        lstm.optimizer(table.parameters()).step()


def test_a_closure_computes_the_loss_with_gradients(lstm: LoadedPhi) -> None:
    one, other = net(), net()
    x, y = data()
    optimizer = lstm.optimizer(one.parameters())

    def closure() -> Any:
        optimizer.zero_grad()
        loss = F.mse_loss(one(x), y)
        loss.backward()
        return loss

    found: Any = optimizer.step(closure)
    assert found.item() == pytest.approx(F.mse_loss(other(x), y).item())
    assert equal(one, steps(other, lstm.optimizer(other.parameters()), 1))


def test_hooks_run_before_and_after_a_step(lstm: LoadedPhi) -> None:
    seen: list[str] = []
    model = net()
    optimizer = lstm.optimizer(model.parameters())
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    steps(model, optimizer, 1)
    assert seen == ["before", "after"]


@pytest.mark.parametrize("case", ["lstm", "mlp"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_have_their_state_in_float32(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    phi = learned(tmp_path, RULES[case])
    start = net()
    whole, first, second = (copy.deepcopy(start).to(dtype) for _ in range(3))
    steps(whole, phi.optimizer(whole.parameters()), 4)
    optimizer = phi.optimizer(first.parameters())
    steps(first, optimizer, 2)
    state = optimizer.state[first.head.weight]
    assert {value.dtype for value in state.values()} == {torch.float32}
    second.load_state_dict(first.state_dict())
    again = phi.optimizer(second.parameters())
    again.load_state_dict(optimizer.state_dict())
    assert equal(steps(second, again, 2), whole)


def test_one_half_precision_step_is_the_float32_step_rounded(lstm: LoadedPhi) -> None:
    half = net().to(torch.bfloat16)
    wide = copy.deepcopy(half).float()
    for one, other in zip(half.parameters(), wide.parameters(), strict=True):
        one.grad = torch.full_like(one, 0.25)
        other.grad = torch.full_like(other, 0.25)
    lstm.optimizer(half.parameters()).step()
    lstm.optimizer(wide.parameters()).step()
    assert all(torch.equal(a, b.bfloat16()) for a, b in zip(half.parameters(), wide.parameters(), strict=True))


def test_a_gradient_scaler_unscales_and_skips(lstm: LoadedPhi) -> None:
    scaled, plain = net(), net()
    x, y = data()
    optimizer = lstm.optimizer(scaled.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(F.mse_loss(scaled(x), y)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert equal(scaled, steps(plain, lstm.optimizer(plain.parameters()), 1))
    before = values(scaled)
    optimizer.zero_grad()
    scaler.scale(F.mse_loss(scaled(x), y) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(value, before[name]) for name, value in scaled.named_parameters())


def test_the_layout_of_a_parameter_does_not_matter(lstm: LoadedPhi) -> None:
    draw = torch.Generator().manual_seed(0)
    start, gradient = torch.randn(4, 3, 2, 2, generator=draw), torch.randn(4, 3, 2, 2, generator=draw)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        parameter = nn.Parameter(start.clone().contiguous(memory_format=layout))
        parameter.grad = gradient.clone().contiguous(memory_format=layout)
        lstm.optimizer([parameter]).step()
        found.append(parameter.detach())
    assert torch.equal(found[0], found[1])


def test_scalars_and_empty_parameters_are_no_trouble(lstm: LoadedPhi) -> None:
    scalar, empty = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.zeros(0, 3))
    scalar.grad, empty.grad = torch.tensor(0.5), torch.zeros(0, 3)
    lstm.optimizer([scalar, empty]).step()
    assert scalar.item() != 1.0


def test_rules_with_a_number_for_each_tensor_need_their_names(tmp_path: Path) -> None:
    phi = learned(tmp_path, RULES["adam for each tensor"])
    with pytest.raises(ArtifactError, match=r"no names \(layers\.0\.weight.*model\.named_parameters\(\)"):
        phi.optimizer(net().parameters())
    with pytest.raises(ArtifactError, match=r"was given other\."):
        phi.optimizer([(f"other.{name}", value) for name, value in net().named_parameters()])


def test_what_cannot_be_moved_is_refused(lstm: LoadedPhi) -> None:
    with pytest.raises(TypeError, match="complex64"):
        lstm.optimizer([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
    with pytest.raises(ValueError, match="expected lr of at least 0, got -1"):
        lstm.optimizer(net().parameters(), lr=-1)
    with pytest.raises(ValueError, match="empty parameter list"):
        lstm.optimizer([])


def test_a_phi_without_a_learned_rule_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="'sgd', which is no learned one"):
        load(stored_phi(tmp_path / "phi", learner=LEARNER)).optimizer(net().parameters())


def test_the_network_that_it_was_learned_on_need_not_be_importable(tmp_path: Path) -> None:
    phi = load(stored_phi(tmp_path / "phi", learner=block(RULES["lstm"]), spec=SPEC))
    theirs = {**phi.manifest.config["learner"], "model": {"type": "nowhere:Net"}}
    phi.manifest = phi.manifest.model_copy(update={"config": {"learner": theirs}})
    assert isinstance(phi.optimizer(net().parameters()), LearnedOptimizer)
    own = {**theirs, "slots": {**theirs["slots"], "update_rule": {"type": "nowhere:Rule"}}}
    phi.manifest = phi.manifest.model_copy(update={"config": {"learner": own}})
    with pytest.raises(ArtifactError, match="nowhere:Rule"):
        phi.optimizer(net().parameters())


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        found = {case: trajectory(Path(folder) / case, case).tolist() for case in RULES}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


@pytest.mark.parametrize(
    ("remembered", "piece"), [(0, 1 << 16), (1, 1 << 16), (32, 1 << 16), (80, 1 << 14), (1 << 22, 1)]
)
def test_the_more_a_coordinate_remembers_the_fewer_are_taken_at_once(remembered: int, piece: int) -> None:
    theta = torch.zeros(3)
    assert module.piece_of({"cell": theta.unsqueeze(1).expand(3, remembered)}, theta) == piece
