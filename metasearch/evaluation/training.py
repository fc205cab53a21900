"""An evaluation that is an ordinary training run on labelled pictures, with a policy of augmentation to be searched."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from metasearch.augment import Policy, design
from metasearch.core import seeds as seeding
from metasearch.core.conditions import under
from metasearch.core.config import Config as BaseConfig
from metasearch.core.config import validate
from metasearch.core.contracts import Model, Trial
from metasearch.core.space import Space
from metasearch.core.values import Call, Measurement, TaskSpec, Tensors
from metasearch.evaluation.single import SingleCall
from metasearch.models import build_model
from metasearch.tasks.labelled import Labelled, source

__all__ = ["Training", "shifted"]

_OWN = "evaluation.augmentation."


class Training(SingleCall):
    """Trains a network on augmented pictures and lowers its error on validation pictures.

    Gradient descent with Nesterov's momentum under a rate that falls by half a cosine. L is measured after the last
    epoch; ``test_L`` and ``test_accuracy``, which no search sees, stand beside it. Each proposal trains from its own
    random start in its own order.

    A run reports after each epoch and saves where it stands, so schedulers can stop it early or, since the augmentation
    has no state of its own, go on from there under other settings.

    Args:
        config: its settings.
        program: the worker's program.

    Raises:
        ConfigError: if the data, the network or the augmentation are not described right.
    """

    class Config(BaseConfig):
        """Settings.

        Args:
            data: ``{type: omniglot | cifar10 | image_folder, ...}`` (see :mod:`metasearch.tasks.labelled`), or a class
                of your own with ``load()``.
            model: the network, as for a learner: a name, or an ``nn.Module`` class of your own, which maps
                ``[n, channels, height, width]`` to ``[n, classes]``.
            augmentation: a design of :mod:`metasearch.augment.designs`.
            epochs: passes over the training pictures.
            batch: pictures a step.
            lr: the rate at the start.
            momentum: of the gradient descent.
            weight_decay: pull of all parameters to zero.
            flip: whether training pictures are mirrored at random before the policy.
            crop: pixels by which training pictures are shifted at random, at most, before the policy.
            measure: what L is: the share of ``error`` or the cross-entropy (``loss``).
            report_every: epochs from one report to the next.
            checkpoint_every: reports from one checkpoint to the next; 0 for none.
        """

        data: Any
        model: Any
        augmentation: Any = "none"
        epochs: PositiveInt = 20
        batch: PositiveInt = 64
        lr: PositiveFloat = 0.05
        momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
        weight_decay: NonNegativeFloat = 5e-4
        flip: bool = False
        crop: NonNegativeInt = 0
        measure: Literal["error", "loss"] = "error"
        report_every: PositiveInt = 1
        checkpoint_every: NonNegativeInt = 1

    extra: ClassVar[Mapping[str, Any]] = {"trial": True}

    def __init__(self, config: Config, program: Any) -> None:
        self.config = config
        self._program = program
        self._source = source(config.data, "evaluation.data")
        self._design = design(config.augmentation, "evaluation.augmentation")
        self._data: Labelled | None = None

    def space(self) -> Space:
        """What the design leaves to a searcher, besides ranges among the settings."""
        prefix = "augmentation."
        inner = self._design.space().dimensions
        return Space(
            {
                prefix + name: under(one, {prefix + parent: values for parent, values in (one.when or {}).items()})
                for name, one in inner.items()
            }
        )

    def run(self, call: Call, trial: Trial) -> Measurement:
        """One training run, with the proposal's values in place."""
        start = time.perf_counter()
        block = dict(self._program.blueprint.configuration(call.phi.choices)["evaluation"])
        block.pop("type")
        config = validate(Training.Config, block, "evaluation")
        family = design(config.augmentation, "evaluation.augmentation")
        chosen = {name.removeprefix(_OWN): value for name, value in call.phi.choices.items() if name.startswith(_OWN)}
        policy = family.policy({name: chosen[name] for name in family.space() if name in chosen})
        if self._data is None:
            self._data = self._source.load()
        numerics = self._program.file.numerics
        device, dtype = torch.device(self._program.blueprint.device), getattr(torch, numerics.dtype)
        run = _Run(config, policy, self._data, call.seed, device, dtype)
        begun = 0 if trial.restored is None else run.load(trial.restored)
        reports = 0
        for epoch in range(begun, config.epochs):
            run.epoch(epoch)
            if (epoch + 1) % config.report_every == 0:
                reports += 1
                if config.checkpoint_every and reports % config.checkpoint_every == 0:
                    run.save(trial.checkpoint(), epoch + 1)
                trial.report(epoch + 1, **run.measure("validation"))
        found = run.measure("validation")
        value = np.array([found.pop("L")])
        metrics = {**found, **{f"test_{name}": one for name, one in run.measure("test").items()}}
        seconds = time.perf_counter() - start
        return Measurement(value, value, {name: np.array([one]) for name, one in metrics.items()}, seconds=seconds)


class _Run:
    """One network on its way.

    Args:
        config: the settings, without ranges.
        policy: of augmentation.
        data: labelled pictures.
        seed: of everything it draws.
        device: where to compute.
        dtype: in which precision.
    """

    def __init__(
        self, config: Any, policy: Policy, data: Labelled, seed: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.config, self.policy, self.seed, self.dtype = config, policy, seed, dtype
        self.splits = {
            name: (torch.from_numpy(x).to(device), torch.from_numpy(y).to(device))
            for name, (x, y) in data.splits.items()
        }
        x = self.splits["train"][0]
        spec = TaskSpec("classification", data.shape, len(data.names), len(x), 0)
        self.model: Model = build_model(config.model, spec, "evaluation.model")
        pixels = x.to(dtype) / 255
        self.mean = pixels.mean((0, 2, 3), keepdim=True)
        self.deviation = pixels.std((0, 2, 3), keepdim=True).clamp(min=1e-3)
        parameters, buffers = self.model.init(seeding.derive(seed, "network"))
        self.theta: Tensors = {
            name: value[None].to(device, dtype).clone().requires_grad_() for name, value in parameters.items()
        }
        self.buffers: Tensors = {
            name: value[None].to(device, dtype if value.is_floating_point() else None)
            for name, value in buffers.items()
        }
        self.optimizer = torch.optim.SGD(
            list(self.theta.values()),
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.momentum > 0.0,
            weight_decay=config.weight_decay,
        )

    def epoch(self, number: int) -> None:
        """One pass over the training pictures; the last batch may be smaller."""
        config, (x, y) = self.config, self.splits["train"]
        order = seeding.Draws([seeding.derive(self.seed, "order", number)]).permutation(len(x))[0]
        batches = math.ceil(len(x) / config.batch)
        for index in range(batches):
            progress = (number + index / batches) / config.epochs
            for group in self.optimizer.param_groups:
                group["lr"] = config.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
            rows = torch.from_numpy(order[index * config.batch : (index + 1) * config.batch]).to(x.device)
            own = seeding.derive(self.seed, "batch", number, index)
            pictures = shifted(x[rows].to(self.dtype) / 255, own, flip=config.flip, crop=config.crop)
            pictures = self.policy(pictures, [own], progress)
            outputs, after = self._outputs(pictures, np.array([own], dtype=np.int64))
            self.optimizer.zero_grad()
            F.cross_entropy(outputs, y[rows]).backward()
            self.optimizer.step()
            self.buffers = {name: value.detach() for name, value in after.items()}

    @torch.no_grad()
    def measure(self, split: str, size: int = 500) -> dict[str, float]:
        """``L``, ``accuracy`` and ``loss`` on all pictures of a split."""
        x, y = self.splits[split]
        right, loss = 0.0, 0.0
        for start in range(0, len(x), size):
            labels = y[start : start + size]
            outputs, _ = self._outputs(x[start : start + size].to(self.dtype) / 255, None)
            right += float((outputs.argmax(-1) == labels).sum())
            loss += float(F.cross_entropy(outputs, labels, reduction="sum"))
        accuracy, loss = right / len(x), loss / len(x)
        value = 1.0 - accuracy if self.config.measure == "error" and math.isfinite(loss) else loss
        return {"L": value, "accuracy": accuracy, "loss": loss}

    def save(self, folder: Path, epochs: int) -> None:
        """Writes where it stands after so many epochs."""
        speed = {
            f"momentum.{name}": self.optimizer.state[value]["momentum_buffer"]
            for name, value in self.theta.items()
            if self.optimizer.state.get(value, {}).get("momentum_buffer") is not None
        }
        parts = {f"theta.{name}": value for name, value in self.theta.items()}
        parts |= {f"buffers.{name}": value for name, value in self.buffers.items()} | speed
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in parts.items()}, folder / "run.safetensors"
        )
        (folder / "run.json").write_text(json.dumps({"epochs": epochs}))

    def load(self, folder: Path) -> int:
        """Continues from where a run stood; returns how many epochs that was."""
        parts = load_file(folder / "run.safetensors")
        with torch.no_grad():
            for name, value in self.theta.items():
                value.copy_(parts[f"theta.{name}"])
                if f"momentum.{name}" in parts:
                    self.optimizer.state[value]["momentum_buffer"] = parts[f"momentum.{name}"].to(value.device)
        self.buffers = {name: parts[f"buffers.{name}"].to(value.device) for name, value in self.buffers.items()}
        return int(json.loads((folder / "run.json").read_text())["epochs"])

    def _outputs(self, pictures: Tensor, seeds: Any) -> tuple[Tensor, Tensors]:
        given = (pictures - self.mean) / self.deviation
        outputs, after = self.model(self.theta, self.buffers, given[None], seeds=seeds)
        return outputs[0], after


def shifted(x: Tensor, seed: int, *, flip: bool, crop: int) -> Tensor:
    """Pictures ``[n, C, H, W]``, each mirrored with probability a half and shifted by up to ``crop`` pixels, at random;
    what moves in is 0.
    """
    n, draws = len(x), seeding.Draws([seed], "flip and crop")
    if flip:
        mirrored = torch.from_numpy(draws.uniform(n)[0] < 0.5).to(x.device)
        x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    if crop:
        height, width = x.shape[-2:]
        down, across = torch.from_numpy(draws.integers(2 * n, 2 * crop + 1).reshape(2, n)).to(x.device)
        rows = down[:, None] + torch.arange(height, device=x.device)
        columns = across[:, None] + torch.arange(width, device=x.device)
        images = torch.arange(n, device=x.device)[:, None, None]
        x = F.pad(x, (crop,) * 4)[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
    return x
