"""What PyTorch asks of its own optimizers (test/test_optim.py there), asked of learned ones.

Written anew for an optimizer that is made from a learned rule. Those of the list below do not apply; the rest has a
test here or in tests/test_optimizer.py (closures, deepcopy and pickle, half precision, layouts in memory).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import metasearch as ms
from metasearch.components import Context
from metasearch.core.registry import build
from metasearch.takeaway.optimizer import LearnedOptimizer, LearnedRule

NOT_APPLICABLE = {
    "foreach, fused, capturable, differentiable": "implementations of one formula, chosen by flag; there is one",
    "maximize": "rules are learned to minimise; what they do is not odd in the gradient",
    "steps are noops for zero gradients": "a rule sees the parameter and time, too; it rests without a gradient",
    "complex parameters": "refused, see tests/test_optimizer.py",
    "sparse gradients": "refused, see tests/test_optimizer.py",
    "amsgrad, momentum and further arguments of one optimizer": "a rule's constants are learned",
    "weight decay as a tensor": "a plain factor, as in AdamW's documentation",
}
NAMES = ["adam", "lstm-v1", "small-mlp-v1"]
Make = Callable[..., LearnedOptimizer]


@pytest.fixture(params=NAMES)
def make(request: pytest.FixtureRequest) -> Make:
    """Makes the optimizer; ``adam`` is a rule with Adam's constants."""
    name, nothing = request.param, None
    if name != "adam":
        return lambda params, **settings: ms.LearnedOptimizer(name, params, **settings)
    import metasearch.components  # noqa: F401  (lists the rules)

    context = Context(nothing, nothing, {}, ())  # type: ignore[arg-type]
    rule = build("slot.update_rule", {"type": "learned_adam", "rate": 0.01}, "", context=context)
    return lambda params, **settings: LearnedOptimizer(LearnedRule(rule, rule.init(0)[0]), params, **settings)


class Problem:
    """Least squares in a weight and a bias, as torch's tests have it."""

    def __init__(self, *, contiguous: bool = True) -> None:
        draw = torch.Generator().manual_seed(0)
        weight, bias = torch.randn(10, 5, 2, generator=draw)[..., 0], torch.randn(10, 2, generator=draw)[..., 0]
        self.weight, self.bias = (
            nn.Parameter(one.clone(memory_format=torch.contiguous_format) if contiguous else one)
            for one in (weight, bias)
        )
        self.x = torch.randn(5, generator=draw)

    def closure(self, optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            found = (self.weight.mv(self.x) + self.bias).square().sum()
            found.backward()
            return found.detach()

        return loss

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [self.weight, self.bias]


def run(problem: Problem, optimizer: LearnedOptimizer, steps: int = 3) -> list[float]:
    loss = problem.closure(optimizer)
    return [float(optimizer.step(loss)) for _ in range(steps)]


def equal(one: Iterable[torch.Tensor], other: Iterable[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize(
    "schedule",
    [
        lambda _: None,
        lambda optimizer: lr_scheduler.StepLR(optimizer, gamma=0.9, step_size=10),
        lambda optimizer: lr_scheduler.LinearLR(optimizer, start_factor=0.4, total_iters=4),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 1.5, total_steps=60, cycle_momentum=False),
    ],
    ids=["none", "step", "linear", "one cycle"],
)
def test_a_loop_goes_in_the_right_direction(make: Make, contiguous: bool, schedule: Any) -> None:
    problem = Problem(contiguous=contiguous)
    optimizer = make(problem.parameters)
    scheduler, loss = schedule(optimizer), problem.closure(optimizer)
    first = loss().item()
    for _ in range(50):
        optimizer.step(loss)
        if scheduler is not None:
            scheduler.step()
    assert loss().item() < first


def test_under_every_schedule_that_torch_tests_adam_with(make: Make) -> None:
    pytest.importorskip("expecttest", reason="torch's own test cases need it")
    from torch.testing._internal.common_optimizers import OptimizerInfo, OptimizerInput, optim_db

    (adam,) = (one for one in optim_db if one.optim_cls is torch.optim.Adam)
    cases = [OptimizerInput(None, {}), OptimizerInput(None, {"lr": 0.5}), OptimizerInput(None, {"weight_decay": 0.1})]
    ours: Any = OptimizerInfo(make, optim_inputs_func=lambda device: cases, scheduler_inputs=adam.scheduler_inputs)
    assert len(ours.scheduler_inputs) > 2
    for case in ours.optim_inputs_func(device="cpu"):
        for schedules in ours.scheduler_inputs:
            problem = Problem()
            optimizer = ours.optim_cls(problem.parameters, **case.kwargs)
            schedulers, loss = [one(optimizer) for one in schedules], problem.closure(optimizer)
            first = loss().item()
            for _ in range(10):
                optimizer.step(loss)
                for one in schedulers:
                    one.step(loss()) if isinstance(one, lr_scheduler.ReduceLROnPlateau) else one.step()
            assert loss().item() < first, (case, schedules)


def test_a_rate_may_be_a_tensor(make: Make) -> None:
    one, other = Problem(), Problem()
    optimizer = make(one.parameters, lr=torch.tensor(0.5))
    run(one, optimizer)
    run(other, make(other.parameters, lr=0.5))
    assert equal(one.parameters, other.parameters)
    optimizer.param_groups[0]["lr"].fill_(0.0)
    run(one, optimizer)
    assert equal(one.parameters, other.parameters)


def test_groups_have_rates_and_decay_of_their_own(make: Make) -> None:
    problem, still = Problem(), Problem()
    groups = [{"params": [problem.weight], "lr": 0.0}, {"params": [problem.bias], "weight_decay": 0.0}]
    run(problem, make(groups, weight_decay=0.9))
    assert torch.equal(problem.weight, still.weight)
    assert not torch.equal(problem.bias, still.bias)


def test_the_order_of_parameters_does_not_matter(make: Make) -> None:
    one, other = Problem(), Problem()
    run(one, make(one.parameters))
    run(other, make(other.parameters[::-1]))
    for a, b in zip(one.parameters, other.parameters, strict=True):
        torch.testing.assert_close(a, b)


def test_without_gradients_a_step_does_nothing(make: Make) -> None:
    problem, still = Problem(), Problem()
    optimizer = make(problem.parameters)
    optimizer.step()
    assert equal(problem.parameters, still.parameters)
    assert not optimizer.state


def test_gradients_are_taken_away_or_zeroed(make: Make) -> None:
    problem = Problem()
    optimizer = make(problem.parameters)
    problem.closure(optimizer)()
    optimizer.zero_grad(set_to_none=False)
    assert all(one.grad is not None and not one.grad.any() for one in problem.parameters)
    optimizer.zero_grad()
    assert all(one.grad is None for one in problem.parameters)


def test_its_text_names_it_and_its_settings(make: Make) -> None:
    text = repr(make(Problem().parameters, lr=0.5))
    assert text.startswith("LearnedOptimizer (")
    assert "lr: 0.5" in text
    assert "weight_decay: 0.0" in text


def test_a_state_dict_is_equal_for_equal_parameters_and_stays_as_it_was(make: Make) -> None:
    one, other = Problem(), Problem()
    optimizer, again = make(one.parameters), make(other.parameters)
    run(one, optimizer)
    other.weight.data.copy_(one.weight.data)
    other.bias.data.copy_(one.bias.data)
    before, given = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
    again.load_state_dict(given)
    assert run(one, optimizer) == run(other, again)
    torch.testing.assert_close(before, given, rtol=0, atol=0)
    torch.testing.assert_close(optimizer.state_dict(), again.state_dict(), rtol=0, atol=0)


def test_a_state_without_newer_settings_or_with_a_plain_step_is_loaded(make: Make) -> None:
    problem, other = Problem(), Problem()
    optimizer = make(problem.parameters)
    run(problem, optimizer)
    other.weight.data.copy_(problem.weight.data)
    other.bias.data.copy_(problem.bias.data)
    old = copy.deepcopy(optimizer.state_dict())
    del old["param_groups"][0]["weight_decay"]
    for state in old["state"].values():
        state["step"] = state["step"].item()
    again = make(other.parameters)
    again.load_state_dict(old)
    assert run(other, again) == run(problem, optimizer)


def test_a_state_for_other_parameters_is_refused(make: Make) -> None:
    problem = Problem()
    state = make(problem.parameters).state_dict()
    with pytest.raises(ValueError, match="different number of parameter groups"):
        make([{"params": [one]} for one in problem.parameters]).load_state_dict(state)
    with pytest.raises(ValueError, match="doesn't match the size"):
        make([problem.weight]).load_state_dict(state)


def test_the_state_is_not_empty_and_has_the_step(make: Make) -> None:
    problem = Problem()
    optimizer = make(problem.parameters)
    run(problem, optimizer)
    for state in optimizer.state.values():
        assert state["step"].item() == 3
        assert state["step"].device.type == "cpu"
        assert len(state) > 1


def test_copies_have_all_public_attributes(make: Make) -> None:
    def public(optimizer: LearnedOptimizer) -> set[str]:
        return {name for name in vars(optimizer) if not name.startswith("_")}

    optimizer = make(Problem().parameters)
    assert public(copy.deepcopy(optimizer)) == public(optimizer)


def test_names_of_parameters_are_kept(make: Make) -> None:
    problem = Problem()
    optimizer = make([("weight", problem.weight), ("bias", problem.bias)])
    run(problem, optimizer)
    state = optimizer.state_dict()
    assert state["param_groups"][0]["param_names"] == ["weight", "bias"]
    other = Problem()
    again = make([("weight", other.weight), ("bias", other.bias)])
    again.load_state_dict(state)
    assert again.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


def test_a_parameter_twice_or_none_at_all_is_refused(make: Make) -> None:
    problem = Problem()
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        make([{"params": problem.parameters}, {"params": [problem.bias]}])
    with pytest.raises(TypeError, match="params argument given to the optimizer should be an iterable"):
        make(problem.weight)
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        make([problem.weight * 2])


def test_hooks_see_and_change_states_on_their_way(make: Make) -> None:
    problem, other = Problem(), Problem()
    optimizer, again = make(problem.parameters), make(other.parameters)
    run(problem, optimizer)
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "note": "mine"})
    state = optimizer.state_dict()
    assert state["note"] == "mine"

    def older(_: Any, given: dict[str, Any]) -> dict[str, Any]:
        given["param_groups"] = [{**group, "lr": 0.25} for group in given["param_groups"]]
        given["state"] = {number: {**one, "step": torch.tensor(7.0)} for number, one in given["state"].items()}
        return given

    def young(loaded: Any) -> None:
        loaded.state[other.bias]["step"] = torch.tensor(0.0)

    again.register_load_state_dict_pre_hook(older)
    again.register_load_state_dict_post_hook(young)
    again.load_state_dict(state)
    assert again.param_groups[0]["lr"] == 0.25
    assert [int(again.state[one]["step"]) for one in other.parameters] == [7, 0]
    assert int(state["state"][0]["step"]) == 3
    assert len(again._optimizer_load_state_dict_pre_hooks) == 1


def test_hooks_of_all_optimizers_run_around_its_steps(make: Make) -> None:
    seen: list[str] = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: seen.append("before")),
        register_optimizer_step_post_hook(lambda *_: seen.append("after")),
    ]
    problem = Problem()
    try:
        run(problem, make(problem.parameters), 1)
    finally:
        for handle in handles:
            handle.remove()
    assert seen == ["before", "after"]


def test_the_default_dtype_does_not_matter(make: Make) -> None:
    one, other = Problem(), Problem()
    run(one, make(one.parameters))
    try:
        torch.set_default_dtype(torch.float64)
        run(other, make(other.parameters))
    finally:
        torch.set_default_dtype(torch.float32)
    assert equal(one.parameters, other.parameters)


def test_parameters_of_several_precisions_go_together(make: Make) -> None:
    wide, half = Problem(), Problem()
    half.bias.data = half.bias.data.to(torch.float64)
    optimizer = make(half.parameters)
    half.weight.grad, half.bias.grad = torch.ones(10, 5), torch.ones(10, dtype=torch.float64)
    wide.weight.grad, wide.bias.grad = torch.ones(10, 5), torch.ones(10)
    optimizer.step()
    for one in wide.parameters:  # by itself, as there: those of one precision share a product
        make([one]).step()
    assert torch.equal(half.weight, wide.weight)
    torch.testing.assert_close(half.bias.float(), wide.bias.data)


def test_autocast_to_bfloat16_trains_wide_parameters(make: Make) -> None:
    problem = Problem()
    optimizer = make(problem.parameters)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = (problem.weight.mv(problem.x) + problem.bias).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert {one.dtype for one in problem.parameters} == {torch.float32}
    assert losses[-1] < losses[0]


def test_schedulers_are_saved_and_loaded_beside_it(make: Make) -> None:
    whole, first = Problem(), Problem()

    def both(problem: Problem) -> tuple[LearnedOptimizer, Any]:
        optimizer = make(problem.parameters)
        return optimizer, lr_scheduler.CosineAnnealingLR(optimizer, 6)

    def go(problem: Problem, optimizer: LearnedOptimizer, scheduler: Any, steps: int) -> None:
        for _ in range(steps):
            run(problem, optimizer, 1)
            scheduler.step()

    go(whole, *both(whole), 6)
    optimizer, scheduler = both(first)
    go(first, optimizer, scheduler, 3)
    again, schedule = both(first)
    again.load_state_dict(optimizer.state_dict())
    schedule.load_state_dict(scheduler.state_dict())
    go(first, again, schedule, 3)
    assert equal(first.parameters, whole.parameters)
