"""Training on MNIST that can be put aside and continued under other settings, for populations and early stopping."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from mnist import VALIDATION, images, judged
from torch import nn
from torch.nn import functional as F

from metasearch.core.seeds import Draws, derive


def train(config: Mapping[str, Any], trial: Any) -> dict[str, float]:
    """SGD with momentum on an MLP; returns its figures on the last 10,000 training images, and on the test images.

    Settings: ``lr``, ``weight_decay``, ``momentum``, ``hidden`` (units of the hidden layers), ``epochs``, ``batch``,
    ``examples`` (how many of the training images). An epoch is a unit of budget and ends with a checkpoint. Epoch and
    trial seed its order, so a run that was put aside goes on as if it had not been.
    """
    x, y = images("train")
    judge = (x[-VALIDATION:], y[-VALIDATION:])
    x, y = x[:-VALIDATION][: config["examples"]], y[:-VALIDATION][: config["examples"]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(trial.seed, "network"))
        sizes = [784, *config["hidden"], 10]
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    network = nn.Sequential(*[one for layer in layers for one in (layer, nn.ReLU())][:-1])
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=config["momentum"])
    begun = 0
    if trial.restored is not None:
        state = torch.load(trial.restored / "state.pt")
        begun = state["epoch"]
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
    for group in optimizer.param_groups:  # the present settings, not those of the checkpoint
        group.update(lr=config["lr"], weight_decay=config["weight_decay"], momentum=config["momentum"])
    parameters = float(sum(one.numel() for one in network.parameters()))
    for epoch in range(begun + 1, config["epochs"] + 1):
        order = torch.from_numpy(Draws([derive(trial.seed, "epoch", epoch)]).permutation(len(y))[0])
        for rows in order.split(config["batch"]):
            optimizer.zero_grad()
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
        state = {"epoch": epoch, "network": network.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, trial.checkpoint() / "state.pt")
        trial.report(epoch, **judged(network, *judge), parameters=parameters)
    test = {f"test_{name}": value for name, value in judged(network, *images("test")).items()}
    return {**judged(network, *judge), **test, "parameters": parameters}
