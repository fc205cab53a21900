"""Ordinary training on MNIST as training functions of searches.

The data are looked for as everywhere: in $METASEARCH_DATA/mnist, then in the cache (`metasearch datasets get mnist`).
"""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from metasearch.core.seeds import Draws, derive
from metasearch.optim import SGDHD, AdamHD, NesterovHD, schedule
from metasearch.tasks import datasets

VALIDATION = 10_000  # the last of the 60,000 training images, where a search has to choose by held-out images


def train(config: Mapping[str, Any], trial: Any) -> dict[str, float]:
    """Trains a network and returns its loss on images that it was not trained on.

    Settings: ``hidden`` (units of the hidden layers, none for logistic regression), ``epochs``, ``batch``,
    ``weight_decay``, ``optimizer`` (sgd, nesterov, adam, or one with `_hd`), ``lr`` or a ``schedule`` (of batches),
    ``hyper_lr`` for the optimizers with `_hd`, ``examples`` (how many of the training images, None for all), and
    ``held_out``: ``validation`` judges by the last 10,000 training images and reports the test images as ``test_L``
    beside, ``test`` trains on all 60,000 and judges by the test images, as Baydin et al. do.
    """
    search = config["held_out"] == "validation"
    x, y = images("train")
    kept = slice(0, len(y) - VALIDATION if search else len(y))
    judge = (x[-VALIDATION:], y[-VALIDATION:]) if search else images("test")
    x, y = x[kept][: config["examples"]], y[kept][: config["examples"]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(trial.seed, "network"))
        sizes = [784, *config["hidden"], 10]
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    network = nn.Sequential(*[one for layer in layers for one in (layer, nn.ReLU())][:-1])
    optimizer = _optimizer(network, config)
    batch = config["batch"]
    steps = config["epochs"] * -(-len(y) // batch)
    scheduler = schedule(config["schedule"]).scheduler(optimizer, steps) if config["schedule"] else None
    losses: dict[str, float] = {}
    for epoch in range(1, config["epochs"] + 1):
        order = torch.from_numpy(Draws([derive(trial.seed, "epoch", epoch)]).permutation(len(y))[0])
        for rows in order.split(batch):
            optimizer.zero_grad()
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
        losses = judged(network, *judge)
        rate = float(optimizer.param_groups[0]["lr"])
        trial.report(epoch, **losses, lr=rate)
        losses["lr"] = rate
    if search:
        losses |= {f"test_{name}": value for name, value in judged(network, *images("test")).items()}
    return losses


def judged(network: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Mean cross-entropy and accuracy."""
    with torch.no_grad():
        outputs = network(x)
        return {"L": float(F.cross_entropy(outputs, y)), "accuracy": float((outputs.argmax(-1) == y).double().mean())}


_OPENED: dict[str, tuple[Tensor, Tensor]] = {}


def images(part: str) -> tuple[Tensor, Tensor]:
    """Images ``[n, 784]`` with the mean and deviation of MNIST taken out, and labels ``[n]``; read once a process."""
    if part not in _OPENED:
        prefix = {"train": "train", "test": "t10k"}[part]
        pixels, labels = (_idx(f"{prefix}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
        x = torch.from_numpy(pixels.reshape(len(labels), -1)).float().div_(255).sub_(0.1307).div_(0.3081)
        _OPENED[part] = (x, torch.from_numpy(labels).long())
    return _OPENED[part]


def _idx(name: str) -> NDArray[np.uint8]:
    """An array of bytes in the idx format: 0, 0, 8, its number of dimensions, their sizes, the bytes."""
    content = gzip.decompress((datasets.get("mnist") / name).read_bytes())
    sizes = np.frombuffer(content, ">u4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(sizes).copy()


def _optimizer(network: nn.Module, config: Mapping[str, Any]) -> torch.optim.Optimizer:
    given = {"lr": 1.0 if config["schedule"] else config["lr"], "weight_decay": config["weight_decay"]}
    hyper = {**given, "hyper_lr": config.get("hyper_lr")}  # only for those with `_hd`
    parameters = network.parameters()
    match config["optimizer"]:
        case "sgd":
            return torch.optim.SGD(parameters, **given)
        case "sgd_hd":
            return SGDHD(parameters, **hyper)
        case "nesterov":
            return torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **given)
        case "nesterov_hd":
            return NesterovHD(parameters, momentum=0.9, **hyper)
        case "adam":
            return torch.optim.Adam(parameters, **given)
        case "adam_hd":
            return AdamHD(parameters, **hyper)
    raise ValueError(f"unknown optimizer {config['optimizer']!r}")
