"""An outer step of the gradient-based family: how many tasks a second each way of computing it does.

5-way 1-shot tasks of random drawings (the time does not depend on them), four blocks of 64 filters with batch norm on
the batch's own statistics, 32 tasks a step. Methods:

    maml      second order (W1: one inner step; `--queries 1` and `--queries 15`, `--pool max`)
    fomaml    first order (W2: `--steps 5`)
    anil      second order, the inner loop moves the head only
    reptile   the way that training on a task takes the weights
    reptile_adam  Reptile as in experiments/omniglot_reptile.yaml: 5 steps of Adam on minibatches of 10 of 50 support
                  images, 5 tasks a step, Adam's second moments carried on from step to step; the loop trains a module
                  by torch's own Adam, loaded with phi for each task, and learn2learn, which has nothing for it, is left
                  out

Variants:

    loop         a plain loop over tasks with torch's own layers, autograd and torch.func.functional_call; ANIL computes
                 its features once
    eager        metasearch's learner and estimator, `--shard` tasks at once, as a search does it
    compiled     the same with the estimator's compiled graphs
    bfloat16     the same with convolutions in bfloat16
    learn2learn  its MAML class: clone, adapt, backward, one task after the other (for ANIL around the head, as its own
                 examples do; for Reptile the difference of the clone, for which it has no class); skipped with a line
                 where it cannot be imported

All take their tasks from one sampler and start from the same weights: the norm of the first gradient must agree (in
bfloat16 roughly). Each variant has a process of its own; rounds alternate between them and medians are printed, with
ratios to the last variant that is the baseline. Seconds are CPU time of the process unless `--wall`, so that a busy
machine disturbs less. Ours keep freed memory as the workers of a search do; `--keep-memory` with the names of all
variants grants it to all.

    python experiments/benchmarks/inner_loops.py --method maml --queries 1 --shard 4
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from episodes import (
    add_task_arguments,
    estimates,
    importable,
    norm_of,
    part_of,
    sampler,
    task_seeds,
    torch_network,
)
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from turns import add_arguments, rates, run

import metasearch.learners
import metasearch.models  # noqa: F401  (these list the built-in parts)
from metasearch.core.registry import build
from metasearch.estimators.backprop import Backprop, FirstOrder
from metasearch.estimators.compile import CompileMode
from metasearch.estimators.episodes import EpisodeEstimator
from metasearch.estimators.reptile import Reptile

RATE = 0.4
ESTIMATORS: dict[str, type[EpisodeEstimator]] = {
    "maml": Backprop,
    "fomaml": FirstOrder,
    "anil": Backprop,
    "reptile": Reptile,
    "reptile_adam": Reptile,
}
ADAM: dict[str, Any] = {"steps": 5, "shots": 10, "queries": 1, "tasks": 5, "shard": 5}
"""What ``reptile_adam`` computes, in place of the options."""
BETAS = (0.0, 0.999)
Step = Callable[[], float]
Answer = Callable[[dict[str, Tensor]], Tensor]
TaskStep = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""Support images and labels, query images and labels of a task -> its part of the gradient is in ``grad``."""


def main() -> None:
    """Runs the variants against each other and prints a table."""
    arguments = parse()
    run(
        arguments,
        lambda: prepared(arguments),
        names=lambda: [name for name in names(arguments) if name != "learn2learn" or importable(name)],
        row=rates("tasks", lambda name: int(arguments.tasks)),
        heading=f"{arguments.method}, {arguments.steps} inner step(s), {arguments.ways}-way {arguments.shots}-shot, "
        f"{arguments.queries} queries a class, pool {arguments.pool}",
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=list(ESTIMATORS), default="maml")
    parser.add_argument("--steps", type=int, default=1, help="inner steps")
    parser.add_argument("--pool", choices=["none", "max"], default="none")
    add_task_arguments(parser, ways=5, queries=1, tasks=32, shard=8)
    add_arguments(parser, "loop,eager,compiled,bfloat16,learn2learn", keep="eager,compiled,bfloat16")
    arguments = parser.parse_args()
    if arguments.method == "reptile_adam":
        vars(arguments).update(ADAM)
    return arguments


def names(arguments: argparse.Namespace) -> list[str]:
    """The variants, of which the last one is the baseline."""
    given = arguments.variants.split(",")
    if arguments.method == "reptile_adam":
        given = [*(name for name in given if name not in ("loop", "learn2learn")), "loop"]
    return given


def prepared(arguments: argparse.Namespace) -> tuple[Step, dict[str, float]]:
    step = VARIANTS[arguments.variant](arguments)
    return step, {"norm": step()}


def learner_for(arguments: argparse.Namespace, precision: str = "full") -> Any:
    block: dict[str, Any] = {
        "type": "inner_loop",
        "model": {"type": "conv4", "filters": arguments.filters, "pool": arguments.pool, "precision": precision},
        "steps": arguments.steps,
        "adapt": ["head.*"] if arguments.method == "anil" else ["*"],
        "slots": {"learning_rates": {"type": "fixed", "value": RATE}},
    }
    if arguments.method == "reptile_adam":
        block["model"]["head"], block["batch"] = "flatten", 10
        block["slots"] = {
            "learning_rates": {"type": "fixed", "value": 0.001},
            "update_rule": {"type": "adam", "betas": list(BETAS), "carry": True},
        }
    return build("learner", block, "learner", spec=sampler(arguments).spec("train"))


def ours(arguments: argparse.Namespace, mode: CompileMode, precision: str = "full") -> Step:
    learner = learner_for(arguments, precision)
    phi = learner.init(0)
    found = estimates(arguments, learner, ESTIMATORS[arguments.method], lambda: phi, mode)

    def step() -> float:
        nonlocal phi
        estimate = next(found)
        assert estimate.gradient is not None
        phi = phi.replace(buffers={name: estimate.updates[name].to(value) for name, value in phi.buffers.items()})
        return norm_of(list(estimate.gradient.values()))

    return step


def network_for(arguments: argparse.Namespace) -> nn.Sequential:
    initial = learner_for(arguments).init(0).part("initialization")
    flat = arguments.method == "reptile_adam"
    return torch_network(
        arguments.filters, initial, pool=arguments.pool, running=False, outputs=arguments.ways, flat=flat
    )


def looped(arguments: argparse.Namespace, module: nn.Module, task_step: TaskStep) -> Step:
    """A loop over the tasks of a step; gradients gather in the module's parameters."""
    tasks, steps = sampler(arguments), task_seeds(arguments)

    def step() -> float:
        module.zero_grad()
        for seed in next(steps):
            episode = tasks.sample("train", np.array([seed]))
            task_step(episode.support.x[0], episode.support.y[0], episode.query.x[0], episode.query.y[0])
        return norm_of([value.grad / arguments.tasks for value in module.parameters() if value.grad is not None])

    return step


def gather(module: nn.Module, direction: dict[str, Tensor]) -> None:
    for name, value in module.named_parameters():
        value.grad = direction[name] if value.grad is None else value.grad + direction[name]


def trained_by_adam(arguments: argparse.Namespace) -> Step:
    module, learner = network_for(arguments), learner_for(arguments)
    lanes = [network_for(arguments) for _ in range(arguments.tasks)]
    rules = [torch.optim.Adam(lane.parameters(), lr=0.001, betas=BETAS) for lane in lanes]
    tasks, steps = sampler(arguments), task_seeds(arguments)

    def step() -> float:
        for seed, lane, rule in zip(next(steps), lanes, rules, strict=True):
            episode = tasks.sample("train", np.array([seed]))
            lane.load_state_dict(module.state_dict())
            for index in learner.drawn(episode, 0)["minibatches"][0]:
                rule.zero_grad()
                F.cross_entropy(lane(episode.support.x[0, index]), episode.support.y[0, index]).backward()
                rule.step()
            with torch.no_grad():
                F.cross_entropy(lane(episode.query.x[0]), episode.query.y[0])  # ours measures it, too
        for alike in zip(*(lane.parameters() for lane in lanes), strict=True):
            seconds = [rule.state[one]["exp_avg_sq"] for rule, one in zip(rules, alike, strict=True)]
            mean = torch.stack(seconds).mean(0)
            for second in seconds:
                second.copy_(mean)
        ways = zip(module.parameters(), zip(*(lane.parameters() for lane in lanes), strict=True), strict=True)
        return norm_of([value.detach() - torch.stack(ends).mean(0).detach() for value, ends in ways])

    return step


def plain(arguments: argparse.Namespace) -> Step:
    if arguments.method == "reptile_adam":
        return trained_by_adam(arguments)
    module = network_for(arguments)
    phi, head = dict(module.named_parameters()), module[-1]

    def trained(theta: dict[str, Tensor], answer: Answer, y: Tensor) -> dict[str, Tensor]:
        second = arguments.method in ("maml", "anil")
        for _ in range(arguments.steps):
            loss = F.cross_entropy(answer(theta), y)
            found = torch.autograd.grad(loss, list(theta.values()), create_graph=second)
            theta = {name: value - RATE * one for (name, value), one in zip(theta.items(), found, strict=True)}
        return theta

    def whole(xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> None:
        theta = trained(phi, lambda values: functional_call(module, values, xs), ys)
        F.cross_entropy(functional_call(module, theta, xq), yq).backward()

    def head_only(xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> None:
        known, asked = module[:-1](xs), module[:-1](xq)
        theta = trained(dict(head.named_parameters()), lambda values: functional_call(head, values, known), ys)
        F.cross_entropy(functional_call(head, theta, asked), yq).backward()

    def way(xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> None:
        theta = trained(phi, lambda values: functional_call(module, values, xs), ys)
        with torch.no_grad():
            F.cross_entropy(functional_call(module, theta, xq), yq)  # ours measures it, too
            gather(module, {name: value - theta[name] for name, value in phi.items()})

    return looped(arguments, module, {"anil": head_only, "reptile": way}.get(arguments.method, whole))


def learn2learn(arguments: argparse.Namespace) -> Step:
    module = network_for(arguments)
    moved = module[-1] if arguments.method == "anil" else module
    maml = part_of("learn2learn", "algorithms.maml").MAML
    meta = maml(moved, lr=RATE, first_order=arguments.method in ("fomaml", "reptile"))

    def below(x: Tensor) -> Tensor:
        return module[:-1](x) if arguments.method == "anil" else x

    def task_step(xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> None:
        known, asked, learner = below(xs), below(xq), meta.clone()
        for _ in range(arguments.steps):
            learner.adapt(F.cross_entropy(learner(known), ys))
        if arguments.method == "reptile":
            with torch.no_grad():
                F.cross_entropy(learner(asked), yq)
                named = zip(module.named_parameters(), learner.module.parameters(), strict=True)
                gather(module, {name: value - theta for (name, value), theta in named})
        else:
            F.cross_entropy(learner(asked), yq).backward()

    return looped(arguments, module, task_step)


VARIANTS: dict[str, Callable[[argparse.Namespace], Step]] = {
    "loop": plain,
    "eager": lambda arguments: ours(arguments, "never"),
    "compiled": lambda arguments: ours(arguments, "auto"),
    "bfloat16": lambda arguments: ours(arguments, "auto", "bfloat16"),
    "learn2learn": learn2learn,
}

if __name__ == "__main__":
    main()
