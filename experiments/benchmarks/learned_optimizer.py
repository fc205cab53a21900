"""A learned optimizer's step on a model of ten million parameters, beside torch's Adam, and the memory of its state.

Variants: ``adam`` (foreach, the baseline), the 4-unit and the 32-unit perceptron, the LSTM (2 layers of 20), and the
hand-made ``momentum`` and ``adam`` rules through the same path. Each has a process of its own; rounds alternate between
them and medians are printed. ``floor`` is the time that the rule's matrix products and activations alone need, in
memory that is in the cache, so ``x floor`` says what the rest of the step costs.

    python experiments/benchmarks/learned_optimizer.py --parameters 10000000 --rounds 7
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from turns import add_arguments, run

from metasearch.components import Context
from metasearch.core.registry import build
from metasearch.takeaway.optimizer import LearnedOptimizer, LearnedRule

VARIANTS: dict[str, dict[str, Any]] = {
    "mlp-4": {"type": "mlp", "hidden": [4, 4], "momenta": [0.9, 0.99, 0.999], "second_moments": [0.999]},
    "mlp-32": {"type": "mlp", "hidden": [32, 32]},
    "lstm": {"type": "lstm"},
    "rule-momentum": {"type": "learned_momentum"},
    "rule-adam": {"type": "learned_adam"},
}
BASELINE = "adam"
FLOOR_NUMBERS = 1 << 17
"""Of the widest operation that the floor is measured with, at once."""


def main() -> None:
    """Runs the variants against each other and prints a table."""
    arguments = parse()
    heading = f"{arguments.parameters:,} parameters in layers of {arguments.width}"
    run(arguments, lambda: prepared(arguments), heading=heading, row=row)


def row(name: str, first: dict[str, Any], medians: Mapping[str, float]) -> str:
    """Time of a step, in itself and in multiples of the baseline and of its floor, and its memory."""
    *_, baseline = medians
    seconds, floor = medians[name], first["floor"]
    against = f"{seconds / floor:6.2f} x floor" if floor else " " * 14
    return (
        f"{1e3 * seconds:9.1f} ms   {seconds / medians[baseline]:7.2f} x {baseline}   {against}   "
        f"state {first['bytes']:6.1f} bytes a parameter"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=1000, help="of the layers that the parameters form")
    add_arguments(parser, ",".join([*VARIANTS, BASELINE]))
    return parser.parse_args()


def prepared(arguments: argparse.Namespace) -> tuple[Callable[[], Any], dict[str, float]]:
    """The step of a variant, the size of its state, and its floor."""
    clock = time.perf_counter if arguments.wall else time.process_time
    torch.manual_seed(0)
    parameters = model(arguments.parameters, arguments.width)
    for parameter in parameters:
        parameter.grad = 0.01 * torch.randn_like(parameter)
    name = arguments.variant
    optimizer = torch.optim.Adam(parameters, foreach=True) if name == BASELINE else learned(name, parameters)
    optimizer.step()  # makes the state
    count = sum(parameter.numel() for parameter in parameters)
    kept = sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    floor = floor_of(VARIANTS.get(name, {}), count, clock)
    return optimizer.step, {"bytes": kept / count, "floor": floor}


def model(count: int, width: int) -> list[nn.Parameter]:
    """Weights and biases of square layers, until there are enough parameters."""
    shapes: list[tuple[int, ...]] = []
    while count > 0:
        rows = max(min(width, count // width), 1)
        shapes += [(rows, width), (rows,)]
        count -= rows * width
    return [nn.Parameter(0.01 * torch.randn(shape)) for shape in shapes]


def learned(name: str, parameters: list[nn.Parameter]) -> LearnedOptimizer:
    nothing: Any = None
    rule = build("slot.update_rule", VARIANTS[name], "", context=Context(nothing, nothing, {}, ()))
    return LearnedOptimizer(LearnedRule(rule, rule.init(0)[0]), parameters)


def floor_of(settings: dict[str, Any], count: int, clock: Any) -> float:
    """Seconds of the rule's matrix products and activations alone; 0 for rules without any."""
    kind = settings.get("type")
    if kind == "lstm":
        products = [(80, 23), (80, 41), (1, 20)]  # inputs, a one for the bias and hidden state together
    elif kind == "mlp":
        momenta = len(settings.get("momenta", (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)))
        features = 2 + momenta + len(settings.get("second_moments", ())) * (2 + momenta)
        sizes = [features, *settings["hidden"], 2]
        products = [(outputs, inputs) for inputs, outputs in pairwise(sizes)]
    else:
        return 0.0
    piece = FLOOR_NUMBERS // max(max(shape) for shape in products)
    rooms = [(torch.randn(shape), torch.randn(shape[1], piece), torch.empty(shape[0], piece)) for shape in products]
    begin = clock()
    for _ in range(max(count // piece, 1)):
        for weight, x, room in rooms[:-1]:
            torch.mm(weight, x, out=room)
            if kind == "lstm":
                room.sigmoid_()
                torch.tanh(room[:20], out=room[20:40])  # of the cell
            else:
                room.relu_()
        weight, x, room = rooms[-1]
        torch.mm(weight, x, out=room)
    return float(clock() - begin)


if __name__ == "__main__":
    import metasearch.components  # noqa: F401  (lists the rules)

    main()
