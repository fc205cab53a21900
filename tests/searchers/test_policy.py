from __future__ import annotations

import math
import statistics

import pytest
import torch

from metasearch.core.errors import UnsupportedError
from metasearch.core.registry import build
from metasearch.core.space import Choice, Float, Int, Space
from metasearch.core.values import Estimate, Evaluation, Phi, Proposal
from metasearch.searchers.policies import Independent, recorded
from metasearch.searchers.policy import reinforce

SEPARABLE = Space({f"op{i}": Choice(tuple(range(6))) for i in range(8)})
"""Eight decisions of six options: 1.7 million points, each decision adding to the loss on its own."""


def separable(choices):
    return sum(abs(value - (3 * i) % 6) for i, value in enumerate(choices.values())) / 10


def search(name, space, loss, evaluations, seed, n=1, **settings):
    searcher = build("searcher", {"type": name, **settings})
    searcher.setup(Phi(), space, seed)
    asked, values = [], []
    for step in range(evaluations // n):
        proposals = searcher.ask(n)
        told = []
        for i, choices in enumerate(proposals):
            value = loss(choices)
            status = "ok" if math.isfinite(value) else "diverged"
            told.append(Evaluation(Proposal(step * n + i, 0, choices), status, Estimate(value, value)))
            values.append(value)
        asked += proposals
        searcher.tell(told)
    return searcher, asked, values


@pytest.mark.parametrize("n", [1, 4])
def test_the_policy_beats_random_on_a_separable_space(n):
    def best(name, **settings):
        return statistics.mean(
            min(search(name, SEPARABLE, separable, 400, seed, n, **settings)[2]) for seed in range(3)
        )

    policy = best("policy", lr=0.1 if n == 1 else 0.2)
    assert policy <= best("random") - 0.2


def test_its_mean_loss_falls():
    searcher, _, values = search("policy", SEPARABLE, separable, 800, 1, lr=0.05)
    assert statistics.mean(values[-100:]) < 0.5 * statistics.mean(values[:100])
    likeliest = {name: max(table, key=table.get) for name, table in searcher.probabilities().items()}
    assert separable(likeliest) < 0.3


def test_the_gradient_is_minus_that_of_the_expected_reward_whatever_the_baseline():
    """Weighted by their probabilities, the estimates of all points sum to the derivative of E[R]."""
    space = Space({"a": Choice((0, 1, 2)), "b": Choice((0, 1), when={"a": (1, 2)})})
    points = [{"a": 0}, *({"a": a, "b": b} for a in (1, 2) for b in (0, 1))]
    rewards = (0.3, -1.0, 2.0, 0.7, -0.2)
    policy = Independent(space)
    with torch.no_grad():
        policy.logits[0].copy_(torch.tensor([0.3, -0.5, 0.1]))
        policy.logits[1].copy_(torch.tensor([0.9, -0.4]))
    probabilities = torch.stack([policy.run(recorded(point))[1].exp() for point in points])
    assert probabilities.sum().item() == pytest.approx(1.0)
    parameters = list(policy.parameters())
    expected_reward = (probabilities * torch.tensor(rewards, dtype=torch.float64)).sum()
    expected = torch.autograd.grad(expected_reward, parameters)
    losses = [reinforce(policy, [(point, r - 0.77)], 0.0) for point, r in zip(points, rewards, strict=True)]
    estimate = torch.autograd.grad((probabilities.detach() * torch.stack(losses)).sum(), parameters)
    for a, b in zip(expected, estimate, strict=True):
        torch.testing.assert_close(a, -b, rtol=1e-12, atol=1e-14)


def test_without_an_advantage_only_the_entropy_counts():
    policy = Independent(Space({"a": Choice((0, 1, 2)), "b": Choice((0, 1))}))
    assert reinforce(policy, [({"a": 0, "b": 1}, 0.0)], 0.5).item() == pytest.approx(-0.5 * math.log(6))


def test_the_entropy_bonus_keeps_it_undecided():
    def spread(entropy):
        searcher, _, _ = search("policy", SEPARABLE, separable, 400, 0, lr=0.1, entropy=entropy)
        return -sum(p * math.log(p) for table in searcher.probabilities().values() for p in table.values() if p > 0)

    assert spread(1.0) > 2 * spread(0.0)


def test_a_diverged_evaluation_has_the_floor_as_its_reward():
    def loss(choices):
        return math.nan if choices["a"] == 0 else 1.0

    space = Space({"a": Choice((0, 1, 2))})
    with_floor, _, _ = search("policy", space, loss, 150, 0, lr=0.1, floor=-5.0)
    assert with_floor.probabilities()["a"][0] < 0.02
    by_the_worst, _, _ = search("policy", space, loss, 150, 0, lr=0.1)  # the worst finite reward is the only one
    assert by_the_worst.probabilities()["a"][0] > 0.2


def test_the_floor_bounds_finite_rewards_too():
    losses = iter([1.0, 1e12])
    searcher, _, _ = search("policy", SEPARABLE, lambda choices: next(losses), 2, 0, floor=-2.0, baseline=0.0)
    assert searcher._baseline == -2.0


def test_numbers_with_few_values_are_categories():
    space = Space({"n": Int(1, 64), "p": Float(0.0, 0.5, step=0.1)})
    searcher, asked, _ = search("policy", space, lambda choices: choices["p"], 200, 0, lr=0.1)
    assert all(space.contains(choices) for choices in asked)
    assert max(searcher.probabilities()["p"], key=searcher.probabilities()["p"].get) == 0.0


@pytest.mark.parametrize("dimension", [Float(0, 1), Int(1, 65), Float(0, 1, step=0.01)])
def test_ranges_with_many_values_are_refused_with_what_to_do(dimension):
    with pytest.raises(UnsupportedError, match="use a choice") as caught:
        build("searcher", "policy").setup(Phi(), Space({"a.lr": dimension}), 0)
    assert caught.value.path == "a.lr"


def test_a_choice_may_have_any_number_of_options():
    searcher = build("searcher", "policy")
    searcher.setup(Phi(), Space({"a": Choice(tuple(range(100)))}), 0)
    assert len({choices["a"] for choices in searcher.ask(200)}) > 60
