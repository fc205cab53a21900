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
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from turns import add_arguments, serve, take_turns

import metasearch.learners
import metasearch.models  # noqa: F401  (these list the built-in parts)
from metasearch.core.registry import build
from metasearch.core.values import Call
from metasearch.estimators.backprop import Backprop
from metasearch.estimators.episodes import Problem
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
    if arguments.variant:
        serve(arguments, lambda: prepared(arguments))
        return
    names = [name for name in arguments.variants.split(",") if usable(name, arguments.method)]
    firsts, medians = take_turns(names, arguments.rounds)
    baseline = names[-1]
    print(
        f"{arguments.method}, {arguments.ways}-way {arguments.shots}-shot, {arguments.queries} queries a class, "
        f"{arguments.tasks} episode(s) a step, {arguments.threads} thread(s), "
        f"{'wall' if arguments.wall else 'CPU'} time"
    )
    for name in names:
        rate, first = arguments.tasks / medians[name], firsts[name]
        print(
            f"{name:12} {rate:8.2f} episodes/s   {medians[baseline] / medians[name]:5.2f} x {baseline}   "
            f"ready after {first['ready']:5.1f} s   |gradient| {first['norm']:.6f}"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=list(HAVE), default="prototypical")
    parser.add_argument("--ways", type=int, default=60)
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--queries", type=int, default=5, help="query images a class")
    parser.add_argument("--tasks", type=int, default=1, help="episodes of a step")
    parser.add_argument("--shard", type=int, default=1, help="episodes that ours computes at once")
    parser.add_argument("--filters", type=int, default=64)
    add_arguments(parser, "loop,ours,bfloat16,easyfsl,learn2learn", keep="ours,bfloat16")
    return parser.parse_args()


def usable(name: str, method: str) -> bool:
    if name not in HAVE[method]:
        print(f"{name}: nothing to compare for {method}")
        return False
    if name in PEERS and importlib.util.find_spec(name) is None:
        print(f"{name} is not importable: left out (put its checkout on PYTHONPATH to compare)")
        return False
    return True


def prepared(arguments: argparse.Namespace) -> tuple[Step, dict[str, float]]:
    step = VARIANTS[arguments.variant](arguments)
    return step, {"norm": step()}


def sampler(arguments: argparse.Namespace) -> FewShot:
    drawings = np.random.default_rng(0).integers(0, 2, (200, 20, 1, 28, 28), dtype=np.uint8) * 255
    return FewShot({"train": drawings}, ways=arguments.ways, shots=arguments.shots, queries=arguments.queries)


def seeds(arguments: argparse.Namespace) -> Iterator[tuple[int, ...]]:
    """The tasks of one step after the other."""
    first = 0
    while True:
        yield tuple(range(first, first + arguments.tasks))
        first += arguments.tasks


def norm_of(gradients: list[Tensor]) -> float:
    return float(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt())


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
    tasks = sampler(arguments)
    learner = learner_for(arguments, tasks, precision)
    problem = Problem(tasks, lambda choices, split: learner)
    estimator = Backprop(Backprop.Config(tasks=arguments.tasks, shard=arguments.shard), problem)
    phi = learner.init(0)
    leaves = {name: value.requires_grad_() for name, value in phi.tensors.items()}
    optimizer, steps = torch.optim.Adam(list(leaves.values()), lr=1e-3), seeds(arguments)

    def step() -> float:
        nonlocal phi
        drawn = next(steps)
        shards = [drawn[i : i + arguments.shard] for i in range(0, len(drawn), arguments.shard)]
        calls = [Call(0, index, "train", phi, shard, 0, "train") for index, shard in enumerate(shards)]
        estimate, _ = estimator.combine([estimator.measure(call) for call in calls])
        assert estimate.gradient is not None
        for name, leaf in leaves.items():
            leaf.grad = estimate.gradient[name]
        optimizer.step()
        phi = phi.replace(buffers={name: value.float() for name, value in estimate.updates.items()})
        return norm_of(list(estimate.gradient.values()))

    return step


def torch_module(arguments: argparse.Namespace, tasks: FewShot) -> nn.Module:
    """The same network of torch's own layers, with the same initial parameters."""
    layers: list[nn.Module] = []
    for inputs in (1, *(arguments.filters,) * 3):
        conv = nn.Conv2d(inputs, arguments.filters, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(arguments.filters), nn.ReLU(), nn.MaxPool2d(2)]
    module = nn.Sequential(*layers, nn.Flatten())
    initial = learner_for(arguments, tasks).init(0).tensors.values()
    with torch.no_grad():  # those of a context come after the network's
        for parameter, value in zip(module.parameters(), initial, strict=arguments.method != "context"):
            parameter.copy_(value)
    return module


def looped(arguments: argparse.Namespace, score: Score, further: nn.Module | None = None) -> Step:
    """A loop over episodes around a way to score them, which may have parameters in a further module."""
    tasks = sampler(arguments)
    module = torch_module(arguments, tasks)
    parameters = [*module.parameters(), *(further.parameters() if further else ())]
    optimizer, steps = torch.optim.Adam(parameters, lr=1e-3), seeds(arguments)

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
    # This one file, since the package as a whole needs compiled parts (for its data sets) that a checkout lacks.
    package = importlib.util.find_spec("learn2learn")
    assert package is not None
    assert package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0]) / "nn" / "protonet.py"
    spec = importlib.util.spec_from_file_location("learn2learn_protonet", file)
    assert spec is not None
    assert spec.loader is not None
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)

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
