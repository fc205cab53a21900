"""A training run as people write it: a small regression with checkpoints, seeded by trial and epoch."""

from typing import Any

import torch
from torch import nn

from metasearch.core.contracts import Trial
from metasearch.core.seeds import derive

EPOCHS = 6
RATE = {"lr": {"float": [1e-4, 1.0], "log": True}, "weight_decay": {"float": [1e-6, 1e-2], "log": True}}


def train(config: dict[str, Any], trial: Trial) -> dict[str, float]:
    torch.manual_seed(7)
    net = nn.Sequential(
        nn.Linear(1, int(config.get("width", 16))), nn.Tanh(), nn.Linear(int(config.get("width", 16)), 1)
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.8)
    begun, loss = 0, torch.tensor(float("nan"))
    if trial.restored is not None:
        state = torch.load(trial.restored / "state.pt")
        begun, loss = state["epoch"], state["loss"]
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
    for group in optimizer.param_groups:
        group.update(lr=config["lr"], weight_decay=config["weight_decay"])
    parameters = float(sum(p.numel() for p in net.parameters()))
    for epoch in range(begun + 1, EPOCHS + 1):
        generator = torch.Generator().manual_seed(derive(trial.seed, "epoch", epoch) % 2**63)
        for _ in range(12):
            x = 6 * torch.rand(32, 1, generator=generator) - 3
            loss = (net(x) - torch.sin(x)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        grid = torch.linspace(-3, 3, 50)[:, None]
        loss = (net(grid) - torch.sin(grid)).square().mean().detach()
        state = {"epoch": epoch, "loss": loss, "net": net.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, trial.checkpoint() / "state.pt")
        trial.report(epoch, L=loss.item(), parameters=parameters)
    return {"L": loss.item(), "parameters": parameters}
