"""The batches of a training and one step on them, without a Trainer: what several benchmarks time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from types import SimpleNamespace

import fer_lightning  # noqa: F401  # isort: skip  # first, so that torchvision can be imported whatever it was built for
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from fer_lightning.cli.command_line import composed
from fer_lightning.config import CONF, plain
from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.datamodule import Batch, FERDataModule
from fer_lightning.data.protocols.split import Split
from fer_lightning.run.job import Job
from fer_lightning.run.train import build_module
from fer_lightning.run.trainer import choose_precision
from fer_lightning.training.allocator import keep_freed_memory
from fer_lightning.training.optim import build_optimizer

keep_freed_memory()  # as a training does

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def config_of(*overrides: str) -> DictConfig:
    """conf/ with overrides."""
    return composed(CONF, ["paths.output_dir=outputs/benchmark", *overrides])


def data_of(config: DictConfig, faces: FaceArrays, split: Split, *, resident: bool) -> FERDataModule:
    """The data module as for a training."""
    datamodule = FERDataModule(
        faces,
        split,
        batch_size=config.trainer.batch_size,
        augmentation=plain(config.augmentation),
        resident=resident,
        workers=config.data.workers,
        seed=config.seed,
    )
    datamodule.trainer = SimpleNamespace(training=True)  # all that it asks its trainer
    return datamodule


def batches(datamodule: FERDataModule) -> Iterator[Batch]:
    """Ready training batches, epoch after epoch."""
    loader = datamodule.train_dataloader()
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        for raw in loader:
            moved = {k: v.to(DEVICE, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in raw.items()}
            yield datamodule.on_after_batch_transfer(moved, 0)
        epoch += 1


class Step:
    """Forward, backward and update, in the layout and precision that a training of this config has."""

    def __init__(self, config: DictConfig, datamodule: FERDataModule) -> None:
        pl.seed_everything(0, verbose=False)
        module = build_module(config, Job.current(), datamodule).to(DEVICE)
        self.network, self.loss = module.network.train(), module.loss
        self.optimizer = build_optimizer(plain(config.optimizer), self.network)
        self.precision = choose_precision(config.trainer.precision, self.network, DEVICE.type)

    def __call__(self, batch: Batch) -> None:
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        self.optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.precision.startswith("bf16")):
            loss = self.loss(self.network(image), batch.get("target", batch["label"]))
        loss.backward()
        self.optimizer.step()


def rate(source: Iterator[Batch], steps: int, step: Callable[[Batch], object]) -> float:
    """Pictures a second over so many steps."""
    seen = 0
    wait_for_device()
    started = time.perf_counter()
    for batch in islice(source, steps):
        step(batch)
        seen += len(batch["label"])
    wait_for_device()
    return seen / (time.perf_counter() - started)


def wait_for_device() -> None:
    """Waits until the device has done all that it was asked for."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
