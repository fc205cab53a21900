"""Training of metric learners: how many episodes a second each way of computing it does.

Omniglot-like tasks (random drawings: the time does not depend on them), four blocks of 64 filters with batch norm and
max-pooling, batch statistics over the support and query images of an episode, running statistics kept, Adam. A step is
`--tasks` episodes: sampling, forward, backward and the optimizer. Variants:

    loop         a plain loop over episodes, torch's own layers, sums and distances in one product
    ours         metasearch's learner and estimator, all episodes of a shard at once, as a search does it
    bfloat16     the same with the blocks in bfloat16 in training
    learn2learn  the loop with learn2learn's PrototypicalClassifier (skipped with a line where it cannot be imported)
    easyfsl      the loop with easyfsl's PrototypicalNetworks (likewise), or MatchingNetworks with `--method context`

Methods: prototypical; matching, by cosine; context, matching with full context embeddings, as many reading steps as
there are support examples, which is what easyfsl computes (with initial weights and a similarity of its own, so the
gradient's norm is another; that of its prototypical networks, too, whose distance is not squared).

Ours keep freed memory as the workers of a search do; `--keep-memory` with all names grants it to the others, too. All
take their episodes from one sampler, singly or a shard at once, and start from the same weights: but for easyfsl the
norm of the first gradient must agree (roughly, in bfloat16). Each variant has a process of its own; rounds alternate
between them, medians are printed, with ratios to the last variant that is the baseline. Seconds are CPU time unless
`--wall`.

    python experiments/benchmarks/prototypical.py --ways 60 --tasks 1 --shard 1
    python experiments/benchmarks/prototypical.py --ways 5 --tasks 32 --shard 8
    python experiments/benchmarks/prototypical.py --ways 20 --tasks 8 --shard 4 --method matching
    python experiments/benchmarks/prototypical.py --ways 20 --tasks 8 --shard 4 --method context
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
from torch.nn import functional as F
from turns import add_arguments, rates, run

import metasearch.learners
import metasearch.models  # noqa: F401  (these list the built-in parts)
from metasearch.core.registry import build
from metasearch.estimators.backprop import Backprop
from metasearch.tasks.base import FewShot

PEERS = ("learn2learn", "easyfsl")
HAVE = {
    "prototypical": {"loop", "ours", "bfloat16", *PEERS},
    "matching": {"loop", "ours", "bfloat16"},
    "context": {"ours", "bfloat16", "easyfsl"},
}
"""Who has which method."""
TEMPERATURE = 0.1
Step = Callable[[], float]
Score = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Support vectors and labels, query vectors -> logits."""


def main() -> None:
    """Runs the variants against each other and prints a table."""
    arguments = parse()
    run(
        arguments,
        lambda: prepared(arguments),
        names=lambda: [name for name in arguments.variants.split(",") if usable(name, arguments.method)],
        row=rates("episodes", lambda name: int(arguments.tasks)),
        heading=f"{arguments.method}, {arguments.ways}-way {arguments.shots}-shot, "
        f"{arguments.queries} queries a class, {arguments.tasks} episode(s) a step",
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=list(HAVE), default="prototypical")
    add_task_arguments(parser, ways=60, queries=5, tasks=1, shard=1)
    add_arguments(parser, "loop,ours,bfloat16,easyfsl,learn2learn", keep="ours,bfloat16")
    return parser.parse_args()


def usable(name: str, method: str) -> bool:
    if name not in HAVE[method]:
        print(f"{name}: nothing to compare for {method}")
        return False
    return name not in PEERS or importable(name)


def prepared(arguments: argparse.Namespace) -> tuple[Step, dict[str, float]]:
    step = VARIANTS[arguments.variant](arguments)
    return step, {"norm": step()}


def learner_for(arguments: argparse.Namespace, tasks: FewShot, precision: str = "full") -> Any:
    model = {"type": "conv4", "filters": arguments.filters, "pool": "max", "head": "none", "norm": "running"}
    model["precision"] = precision
    if arguments.method == "prototypical":
        block: dict[str, Any] = {"type": "prototypical", "model": model}
    else:
        block = {"type": "matching", "model": model, "distance": {"type": "cosine", "temperature": TEMPERATURE}}
    if arguments.method == "context":
        block["context"] = {"steps": arguments.ways * arguments.shots}
    return build("learner", block, "learner", spec=tasks.spec("train"))


def ours(arguments: argparse.Namespace, precision: str = "full") -> Step:
    learner = learner_for(arguments, sampler(arguments), precision)
    phi = learner.init(0)
    leaves = {name: value.requires_grad_() for name, value in phi.tensors.items()}
    optimizer = torch.optim.Adam(list(leaves.values()), lr=1e-3)
    found = estimates(arguments, learner, Backprop, lambda: phi)

    def step() -> float:
        nonlocal phi
        estimate = next(found)
        assert estimate.gradient is not None
        for name, leaf in leaves.items():
            leaf.grad = estimate.gradient[name]
        optimizer.step()
        phi = phi.replace(buffers={name: value.float() for name, value in estimate.updates.items()})
        return norm_of(list(estimate.gradient.values()))

    return step


def looped(arguments: argparse.Namespace, score: Score, further: nn.Module | None = None) -> Step:
    """A loop over episodes around a way to score them, which may have parameters in a further module."""
    tasks = sampler(arguments)
    module = torch_network(arguments.filters, learner_for(arguments, tasks).init(0).tensors)
    parameters = [*module.parameters(), *(further.parameters() if further else ())]
    optimizer, steps = torch.optim.Adam(parameters, lr=1e-3), task_seeds(arguments)

    def step() -> float:
        optimizer.zero_grad()
        for seed in next(steps):
            episode = tasks.sample("train", np.array([seed]))
            support, query = episode.support, episode.query
            z = module(torch.cat([support.x[0], query.x[0]]))
            logits = score(z[: len(support.y[0])], support.y[0], z[len(support.y[0]) :])
            (F.cross_entropy(logits, query.y[0]) / arguments.tasks).backward()
        norm = norm_of([value.grad for value in parameters if value.grad is not None])
        optimizer.step()
        return norm

    return step


def plain(arguments: argparse.Namespace) -> Step:
    def nearest_mean(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        centres = F.one_hot(labels).to(support).T @ support / arguments.shots
        return -torch.cdist(query, centres).square()

    def weighted_labels(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        near = F.normalize(query, dim=1) @ F.normalize(support, dim=1).T / TEMPERATURE
        return torch.log(near.softmax(1) @ F.one_hot(labels).to(near))

    return looped(arguments, nearest_mean if arguments.method == "prototypical" else weighted_labels)


def learn2learn(arguments: argparse.Namespace) -> Step:
    peer = part_of("learn2learn", "nn.protonet")

    def score(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        classifier = peer.PrototypicalClassifier()
        classifier.fit_(support, labels)
        return classifier(query)

    return looped(arguments, score)


def easyfsl(arguments: argparse.Namespace) -> Step:
    from easyfsl.methods import MatchingNetworks, PrototypicalNetworks

    # Its own forward embeds both sets; given vectors, it does here what follows, as learn2learn's part does.
    if arguments.method == "prototypical":
        method = PrototypicalNetworks(nn.Identity())
    else:
        method = MatchingNetworks(nn.Identity(), feature_dimension=arguments.filters)

    def score(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        method.process_support_set(support, labels)
        return method(query)

    return looped(arguments, score, method)


VARIANTS: dict[str, Callable[[argparse.Namespace], Step]] = {
    "loop": plain,
    "ours": ours,
    "bfloat16": lambda arguments: ours(arguments, "bfloat16"),
    "learn2learn": learn2learn,
    "easyfsl": easyfsl,
}

if __name__ == "__main__":
    main()
