"""A learned optimizer in other people's training loops: Lightning, Hugging Face's Trainer, accelerate.

Each is compared with a plain loop over the same batches, number for number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import metasearch as ms

NAME = "small-mlp-v1"
STEPS = 6


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def data() -> TensorDataset:
    draw = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(8 * STEPS, 5, generator=draw), torch.arange(8 * STEPS) % 3)


def batches() -> DataLoader[Any]:
    return DataLoader(data(), batch_size=8)


def cosine(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)


def plain() -> nn.Module:
    """Trained without any of them."""
    model = net()
    optimizer = ms.LearnedOptimizer(NAME, model.parameters(), weight_decay=0.01)
    schedule = cosine(optimizer)
    for x, y in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model


def same(model: nn.Module) -> None:
    for one, other in zip(model.parameters(), plain().parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_lightning_takes_its_steps_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="needs the extra: pip install -e '.[lightning]'")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = ms.LearnedOptimizer(NAME, self.net.parameters(), weight_decay=0.01)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine(optimizer), "interval": "step"}}

    def trainer(steps: int) -> Any:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return lightning.Trainer(
            max_steps=steps, accelerator="cpu", default_root_dir=tmp_path, gradient_clip_val=1.0,
            enable_checkpointing=False, **quiet,
        )  # fmt: skip

    whole, half = Module(), Module()
    trainer(STEPS).fit(whole, batches())
    same(whole.net)
    first = trainer(STEPS // 2)
    first.fit(half, batches())
    first.save_checkpoint(tmp_path / "half.ckpt")
    stored = torch.load(tmp_path / "half.ckpt", weights_only=True)
    again = Module()
    again.load_state_dict(stored["state_dict"])
    optimizer = again.configure_optimizers()["optimizer"]
    optimizer.load_state_dict(stored["optimizer_states"][0])
    assert {int(one["step"]) for one in optimizer.state.values()} == {STEPS // 2}


def test_accelerate_prepares_it(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", reason="needs the extra: pip install -e '.[huggingface]'")
    accelerator = accelerate.Accelerator(cpu=True)
    model = net()
    optimizer = ms.LearnedOptimizer(NAME, model.parameters(), weight_decay=0.01)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, batches(), cosine(optimizer))
    for index, (x, y) in enumerate(loader):
        optimizer.zero_grad()
        accelerator.backward(F.cross_entropy(model(x), y))
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if index == STEPS // 2:
            accelerator.save_state(str(tmp_path / "state"))
            accelerator.load_state(str(tmp_path / "state"))
    same(accelerator.unwrap_model(model))


def test_the_trainer_of_transformers_takes_its_steps_and_resumes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra: pip install -e '.[huggingface]'")
    pytest.importorskip("accelerate", reason="needs the extra: pip install -e '.[huggingface]'")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> Any:
            outputs = self.net(x)
            return {"loss": F.cross_entropy(outputs, labels), "logits": outputs}

    class InOrder(transformers.Trainer):  # type: ignore[misc, name-defined]
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    def trained(model: Model, **settings: Any) -> None:
        given = transformers.TrainingArguments(
            output_dir=str(tmp_path / "out"), max_steps=STEPS, per_device_train_batch_size=8, max_grad_norm=1.0,
            use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="steps", save_steps=STEPS // 2,
            logging_steps=2,
        )  # fmt: skip
        rows = [{"x": x, "labels": y} for x, y in data()]
        optimizer = ms.LearnedOptimizer(NAME, model.parameters(), weight_decay=0.01)
        InOrder(
            model=model, args=given, train_dataset=rows, optimizers=(optimizer, cosine(optimizer))
        ).train(**settings)  # fmt: skip

    whole, resumed = Model(), Model()
    trained(whole)
    same(whole.net)
    trained(resumed, resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{STEPS // 2}"))
    same(resumed.net)
