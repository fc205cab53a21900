"""Meta-training of a learned optimizer (W3): optimizee steps a second, with their part of the meta-gradient.

A coordinatewise LSTM (2 layers of 20) trains perceptrons 784-20-10 with sigmoid units on minibatches of 128 random
drawings of ten classes. One outer step unrolls 20 steps from fresh weights and takes the gradient of the sum of the
minibatch losses on the way; gradients that the optimizer reads are constants.

Variants:

    ours         one optimizee an outer step, as a search computes it
    ours-N       N optimizees in one batched state
    sampled      one optimizee; the meta-gradient through at most 1024 coordinates of a tensor (of 15,680 in the first)
    sampled-N    N optimizees, likewise
    loop         one optimizee; a plain loop over its tensors with torch.nn.LSTMCell, torch.func.functional_call and
                 autograd

``ours`` and ``loop`` start from the same rule, weights and minibatches: the norm of the first meta-gradient must agree
(``sampled`` estimates it). Each variant has a process of its own; rounds alternate between them and medians are
printed, with ratios to the last variant. Seconds are CPU time of the process unless ``--wall``; ours keep freed memory
as the workers of a search do, ``--keep-memory ours,ours-8,loop`` grants it to all.

    OMP_NUM_THREADS=1 python experiments/benchmarks/unrolls.py
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from episodes import estimates, norm_of, sampler
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from turns import add_arguments, rates, run

import metasearch.learners
import metasearch.models  # noqa: F401  (these list the built-in parts)
from metasearch.components.rules.lstm import log_sign
from metasearch.core.registry import build
from metasearch.core.values import Phi
from metasearch.estimators.truncated import Truncated

Step = Callable[[], float]
SCALE, P, SHOTS, THROUGH = 0.01, 10.0, 15, 1024


def main() -> None:
    """Runs the variants against each other and prints a table."""
    arguments = parse()
    run(
        arguments,
        lambda: prepared(arguments),
        row=rates("steps", lambda name: together(name) * int(arguments.steps)),
        heading=f"unrolls of {arguments.steps} steps",
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="of an unroll")
    add_arguments(parser, "sampled-8,sampled,ours-8,ours,loop", keep="sampled-8,sampled,ours,ours-8")
    arguments = parser.parse_args()
    tasks = together(arguments.variant)
    vars(arguments).update(ways=10, shots=SHOTS, queries=1, tasks=tasks, shard=tasks)
    return arguments


def together(name: str) -> int:
    """Optimizees of an outer step."""
    return int(name.partition("-")[2] or 1)


def prepared(arguments: argparse.Namespace) -> tuple[Step, dict[str, float]]:
    step = (plain if arguments.variant == "loop" else ours)(arguments)
    return step, {"norm": step()}


def learner_for(arguments: argparse.Namespace) -> Any:
    rule = {"type": "lstm", "scale": SCALE, "p": P, "through": THROUGH if "sampled" in arguments.variant else None}
    block = {
        "type": "inner_loop",
        "model": {"type": "mlp", "hidden": [20], "activation": "sigmoid"},
        "steps": arguments.steps,
        "batch": 128,
        "objective": "sum",
        "along": "support",
        "slots": {"initialization": {"type": "random"}, "update_rule": rule},
    }
    return build("learner", block, "learner", spec=sampler(arguments).spec("train"))


def ours(arguments: argparse.Namespace) -> Step:
    learner = learner_for(arguments)
    phi = learner.init(0)
    found = estimates(arguments, learner, Truncated, lambda: phi, steps=arguments.steps, offsets=False)

    def step() -> float:
        gradient = next(found).gradient
        assert gradient is not None
        return norm_of(list(gradient.values()))

    return step


class Rule(nn.Module):
    """The LSTM of Andrychowicz et al. 2016 on the coordinates of one tensor, with the weights of one of ours."""

    def __init__(self, phi: Phi) -> None:
        super().__init__()
        values = phi.part("update_rule")
        self.cells = nn.ModuleList([nn.LSTMCell(2, 20), nn.LSTMCell(20, 20)])
        self.out = nn.Linear(20, 1)
        with torch.no_grad():
            for number, cell in enumerate(self.cells):
                cell.weight_ih.copy_(values[f"{number}.input"])
                cell.weight_hh.copy_(values[f"{number}.hidden"])
                cell.bias_ih.copy_(values[f"{number}.bias"])
                cell.bias_hh.zero_().requires_grad_(False)  # ours has one bias
            self.out.weight.copy_(values["out.weight"].unsqueeze(0))
            self.out.bias.copy_(values["out.bias"].unsqueeze(0))

    def forward(self, gradient: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        x = torch.stack(log_sign(gradient.flatten(), P), 1)
        after = []
        for cell, before in zip(self.cells, state, strict=True):
            x, kept = cell(x, before)
            after.append((x, kept))
        return SCALE * self.out(x).view_as(gradient), after


def plain(arguments: argparse.Namespace) -> Step:
    learner, tasks = learner_for(arguments), sampler(arguments)
    phi, numbers = learner.init(0), itertools.count()
    rule = Rule(phi)
    module = nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.Sigmoid(), nn.Linear(20, 10))
    names = [name for name, _ in module.named_parameters()]

    def step() -> float:
        rule.zero_grad()
        episode = tasks.sample("train", np.array([next(numbers)]))
        start = learner.begin(phi, episode, 0)["theta"].values()
        theta = {name: value[0].clone().requires_grad_() for name, value in zip(names, start, strict=True)}
        states: dict[str, list[Any]] = {name: [None, None] for name in names}
        total, batches = torch.zeros(()), learner.drawn(episode, 0)["minibatches"][0]
        for index in batches[:-1]:
            loss = F.cross_entropy(
                functional_call(module, theta, (episode.support.x[0, index],)), episode.support.y[0, index]
            )
            total = total + loss
            gradients = torch.autograd.grad(loss, list(theta.values()), retain_graph=True)
            for name, gradient in zip(names, gradients, strict=True):
                moved, states[name] = rule(gradient, states[name])
                theta[name] = theta[name] + moved
        x, y = episode.support.x[0, batches[-1]], episode.support.y[0, batches[-1]]
        (total + F.cross_entropy(functional_call(module, theta, (x,)), y)).backward()
        with torch.no_grad():
            F.cross_entropy(functional_call(module, theta, (episode.query.x[0],)), episode.query.y[0])  # ours has it
        return norm_of([value.grad for value in rule.parameters() if value.grad is not None])

    return step


if __name__ == "__main__":
    main()
