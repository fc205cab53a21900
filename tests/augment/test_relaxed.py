"""The relaxed policy: its draws are those of the policy that it exports, its derivatives those of references."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metasearch.augment import NAMES, OPERATIONS, Relaxed
from metasearch.augment.apply import Place, transform
from metasearch.core.seeds import Draws

FEW = ("shear_x", "brightness", "sample_pairing", "contrast")


def pictures(tasks: int = 1, n: int = 4) -> torch.Tensor:
    x = Draws([3], "x").uniform(tasks * n * 2 * 5 * 6).reshape(tasks, n, 2, 5, 6)
    return torch.from_numpy(0.2 + 0.3 * x)


def values_of(relaxed: Relaxed) -> dict[str, torch.Tensor]:
    values = relaxed.init(0.6, 0.37, 0.5, seed=1)
    return {name: value.double().requires_grad_() for name, value in values.items()}


def test_the_weighted_mean_has_the_derivatives_of_differences():
    relaxed = Relaxed(FEW, count=2, places=2, hard=False)
    values, x = values_of(relaxed), pictures(tasks=2)
    names = list(values)

    def run(*leaves):
        return relaxed(dict(zip(names, leaves, strict=True)), x, np.array([4, 5]))

    assert torch.autograd.gradcheck(run, tuple(values.values()), eps=1e-6, atol=1e-7)


def test_one_operation_a_place_has_the_straight_through_derivatives_of_a_loop_over_images():
    relaxed = Relaxed(FEW, count=2, places=1, temperature=0.7)
    values, x, seed = values_of(relaxed), pictures(n=6), 11
    after = relaxed(values, x, np.array([seed]))
    weights = torch.linspace(-1, 1, after.numel(), dtype=torch.float64).view_as(after)
    found = torch.autograd.grad((after * weights).sum(), list(values.values()))

    unit = Draws([seed], "relaxed augmentation").uniform(6 * 12).reshape(6, 12)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(6):
        s = int(unit[i, 0] * 2)
        noise = torch.from_numpy(-np.log(-np.log(unit[i, 1:5])))
        score = (values["operation"][s, 0] + noise) / 0.7
        o = int(score.argmax())
        w = torch.softmax(score, 0)[o]
        u = unit[i, 5 + o]
        b = torch.sigmoid((values["probability"][s, 0, o] + np.log(u / (1 - u))) / 0.7)
        level = torch.sigmoid(values["level"][s, 0, o])
        sign = torch.tensor([-1.0 if unit[i, 9] < 0.5 else 1.0], dtype=torch.float64)
        operation = OPERATIONS[NAMES.index(FEW[o])]
        value = operation.value(level[None], sign)
        image = x[0, i : i + 1]
        if operation.kind == "map":
            place = Place(np.array([NAMES.index(FEW[o])]), level[None], sign, unit[i : i + 1, 10:])
            changed = transform(place, image, fill=0.5)
        elif operation.kind == "pair":
            changed = operation.function(image, value, x[0, int(unit[i, 10] * 6)][None])
        else:
            changed = operation.function(image, value)
        done = 1.0 if float(b.detach()) > 0.5 else 0.0
        expected = image + done * (changed - image)
        torch.testing.assert_close(after[0, i : i + 1], expected)
        slope = (weights[0, i : i + 1] * (changed - image)).sum()
        # d c = d(w) done + d(b), and the operation's own derivative where it was carried out
        total = total + slope.detach() * (w * done + b) + done * (weights[0, i : i + 1] * changed).sum()
    expected_gradients = torch.autograd.grad(total, list(values.values()))
    for one, other in zip(found, expected_gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert all((one != 0).any() for one in found)


def test_what_is_done_without_a_gradient_is_what_is_done_with_one():
    relaxed = Relaxed(FEW, count=3, places=2)
    values, x = values_of(relaxed), pictures(tasks=2)
    with_gradient = relaxed(values, x, np.array([1, 2])).detach()
    without = relaxed({name: value.detach() for name, value in values.items()}, x, np.array([1, 2]))
    torch.testing.assert_close(with_gradient, without)
    torch.testing.assert_close(relaxed({k: v.detach() for k, v in values.items()}, x[1:], np.array([2])), without[1:])


def test_the_exported_policy_is_drawn_with_the_same_frequencies():
    relaxed = Relaxed(("invert", "brightness"), count=1, places=1)
    values = {
        "operation": torch.tensor([[[1.2, 0.0]]]),
        "probability": torch.tensor([[[0.4, -0.7]]]),
        "level": torch.tensor([[[0.0, -2.0]]]),
    }
    policy = relaxed.policy(values)
    share = 1 / (1 + np.exp(-1.2))
    assert policy.weight[0, 0, 0].tolist() == pytest.approx([share, 1 - share], abs=1e-6)
    assert policy.high[0, 0, 0, 1] == pytest.approx(1 / (1 + np.exp(2.0)))
    x = torch.full((1, 20_000, 1, 1, 1), 0.2)
    done = relaxed(values, x, np.array([3])).flatten()
    inverted = float((done > 0.7).float().mean())
    assert inverted == pytest.approx(share / (1 + np.exp(-0.4)), abs=0.01)
    drawn = policy(x[0], [3]).flatten()
    assert float((drawn > 0.7).float().mean()) == pytest.approx(inverted, abs=0.015)
