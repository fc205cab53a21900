"""The learned optimizers that come with the package beside tuned Adam, on problems that they have never seen.

Problems: a perceptron of one tanh layer on MNIST in its full size and on Omniglot (20 characters), a deeper ReLU
perceptron on Omniglot, a perceptron and a small convolutional network on CIFAR-10. All take the same number of steps
from the same weights with the same minibatches. Adam's rate is the best of a grid (two a decade) by the mean test loss
over further seeds; the learned ones are taken as they are, and with their factor ``lr`` chosen in the same way from 1,
0.3 and 0.1. Each is taken with and without a cosine schedule on top.

    python experiments/shipped_optimizers.py --steps 200 --seeds 5 --out shipped
    python experiments/shipped_optimizers.py --optimizers lstm-v1 runs/FOLDER     # your own beside one of them

writes ``shipped.md`` and ``shipped.json``: test loss and accuracy after the last step with 95 % intervals over seeds,
and the paired difference to tuned Adam. Each finished problem is kept, so that a stopped run goes on. MNIST and
CIFAR-10 lie where METASEARCH_DATA says; ``--cifar`` names another archive in the official binary layout.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import metasearch as ms
from metasearch.core.seeds import derive
from metasearch.core.statistics import paired_ci95
from metasearch.tasks import datasets, omniglot_data
from metasearch.tasks.idx import read_idx

RATES = tuple(10 ** (k / 2) for k in range(-7, -1))
"""Adam's grid: 3e-4 to 1e-1, two rates a decade."""

FACTORS = (1.0, 0.3, 0.1)
"""What the steps of the learned ones are multiplied by where they are tuned, too."""

TUNED, DEFAULT = "Adam, tuned", "Adam, 1e-3"
HEAD = ("| optimizer | test loss | accuracy | minus tuned Adam (loss) | |", "|---|---|---|---|---|")

Images = tuple[Tensor, ...]
"""Images and labels to train on, images and labels to test on."""

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def omniglot(_: argparse.Namespace) -> Images:
    """20 characters in 14 x 14 pixels, drawn by 15 people to train on and by 5 others to test on."""
    _names, drawn = omniglot_data.load("bundled", 14)
    pictures = torch.from_numpy(drawn[:20].astype(np.float32)).div_(255).unsqueeze(2)
    labels = torch.arange(20)[:, None].expand(20, 20)
    parts = (pictures[:, :15], labels[:, :15], pictures[:, 15:], labels[:, 15:])
    return parts[0].flatten(0, 1), parts[1].flatten(), parts[2].flatten(0, 1), parts[3].flatten()


def mnist(_: argparse.Namespace) -> Images:
    """5,000 digits in their full size to train on, 2,000 to test on."""
    folder = datasets.get("mnist")
    found = []
    for name, count in (("train", 5000), ("t10k", 2000)):
        pictures = torch.from_numpy(read_idx(folder / f"{name}-images-idx3-ubyte.gz")[:count].astype(np.float32))
        labels = read_idx(folder / f"{name}-labels-idx1-ubyte.gz")[:count].astype(np.int64)
        found += [pictures.div_(255).unsqueeze(1), torch.from_numpy(labels)]
    return tuple(found)


def cifar(arguments: argparse.Namespace) -> Images:
    """4,000 pictures in 16 x 16 pixels to train on, 2,000 to test on."""
    path = Path(arguments.cifar) if arguments.cifar else datasets.get("cifar10") / "cifar-10-binary.tar.gz"
    found = []
    with tarfile.open(path) as archive:
        files = {Path(one.name).name: one for one in archive.getmembers() if one.isfile()}
        for name, count in (("data_batch_1.bin", 4000), ("test_batch.bin", 2000)):
            stream: Any = archive.extractfile(files[name])
            records = np.frombuffer(stream.read(), np.uint8).reshape(-1, 3073)[:count]
            pictures = torch.from_numpy(records[:, 1:].astype(np.float32)).view(-1, 3, 32, 32).div_(255)
            found += [F.avg_pool2d(pictures, 2), torch.from_numpy(records[:, 0].astype(np.int64))]
    return tuple(found)


def perceptron(inputs: int, *hidden: int, outputs: int, activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise((inputs, *hidden)):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers, nn.Linear((inputs, *hidden)[-1], outputs))


def convnet() -> nn.Module:
    blocks = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(32 * 16, 10))


PROBLEMS: dict[str, tuple[Callable[[argparse.Namespace], Images], Callable[[], nn.Module]]] = {
    "MNIST 28 x 28, 1 x 32 tanh": (mnist, lambda: perceptron(784, 32, outputs=10)),
    "Omniglot, 1 x 32 tanh": (omniglot, lambda: perceptron(196, 32, outputs=20)),
    "Omniglot, 4 x 64 ReLU": (omniglot, lambda: perceptron(196, 64, 64, 64, 64, outputs=20, activation=nn.ReLU)),
    "CIFAR-10, 2 x 64 ReLU": (cifar, lambda: perceptron(768, 64, 64, outputs=10, activation=nn.ReLU)),
    "CIFAR-10, small convnet": (cifar, convnet),
}
"""What is trained on, and the network."""


def main() -> None:
    """Measures what has not been measured yet, and writes the tables."""
    arguments = parse()
    torch.set_num_threads(1)
    kept = Path(arguments.out).with_suffix(".json")
    settings = {
        "steps": arguments.steps,
        "seeds": arguments.seeds,
        "tuning": arguments.tuning,
        "batch": arguments.batch,
        "optimizers": arguments.optimizers,
    }
    record = json.loads(kept.read_text()) if kept.exists() else {"settings": settings, "problems": {}}
    if record["settings"] != settings:
        raise SystemExit(f"{kept} was measured with {record['settings']}; give another --out")
    for name in PROBLEMS:
        if name not in record["problems"]:
            record["problems"][name] = measured(name, arguments)
            kept.write_text(json.dumps(record, indent=1) + "\n")
    text = "\n".join(lines(record))
    kept.with_suffix(".md").write_text(text + "\n")
    print(text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tuning", type=int, default=2, help="seeds that rates are chosen on")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--optimizers", nargs="+", default=sorted(ms.optimizers()), help="names, or folders of runs that learned one"
    )
    parser.add_argument("--cifar", help="archive of CIFAR-10 in the official binary layout")
    parser.add_argument("--out", default="shipped", help="beginning of the names of the files written")
    return parser.parse_args()


def measured(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Test loss and accuracy of each optimizer for each seed, and the rates and factors that were chosen."""
    data, network = PROBLEMS[name]
    images = data(arguments)
    found: dict[str, Any] = {"rates": {}, "loss": {}, "accuracy": {}}

    def trained(make: Make, *, cosine: bool, purpose: str, count: int) -> list[tuple[float, float]]:
        seeds = [derive(seed, name, purpose) for seed in range(count)]
        return [train(images, network, make, seed, arguments, cosine=cosine) for seed in seeds]

    def best(makes: dict[float, Make], *, cosine: bool) -> float:
        """The rate (or factor) with the lowest mean loss."""
        figures, count = {}, arguments.tuning
        for rate, make in makes.items():
            mean = float(np.mean([one[0] for one in trained(make, cosine=cosine, purpose="tuning", count=count)]))
            figures[rate] = mean if math.isfinite(mean) else math.inf
        return min(figures, key=lambda rate: figures[rate])

    for cosine, ending in ((False, ""), (True, ", cosine")):
        makes = {DEFAULT: adam(1e-3)} | {one: learned(one) for one in arguments.optimizers}
        grids = {TUNED: {rate: adam(rate) for rate in RATES}}
        grids |= {f"{one}, lr tuned": {lr: learned(one, lr) for lr in FACTORS} for one in arguments.optimizers}
        for label, grid in grids.items():
            found["rates"][label + ending] = rate = best(grid, cosine=cosine)
            makes[label] = grid[rate]
        for label, make in makes.items():
            runs = trained(make, cosine=cosine, purpose="test", count=arguments.seeds)
            found["loss"][label + ending], found["accuracy"][label + ending] = map(list, zip(*runs, strict=True))
    return found


def adam(rate: float) -> Make:
    return lambda parameters: torch.optim.Adam(parameters, lr=rate)


def learned(name: str, lr: float = 1.0) -> Make:
    return lambda parameters: ms.LearnedOptimizer(name, parameters, lr=lr)


def train(
    images: Images, network: Callable[[], nn.Module], make: Make, seed: int, given: argparse.Namespace, *, cosine: bool
) -> tuple[float, float]:
    """Test loss and accuracy (a share) after the steps; weights and minibatches depend on the seed only."""
    x, y, test_x, test_y = images
    torch.manual_seed(seed)
    model = network()
    optimizer = make(model.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, given.steps) if cosine else None
    draw = torch.Generator().manual_seed(seed)
    for _ in range(given.steps):
        rows = torch.randint(len(x), (given.batch,), generator=draw)
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
    with torch.no_grad():
        outputs = model(test_x)
        return float(F.cross_entropy(outputs, test_y)), float((outputs.argmax(-1) == test_y).double().mean())


def lines(record: dict[str, Any]) -> list[str]:
    """The tables, in Markdown."""
    settings = record["settings"]
    given = f"{settings['steps']} steps, minibatches of {settings['batch']}, {settings['seeds']} seeds."
    found = [f"{given} 95 % intervals by Student's t. Differences are paired, to tuned Adam with the same schedule."]
    for name, one in record["problems"].items():
        rates = ", ".join(f"{label} {rate:.3g}" for label, rate in one["rates"].items())
        found += ["", f"**{name}** ({rates})", "", *HEAD]
        for label, losses in one["loss"].items():
            shares = one["accuracy"][label]
            (loss, loss_width), (accuracy, width) = (paired_ci95(x, 0.0) for x in (losses, shares))
            apart, verdict = "-", "-"
            reference = TUNED + (", cosine" if label.endswith(", cosine") else "")
            if label != reference:
                difference, around = paired_ci95(losses, one["loss"][reference])
                apart = f"{difference:+.3f} ± {around:.3f}"
                verdict = "wins" if difference < -around else "loses" if difference > around else "level"
            figures = f"{loss:.3f} ± {loss_width:.3f} | {100 * accuracy:.1f} ± {100 * width:.1f} %"
            found.append(f"| {label} | {figures} | {apart} | {verdict} |")
    return found


if __name__ == "__main__":
    main()
