from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
import torch

from metasearch.core.errors import ConfigError
from metasearch.core.registry import build
from metasearch.core.seeds import Draws
from metasearch.core.space import Choice, Int, Space
from metasearch.core.values import Estimate, Evaluation, Phi, Proposal
from metasearch.searchers.policies import LSTM, Independent, recorded
from metasearch.searchers.policy import ppo, reinforce

CONDITIONAL = Space(
    {
        "a": Choice((0, 1, 2)),
        "b": Choice((False, True), when={"a": (1, 2)}),
        "c": Int(3, 5, when={"b": (True,)}),
        "d": Choice(("x", "y")),
    }
)
POINTS = [
    {"a": a} | ({} if a == 0 else {"b": b}) | ({"c": c} if a and b else {}) | {"d": d}
    for a, b, c, d in itertools.product((0, 1, 2), (False, True), (3, 4, 5), "xy")
]
POINTS = [point for index, point in enumerate(POINTS) if point not in POINTS[:index]]
REWARDS = Draws([3]).normal(len(POINTS))[0]


def random_policy(kind):
    """A policy whose parameters are far from their start."""
    policy = Independent(CONDITIONAL) if kind == "independent" else LSTM(CONDITIONAL, 5, hidden=3)
    with torch.no_grad():
        for index, parameter in enumerate(policy.parameters()):
            drawn = Draws([index]).normal(parameter.numel())[0]
            parameter.copy_(torch.from_numpy(drawn).view_as(parameter))
    return policy


def gradient(policy, value):
    parameters = list(policy.parameters())
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


@pytest.mark.parametrize("kind", ["independent", "lstm"])
def test_the_probabilities_of_all_points_sum_to_one_and_several_score_as_one_does(kind):
    policy = random_policy(kind)
    assert len(POINTS) == 18
    logs, entropies = policy.score(POINTS)
    assert logs.exp().sum().item() == pytest.approx(1.0, rel=1e-12)
    for index, point in enumerate(POINTS):
        choices, log_probability, entropy = policy.run(recorded(point))
        assert choices == point
        torch.testing.assert_close(log_probability, logs[index], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(entropy, entropies[index], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["independent", "lstm"])
def test_points_are_drawn_as_often_as_their_probability_says(kind):
    policy = random_policy(kind)
    choices, logs = policy.sample(Draws(range(4000)).uniform(4))
    torch.testing.assert_close(policy.score(choices)[0], logs, rtol=1e-12, atol=1e-12)
    expected = policy.score(POINTS)[0].exp().tolist()
    for point, probability in zip(POINTS, expected, strict=True):
        share = sum(one == point for one in choices) / 4000
        assert share == pytest.approx(probability, abs=4 * math.sqrt(probability / 4000) + 1e-3)


def lstm_reference(policy, point):
    """The log probability of a point by an LSTM written by hand in numpy (gates in the order i, f, g, o)."""
    numbers = {name: value.detach().numpy() for name, value in policy.named_parameters()}
    h = c = np.zeros(policy.cell.hidden_size)
    token, offset, total = 0, 1, 0.0
    for place, (name, values) in enumerate(policy.values.items()):
        x = numbers["decisions.weight"][token]
        gates = numbers["cell.weight_ih"] @ x + numbers["cell.bias_ih"]
        gates = gates + numbers["cell.weight_hh"] @ h + numbers["cell.bias_hh"]
        i, f, g, o = np.split(gates, 4)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        logits = numbers[f"heads.{place}.weight"] @ h + numbers[f"heads.{place}.bias"]
        token = 0
        if name in point:
            index = [type(v) is type(point[name]) and v == point[name] for v in values].index(True)
            total += logits[index] - np.log(np.exp(logits).sum())
            token = offset + index
        offset += len(values)
    return total


def test_the_recurrent_policy_is_the_lstm_written_by_hand_conditions_included():
    policy = random_policy("lstm")
    logs = policy.score(POINTS)[0].detach().numpy()
    np.testing.assert_allclose(logs, [lstm_reference(policy, point) for point in POINTS], rtol=1e-11)


def test_the_derivative_of_the_recurrent_policy_is_that_of_finite_differences():
    policy, step = random_policy("lstm"), 1e-6

    def value():
        logs, entropies = policy.score(POINTS[:7])
        return (logs * torch.arange(7)).sum() + entropies.sum()

    for parameter, found in zip(list(policy.parameters()), gradient(policy, value()), strict=True):
        flat = parameter.data.view(-1)
        for index in range(0, flat.numel(), 9):
            before = flat[index].item()
            flat[index] = before + step
            above = value().item()
            flat[index] = before - step
            below = value().item()
            flat[index] = before
            assert found.reshape(-1)[index].item() == pytest.approx((above - below) / (2 * step), abs=1e-6)


@pytest.mark.parametrize("kind", ["independent", "lstm"])
@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_estimates_are_minus_the_gradient_of_the_expected_reward_whatever_the_baseline(kind, algorithm):
    policy = random_policy(kind)
    logs, _ = policy.score(POINTS)
    expected = gradient(policy, (logs.exp() * torch.from_numpy(REWARDS)).sum())
    weighted = []
    for point, reward, log_probability in zip(POINTS, REWARDS, logs.tolist(), strict=True):
        sample = [(point, float(reward) - 0.77)]
        loss = (
            reinforce(policy, sample, 0.0)
            if algorithm == "reinforce"
            else ppo(policy, sample, [log_probability], 0.0, 0.2)
        )
        weighted.append([math.exp(log_probability) * part for part in gradient(policy, loss)])
    for a, b in zip(expected, map(sum, zip(*weighted, strict=True)), strict=True):
        torch.testing.assert_close(a, -b, rtol=1e-10, atol=1e-12)


def test_ppo_stops_moving_a_probability_that_has_changed_enough():
    policy = random_policy("independent")
    points, advantages = POINTS[:4], [2.0, 2.0, -1.0, -1.0]
    now = policy.score(points)[0].tolist()
    ratios = [1.5, 0.5, 1.5, 0.5]
    old = [log - math.log(ratio) for log, ratio in zip(now, ratios, strict=True)]
    value = ppo(policy, list(zip(points, advantages, strict=True)), old, 0.0, 0.2)
    assert value.item() == pytest.approx(-(2.0 * 1.2 + 2.0 * 0.5 - 1.0 * 1.5 - 1.0 * 0.8) / 4)
    for index, moves in enumerate([False, True, True, False]):
        one = ppo(policy, [(points[index], advantages[index])], [old[index]], 0.0, 0.2)
        size = sum(float(part.abs().sum()) for part in gradient(policy, one))
        assert (size > 1e-9) == moves


def test_a_recurrent_policy_starts_uniform_and_takes_nothing_from_torchs_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, two, other = (LSTM(CONDITIONAL, seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert one.score([{"a": 0, "d": "x"}])[0].item() == pytest.approx(-math.log(6))
    assert torch.equal(one.cell.weight_ih, two.cell.weight_ih)
    assert not torch.equal(one.cell.weight_ih, other.cell.weight_ih)
    assert one.cell.weight_ih.abs().max() <= 0.1


SEPARABLE = Space({f"op{i}": Choice(tuple(range(6))) for i in range(8)})
CHAIN = Space({f"op{i}": Choice((0, 1, 2)) for i in range(4)})


def separable(choices):
    return sum(abs(value - (3 * i) % 6) for i, value in enumerate(choices.values())) / 10


def chain(choices):
    """Each decision is to follow from the one before: 0, 1, 2, 0 or 1, 2, 0, 1 or 2, 0, 1, 2 are perfect."""
    values = list(choices.values())
    return sum((a + 1) % 3 != b for a, b in itertools.pairwise(values)) / 3


def search(space, loss, evaluations, seed, n, **settings):
    searcher = build("searcher", settings)
    searcher.setup(Phi(), space, seed)
    values = []
    for step in range(evaluations // n):
        proposals = searcher.ask(n)
        losses = [loss(choices) for choices in proposals]
        told = [
            Evaluation(Proposal(step * n + i, 0, choices), "ok", Estimate(value, value))
            for i, (choices, value) in enumerate(zip(proposals, losses, strict=True))
        ]
        searcher.tell(told)
        values += losses
    return searcher, values


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "ppo", "lr": 0.1},
        {"algorithm": "reinforce", "policy": "lstm", "lr": 0.05},
        {"algorithm": "ppo", "policy": "lstm", "lr": 0.02, "hidden": 16},
    ],
)
def test_every_controller_beats_random_clearly_on_a_separable_space(settings):
    _, found = search(SEPARABLE, separable, 400, 0, 20, type="policy", **settings)
    _, random = search(SEPARABLE, separable, 400, 0, 20, type="random")
    assert min(found) <= min(random) - 0.2
    assert statistics.mean(found[-60:]) < 0.7 * statistics.mean(random)


def test_a_recurrent_policy_learns_decisions_that_hang_together():
    searcher, values = search(CHAIN, chain, 1200, 0, 40, type="policy", policy="lstm", lr=0.05, entropy=0.1)
    points = [dict(zip(CHAIN, [(start + i) % 3 for i in range(4)], strict=True)) for start in range(3)]
    assert statistics.mean(values[-200:]) < 0.3
    assert searcher.network.score(points)[0].exp().sum().item() > 0.3  # of 81 points, 3/81 at the start


def test_an_update_waits_for_its_batch():
    searcher, _ = search(SEPARABLE, separable, 5, 0, 1, type="policy", batch=6)
    assert len(set(searcher.probabilities()["op0"].values())) == 1
    searcher, _ = search(SEPARABLE, separable, 6, 0, 1, type="policy", batch=6)
    assert len(set(searcher.probabilities()["op0"].values())) > 1


@pytest.mark.parametrize(("key", "hint"), [("clip", "ppo"), ("epochs", "ppo"), ("hidden", "lstm")])
def test_settings_that_nothing_would_read_are_refused(key, hint):
    with pytest.raises(ConfigError, match=hint):
        build("searcher", {"type": "policy", key: 1})
