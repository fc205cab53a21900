"""W1: one outer step of second-order MAML, and how many tasks a second each way of computing it does.

Omniglot-like 5-way 1-shot tasks (random images: the time does not depend on them), four blocks of 64 filters with batch
norm on the batch's own statistics, meta-batch 32, one inner step. Variants:

    loop       a plain loop over tasks, torch.func.functional_call and autograd, torch's own layers
    eager      metasearch's layers over a task axis
    compiled   the same, the finished meta-gradient compiled, `--chunk` tasks at a time
    learn2learn   clone, adapt, backward, one task after the other (skipped with a line where it cannot be imported)

Each variant has a process of its own; rounds alternate between them and medians are printed, with ratios to the last
variant that is the baseline. Seconds are CPU time of the process unless `--wall`, so that a busy machine disturbs less.
Ours keep freed memory as the workers of a search do; `--keep-memory loop,eager,compiled,learn2learn` grants it to all.

    python experiments/benchmarks/w1.py --query 5 --pool none --rounds 7
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from turns import add_arguments, serve, take_turns

from metasearch.core.values import TaskSpec
from metasearch.estimators.compile import compile_graph
from metasearch.models.conv4 import Conv4

WAYS, RATE, TASKS = 5, 0.4, 32
Step = Callable[[], Tensor]


def main() -> None:
    """Runs the variants against each other and prints a table."""
    arguments = parse()
    if arguments.variant:
        serve(arguments, lambda: prepared(arguments))
        return
    names = [name for name in arguments.variants.split(",") if name != "learn2learn" or found_learn2learn()]
    firsts, medians = take_turns(names, arguments.rounds)
    baseline = names[-1]
    print(
        f"W1 query {arguments.query}, pool {arguments.pool}, {arguments.threads} thread(s), "
        f"{'wall' if arguments.wall else 'CPU'} time"
    )
    for name in names:
        rate, first = TASKS / medians[name], firsts[name]
        print(
            f"{name:12} {rate:7.1f} tasks/s   {medians[baseline] / medians[name]:5.2f} x {baseline}   "
            f"ready after {first['ready']:5.1f} s   |gradient| {first['norm']:.6f}"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--query", type=int, default=5, help="query images a task")
    parser.add_argument("--pool", choices=["none", "max"], default="none")
    parser.add_argument("--chunk", type=int, default=8, help="tasks of one compiled call")
    add_arguments(parser, "loop,eager,compiled,learn2learn", keep="eager,compiled")
    return parser.parse_args()


def found_learn2learn() -> bool:
    if importlib.util.find_spec("learn2learn") is None:
        print("learn2learn is not importable: left out (put its checkout on PYTHONPATH to compare)")
        return False
    return True


def prepared(arguments: argparse.Namespace) -> tuple[Step, dict[str, float]]:
    step = VARIANTS[arguments.variant](arguments)
    return step, {"norm": step().item()}


def images(query: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    xs, xq = (torch.rand(TASKS, n, 1, 28, 28, generator=generator) for n in (WAYS, query))
    return (
        xs,
        torch.arange(WAYS).expand(TASKS, -1),
        xq,
        torch.arange(WAYS).repeat_interleave(query // WAYS).expand(TASKS, -1),
    )


def norm_of(gradients: list[Tensor]) -> Tensor:
    return torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()


def model_for(arguments: argparse.Namespace) -> Conv4:
    spec = TaskSpec("classification", (1, 28, 28), WAYS, WAYS, arguments.query)
    return Conv4(Conv4.Config(pool=arguments.pool), spec)


def torch_module(arguments: argparse.Namespace) -> nn.Module:
    """The same network of torch's own layers, with the same initial parameters."""
    layers: list[nn.Module] = []
    for inputs in (1, 64, 64, 64):
        conv = nn.Conv2d(inputs, 64, 3, stride=1 if arguments.pool == "max" else 2, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(64, track_running_stats=False), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if arguments.pool == "max" else []
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, WAYS))
    initial = model_for(arguments).init(0)[0].values()
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), initial, strict=True):
            parameter.copy_(value)
    return module


def loop(arguments: argparse.Namespace) -> Step:
    module = torch_module(arguments)
    phi = dict(module.named_parameters())
    data = images(arguments.query)

    def step() -> Tensor:
        module.zero_grad()
        for xs, ys, xq, yq in zip(*data, strict=True):
            support = F.cross_entropy(functional_call(module, phi, xs), ys)
            gradients = torch.autograd.grad(support, list(phi.values()), create_graph=True)
            theta = {
                name: value - RATE * gradient for (name, value), gradient in zip(phi.items(), gradients, strict=True)
            }
            (F.cross_entropy(functional_call(module, theta, xq), yq) / TASKS).backward()
        return norm_of([value.grad for value in phi.values() if value.grad is not None])

    return step


def learn2learn_maml() -> Any:
    """The class MAML, from an installed learn2learn or from a mere checkout, whose compiled parts are not needed."""
    try:
        return importlib.import_module("learn2learn.algorithms").MAML
    except ImportError:
        found = importlib.util.find_spec("learn2learn")
        assert found is not None
        for name in ("learn2learn", "learn2learn.algorithms"):
            shell = types.ModuleType(name)
            shell.__path__ = [str(Path(*found.submodule_search_locations, *name.split(".")[1:]))]
            sys.modules[name] = shell
        return importlib.import_module("learn2learn.algorithms.maml").MAML


def learn2learn(arguments: argparse.Namespace) -> Step:
    maml = learn2learn_maml()(torch_module(arguments), lr=RATE, first_order=False)
    data = images(arguments.query)

    def step() -> Tensor:
        maml.zero_grad()
        for xs, ys, xq, yq in zip(*data, strict=True):
            learner = maml.clone()
            learner.adapt(F.cross_entropy(learner(xs), ys))
            (F.cross_entropy(learner(xq), yq) / TASKS).backward()
        return norm_of([value.grad for value in maml.parameters()])

    return step


def meta_gradient(model: Conv4, names: list[str]) -> Callable[[list[Tensor]], tuple[Tensor, ...]]:
    """phi, support and query of a chunk -> gradient of the mean query loss."""

    def loss(theta: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits, _ = model(dict(zip(names, theta, strict=True)), {}, x)
        return F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").reshape(y.shape).mean(1)

    def gradient(inputs: list[Tensor]) -> tuple[Tensor, ...]:
        *values, xs, ys, xq, yq = inputs
        phi = [value.detach().requires_grad_() for value in values]
        with torch.enable_grad():
            theta = [value.expand(xs.shape[0], *value.shape) for value in phi]
            inner = torch.autograd.grad(loss(theta, xs, ys).sum(), theta, create_graph=True)
            theta = [value - RATE * slope for value, slope in zip(theta, inner, strict=True)]
            return torch.autograd.grad(loss(theta, xq, yq).sum() / TASKS, phi)

    return gradient


def ours(arguments: argparse.Namespace, mode: str) -> Step:
    model = model_for(arguments)
    phi = model.init(0)[0]
    data, chunk = images(arguments.query), arguments.chunk
    chunks = [[values[i : i + chunk].contiguous() for values in data] for i in range(0, TASKS, chunk)]
    values = list(phi.values())
    program = compile_graph(meta_gradient(model, list(phi)), [*values, *chunks[0]], mode)

    def step() -> Tensor:
        parts = [program([*values, *one]) for one in chunks]
        return norm_of([torch.stack(part).sum(0) for part in zip(*parts, strict=True)])

    return step


VARIANTS: dict[str, Callable[[argparse.Namespace], Step]] = {
    "loop": loop,
    "eager": lambda arguments: ours(arguments, "never"),
    "compiled": lambda arguments: ours(arguments, "always"),
    "learn2learn": learn2learn,
}

if __name__ == "__main__":
    main()
