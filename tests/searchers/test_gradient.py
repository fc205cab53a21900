from __future__ import annotations

import math

import pytest
import torch

import metasearch.searchers  # noqa: F401  (lists the built-in searchers)
from metasearch.core.errors import ConfigError, DivergedError, ExecutionError, ResumeError, UnsupportedError
from metasearch.core.registry import build
from metasearch.core.space import Space
from metasearch.core.values import Estimate, Evaluation, Phi, Proposal


def searcher(phi, **settings):
    made = build("searcher", {"type": "gradient", **settings})
    made.setup(phi, Space(), 0)
    return made


def told(gradient=None, status="ok", updates=None, value=1.0):
    estimate = Estimate(
        value, value, gradient=gradient, updates=updates or {}, diverged=(3,) if status == "diverged" else ()
    )
    return Evaluation(Proposal(0, 0), status, estimate)


def start(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return {
        "a.w": torch.randn(4, 3, generator=generator, dtype=dtype),
        "b.v": torch.randn(5, generator=generator, dtype=dtype),
    }


def gradients(steps, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    return [
        {name: torch.randn(t.shape, generator=generator, dtype=dtype) for name, t in start().items()}
        for _ in range(steps)
    ]


REFERENCES = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.01),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.7, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.7, nesterov=True, weight_decay=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.05, eps=1e-6, weight_decay=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, eps=1e-6, weight_decay=0.01),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("optimizer", sorted(REFERENCES))
def test_its_steps_equal_those_of_torch(optimizer, dtype):
    mine = searcher(
        Phi(start(dtype)), optimizer=optimizer, lr=0.05, betas=(0.8, 0.99), eps=1e-6, momentum=0.7, weight_decay=0.01
    )
    parameters = {name: tensor.requires_grad_() for name, tensor in start(dtype).items()}
    reference = REFERENCES[optimizer](list(parameters.values()))
    for gradient in gradients(7, dtype):
        mine.tell([told(gradient)])
        for name, tensor in parameters.items():
            tensor.grad = gradient[name].clone()
        reference.step()
    for name, tensor in mine.phi().tensors.items():
        assert torch.equal(tensor, parameters[name].detach())


def test_adam_is_the_published_recurrence():
    mine = searcher(Phi(start()), lr=0.01)
    x = {name: tensor.clone() for name, tensor in start().items()}
    m = {name: torch.zeros_like(tensor) for name, tensor in x.items()}
    v = {name: torch.zeros_like(tensor) for name, tensor in x.items()}
    for t, gradient in enumerate(gradients(5), start=1):
        mine.tell([told(gradient)])
        for name, g in gradient.items():
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g * g
            x[name] = x[name] - 0.01 * (m[name] / (1 - 0.9**t)) / ((v[name] / (1 - 0.999**t)).sqrt() + 1e-8)
    for name, tensor in mine.phi().tensors.items():
        torch.testing.assert_close(tensor, x[name], rtol=1e-12, atol=1e-13)


def test_a_direction_is_added():
    mine = searcher(Phi(start()), optimizer="direction", lr=0.25)
    (direction,) = gradients(1)
    mine.tell([told(direction)])
    for name, tensor in mine.phi().tensors.items():
        assert torch.equal(tensor, start()[name] + 0.25 * direction[name])


def test_gradients_and_updates_are_averaged_over_evaluations_and_diverged_ones_left_out():
    phi = Phi(start(), {"a.mean": torch.zeros(2), "a.count": torch.tensor(0)})
    mine = searcher(phi, optimizer="sgd", lr=1.0)
    first, second, third = gradients(3)
    updates = [{"a.mean": torch.full((2,), x), "a.count": torch.tensor(n)} for x, n in ((1.0, 4), (2.0, 6), (9.0, 99))]
    mine.tell([told(first, updates=updates[0]), told(third, "diverged", updates[2]), told(second, updates=updates[1])])
    for name, tensor in mine.phi().tensors.items():
        torch.testing.assert_close(tensor, start()[name] - (first[name] + second[name]) / 2, rtol=1e-14, atol=1e-14)
    assert mine.phi().buffers["a.mean"].tolist() == [1.5, 1.5]
    assert mine.phi().buffers["a.count"].item() == 5
    assert mine.phi().buffers["a.count"].dtype == torch.int64


def test_clip_bounds_elements_and_clip_norm_the_whole():
    gradient = {"a.w": torch.full((4, 3), 3.0, dtype=torch.float64), "b.v": torch.full((5,), -0.5, dtype=torch.float64)}
    by_element = searcher(Phi(start()), optimizer="sgd", lr=1.0, clip=1.0)
    by_element.tell([told(gradient)])
    moved = {name: start()[name] - tensor for name, tensor in by_element.phi().tensors.items()}
    torch.testing.assert_close(moved["a.w"], torch.ones(4, 3, dtype=torch.float64))
    torch.testing.assert_close(moved["b.v"], torch.full((5,), -0.5, dtype=torch.float64))
    by_norm = searcher(Phi(start()), optimizer="sgd", lr=1.0, clip_norm=2.0)
    by_norm.tell([told(gradient)])
    moved = {name: start()[name] - tensor for name, tensor in by_norm.phi().tensors.items()}
    assert math.sqrt(sum(float(part.square().sum()) for part in moved.values())) == pytest.approx(2.0)
    torch.testing.assert_close(moved["a.w"] / moved["b.v"][0], gradient["a.w"] / gradient["b.v"][0])


def test_the_cosine_schedule_ends_at_min_lr_and_stays():
    mine = searcher(Phi(start()), optimizer="sgd", lr=1.0, min_lr=0.1, schedule="cosine", total_steps=4)
    rates = []
    for gradient in gradients(6):
        rates.append(mine.lr())
        before = mine.phi().tensors["b.v"]
        mine.tell([told(gradient)])
        torch.testing.assert_close(before - mine.phi().tensors["b.v"], rates[-1] * gradient["b.v"])
    expected = [0.1 + 0.45 * (1 + math.cos(math.pi * min(k, 4) / 4)) for k in range(6)]
    assert rates == pytest.approx(expected)


def test_the_step_schedule_cuts_the_rate_after_every_so_many_steps():
    settings = {"optimizer": "sgd", "lr": 1.0, "schedule": "step", "decay": 0.5, "decay_every": 2, "min_lr": 0.2}
    mine = searcher(Phi(start()), **settings)
    rates = []
    for gradient in gradients(8):
        rates.append(mine.lr())
        before = mine.phi().tensors["b.v"]
        mine.tell([told(gradient)])
        torch.testing.assert_close(before - mine.phi().tensors["b.v"], rates[-1] * gradient["b.v"])
    assert rates == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2]
    with pytest.raises(ConfigError, match=r"searcher\.decay_every: is required by schedule: step"):
        searcher(Phi(start()), schedule="step")


def test_it_owns_only_its_parts():
    phi = Phi(start(), {"a.mean": torch.zeros(2), "b.mean": torch.zeros(2)})
    mine = searcher(phi, parts=["b"])
    assert set(mine.phi().tensors) == {"b.v"}
    assert set(mine.phi().buffers) == {"b.mean"}
    mine.tell([told(gradients(1)[0])])
    assert not torch.equal(mine.phi().tensors["b.v"], start()["b.v"])


def test_half_precision_is_kept_as_float32_and_the_given_tensors_stay_as_they_are():
    given = {name: tensor.half() for name, tensor in start().items()}
    mine = searcher(Phi(given))
    mine.tell([told({name: tensor.half() for name, tensor in gradients(1)[0].items()})])
    assert {tensor.dtype for tensor in mine.phi().tensors.values()} == {torch.float32}
    assert torch.equal(given["b.v"], start()["b.v"].half())


@pytest.mark.parametrize("bad", ["status", "gradient"])
def test_a_diverged_step_is_skipped_and_too_many_in_a_row_stop_the_search(bad):
    mine = searcher(Phi(start()), patience=3)
    good, other = gradients(2)
    poisoned = {name: torch.full_like(tensor, math.nan) for name, tensor in good.items()}
    evaluation = told(good, "diverged") if bad == "status" else told(poisoned)
    mine.tell([told(good)])
    before, state = mine.phi().tensors, mine.state_dict()
    mine.tell([evaluation])
    mine.tell([evaluation])
    assert all(torch.equal(tensor, before[name]) for name, tensor in mine.phi().tensors.items())
    assert all(
        torch.equal(part["exp_avg"], state["optimizer"][n]["exp_avg"])
        for n, part in mine.state_dict()["optimizer"].items()
    )
    mine.tell([told(other)])
    mine.tell([evaluation])
    mine.tell([evaluation])
    with pytest.raises(DivergedError, match="3 steps in a row"):
        mine.tell([evaluation])


@pytest.mark.parametrize("optimizer", ["adam", "momentum", "rmsprop", "adagrad"])
def test_a_loaded_state_continues_bit_for_bit(optimizer):
    steps = gradients(9, torch.float32)
    settings = {"optimizer": optimizer, "schedule": "cosine", "total_steps": 9}
    whole = searcher(Phi(start(torch.float32)), **settings)
    for gradient in steps[:4]:
        whole.tell([told(gradient)])
    other = searcher(Phi({name: torch.zeros_like(t) for name, t in start(torch.float32).items()}), **settings)
    other.load_state_dict(whole.state_dict())
    for gradient in steps[4:]:
        whole.tell([told(gradient)])
        other.tell([told(gradient)])
    assert all(torch.equal(tensor, other.phi().tensors[name]) for name, tensor in whole.phi().tensors.items())


def test_the_state_of_other_tensors_is_refused():
    with pytest.raises(ResumeError, match="cannot load"):
        searcher(Phi(start())).load_state_dict(searcher(Phi({"a.w": torch.zeros(4, 3)})).state_dict())


@pytest.mark.parametrize("gradient", [None, {"c.x": torch.zeros(1)}])
def test_a_value_without_a_gradient_is_an_error_that_says_what_to_do(gradient):
    with pytest.raises(ExecutionError, match="estimator that gives one"):
        searcher(Phi(start())).tell([told(gradient)])


def test_a_tensor_without_a_gradient_in_this_step_stays():
    mine = searcher(Phi(start()), optimizer="sgd")
    mine.tell([told({"b.v": torch.ones(5)})])
    assert torch.equal(mine.phi().tensors["a.w"], start()["a.w"])
    assert not torch.equal(mine.phi().tensors["b.v"], start()["b.v"])


@pytest.mark.parametrize(
    ("tensors", "settings", "error", "problem"),
    [
        ({}, {}, ConfigError, "needs tensors"),
        (start(), {"parts": ["bb"]}, ConfigError, "did you mean 'b'"),
        (start(), {"schedule": "cosine"}, ConfigError, "total_steps"),
        ({"a.n": torch.tensor([1])}, {}, UnsupportedError, "no gradient"),
        (start(), {"optimiser": "adam"}, ConfigError, "did you mean 'optimizer'"),
        (start(), {"lr": -1}, ConfigError, "lr"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(tensors, settings, error, problem):
    with pytest.raises(error, match=problem):
        searcher(Phi(tensors), **settings)


def test_a_linear_schedule_goes_from_lr_to_min_lr_and_stays_there():
    mine = searcher(Phi(start()), optimizer="sgd", lr=1.0, min_lr=0.2, schedule="linear", total_steps=4)
    rates = []
    for gradient in gradients(6):
        rates.append(mine.lr())
        mine.tell([told(gradient)])
    assert rates == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_the_average_follows_the_steps_which_do_not_know_of_it():
    plain, mine = searcher(Phi(start()), lr=0.1), searcher(Phi(start()), lr=0.1, average=0.3)
    expected, found = start(), mine.averaged()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.items())
    for step, gradient in enumerate(gradients(4)):
        for one in (plain, mine):
            one.tell([told(gradient)])
        decay = min(0.3, (1 + step) / (10 + step))
        now = plain.phi().tensors
        expected = {name: decay * tensor + (1 - decay) * now[name] for name, tensor in expected.items()}
        assert all(torch.equal(now[name], tensor) for name, tensor in mine.phi().tensors.items())
        torch.testing.assert_close(mine.averaged().tensors, expected)
        assert plain.averaged().tensors["a.w"].equal(now["a.w"])
    mine.tell([told(status="diverged")])
    torch.testing.assert_close(mine.averaged().tensors, expected)


def test_the_average_is_part_of_the_state():
    first, second = (searcher(Phi(start()), average=0.9) for _ in range(2))
    *before, last = gradients(5)
    for gradient in before:
        first.tell([told(gradient)])
    second.load_state_dict(first.state_dict())
    for one in (first, second):
        one.tell([told(last)])
    for name, tensor in first.averaged().tensors.items():
        assert torch.equal(second.averaged().tensors[name], tensor)
        assert not torch.equal(first.phi().tensors[name], tensor)


def test_the_average_takes_buffers_too_and_a_state_without_one_is_refused():
    phi = Phi(start(), {"norm.mean": torch.zeros(2, dtype=torch.float64), "norm.count": torch.tensor(0)})
    mine = searcher(phi, average=0.5)
    mean = torch.zeros(2, dtype=torch.float64)
    for step, gradient in enumerate(gradients(3)):
        now = torch.full((2,), step + 1.0, dtype=torch.float64)
        mine.tell([told(gradient, updates={"norm.mean": now, "norm.count": torch.tensor(float(step + 1))})])
        decay = min(0.5, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * now
    torch.testing.assert_close(mine.averaged().buffers["norm.mean"], mean)
    assert mine.averaged().buffers["norm.count"].item() == 3
    again = searcher(phi, average=0.5)
    again.load_state_dict(mine.state_dict())
    assert torch.equal(again.averaged().buffers["norm.mean"], mine.averaged().buffers["norm.mean"])
    with pytest.raises(ResumeError, match="average"):
        again.load_state_dict(searcher(phi).state_dict())
