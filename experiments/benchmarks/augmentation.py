"""Augmentation policies: how many images a second each way of applying AutoAugment's policy for CIFAR-10 gives.

The policy has 25 sub-policies of 2 operations. Each variant draws all that it draws anew in every round. Variants:

    ours               metasearch, a batch at once, a sub-policy of its own for each image
    kornia_image       kornia's AutoAugment image by image, which gives each image a sub-policy of its own as well
    kornia_batch       kornia's on the batch at once: one sub-policy for the whole batch, so less work and less variety
    torchvision_image  torchvision's v2.AutoAugment image by image, on bytes
    torchvision_batch  torchvision's on the batch at once: one sub-policy and one decision for the whole batch

Peers that cannot be imported are left out with a line. One process; rounds alternate between the variants, and the rate
over all rounds is printed, with the ratio of ours to it. A batch variant of the peers draws one sub-policy a round, so
give it many rounds. Seconds are CPU time unless `--wall` or on a GPU.

    python experiments/benchmarks/augmentation.py --size 32 --batch 128
    python experiments/benchmarks/augmentation.py --size 224 --batch 32
    python experiments/benchmarks/augmentation.py --size 224 --batch 256 --device cuda
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metasearch.augment import Augmentation, Policy

SUB_POLICIES = [
    [("invert", 0.1, 0.7), ("contrast", 0.2, 0.6)],
    [("rotate", 0.7, 0.2), ("translate_x", 0.3, 0.9)],
    [("sharpness", 0.8, 0.1), ("sharpness", 0.9, 0.3)],
    [("shear_y", 0.5, 0.8), ("translate_y", 0.7, 0.9)],
    [("auto_contrast", 0.5, 0.8), ("equalize", 0.9, 0.2)],
    [("shear_y", 0.2, 0.7), ("posterize", 0.3, 0.7)],
    [("color", 0.4, 0.3), ("brightness", 0.6, 0.7)],
    [("sharpness", 0.3, 0.9), ("brightness", 0.7, 0.9)],
    [("equalize", 0.6, 0.5), ("equalize", 0.5, 0.1)],
    [("contrast", 0.6, 0.7), ("sharpness", 0.6, 0.5)],
    [("color", 0.7, 0.7), ("translate_x", 0.5, 0.8)],
    [("equalize", 0.3, 0.7), ("auto_contrast", 0.4, 0.8)],
    [("translate_y", 0.4, 0.3), ("sharpness", 0.2, 0.6)],
    [("brightness", 0.9, 0.6), ("color", 0.2, 0.8)],
    [("solarize", 0.5, 0.2), ("invert", 0.0, 0.3)],
    [("equalize", 0.2, 0.0), ("auto_contrast", 0.6, 0.0)],
    [("equalize", 0.2, 0.8), ("equalize", 0.6, 0.4)],
    [("color", 0.9, 0.9), ("equalize", 0.6, 0.6)],
    [("auto_contrast", 0.8, 0.4), ("solarize", 0.2, 0.8)],
    [("brightness", 0.1, 0.3), ("color", 0.7, 0.0)],
    [("solarize", 0.4, 0.5), ("auto_contrast", 0.9, 0.3)],
    [("translate_y", 0.9, 0.9), ("translate_y", 0.7, 0.9)],
    [("auto_contrast", 0.9, 0.2), ("solarize", 0.8, 0.3)],
    [("equalize", 0.8, 0.8), ("invert", 0.1, 0.3)],
    [("translate_y", 0.7, 0.9), ("auto_contrast", 0.9, 0.1)],
]
"""AutoAugment's for CIFAR-10 (Cubuk et al. 2019, Table 7), levels of 10."""

Round = Callable[[], Any]


def main() -> None:
    """Runs the variants against each other and prints a table."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    bytes_ = torch.randint(0, 256, (arguments.batch, 3, arguments.size, arguments.size), dtype=torch.uint8)
    bytes_ = bytes_.to(arguments.device)
    rounds: dict[str, Round] = {"ours": ours(bytes_.float() / 255)}
    for peer, make in (("kornia", kornia), ("torchvision", torchvision)):
        if importlib.util.find_spec(peer) is None:
            print(f"{peer} is not importable: left out")
        else:
            rounds |= make(bytes_)
    wall = arguments.wall or arguments.device == "cuda"
    clock = time.perf_counter if wall else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in rounds}
    for number in range(-2, arguments.rounds):  # two to warm up
        for name, one in rounds.items():
            if name.endswith("_image") and number >= arguments.slow_rounds:
                continue
            start = clock()
            one()
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            if number >= 0:
                seconds[name].append(clock() - start)
    rates = {name: arguments.batch * len(values) / sum(values) for name, values in seconds.items()}
    print(f"{arguments.size} pixels, batch {arguments.batch}, {arguments.device}, {arguments.threads} thread(s)")
    for name, rate in rates.items():
        print(f"{name:18} {rate:10.0f} images/s   ours is {rates['ours'] / rate:6.2f} times that")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32, help="side of an image in pixels")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--slow-rounds", type=int, default=3, help="rounds of variants that go image by image")
    parser.add_argument("--wall", action="store_true", help="wall time in place of CPU time")
    return parser.parse_args()


def ours(x: Tensor) -> Round:
    augment = Augmentation(Policy.of(SUB_POLICIES))
    return lambda: augment(x)


def kornia(bytes_: Tensor) -> dict[str, Round]:
    from kornia.augmentation.auto import AutoAugment

    x = bytes_.float() / 255
    augment = AutoAugment("cifar10", transformation_matrix_mode="skip")
    return {
        "kornia_image": lambda: torch.cat([augment(one[None]) for one in x]),
        "kornia_batch": lambda: augment(x),
    }


def torchvision(bytes_: Tensor) -> dict[str, Round]:
    from torchvision.transforms import InterpolationMode, v2

    augment = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, interpolation=InterpolationMode.BILINEAR)
    return {
        "torchvision_image": lambda: torch.stack([augment(one) for one in bytes_]),
        "torchvision_batch": lambda: augment(bytes_),
    }


if __name__ == "__main__":
    main()
