"""Batches of a training and one training step, without a Trainer, for several benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from types import SimpleNamespace

import fer_lightning  # noqa: F401  # isort: skip  # first: it makes any build of torchvision importable
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from fer_lightning.cli.command_line import compose_config
from fer_lightning.config import CONF, to_container
from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.datamodule import Batch, FERDataModule
from fer_lightning.data.protocols.split import Split
from fer_lightning.run.job import Job
from fer_lightning.run.resume import StartPoint
from fer_lightning.run.train import build_module
from fer_lightning.run.trainer import choose_precision
from fer_lightning.training.allocator import keep_freed_memory
from fer_lightning.training.optim import build_optimizer

keep_freed_memory()  # as a training does

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def config_of(*overrides: str) -> DictConfig:
    """Compose conf/ with overrides."""
    return compose_config(CONF, ["paths.output_dir=outputs/benchmark", *overrides])


def data_of(config: DictConfig, faces: FaceArrays, split: Split, *, resident: bool) -> FERDataModule:
    """Create the data module as a training does."""
    datamodule = FERDataModule(
        faces,
        split,
        batch_size=config.trainer.batch_size,
        augmentation=to_container(config.augmentation),
        resident=resident,
        workers=config.data.workers,
        seed=config.seed,
    )
    datamodule.trainer = SimpleNamespace(training=True)  # the only attribute of the trainer that it reads
    return datamodule


def batches(datamodule: FERDataModule) -> Iterator[Batch]:
    """Yield training batches on the device, epoch after epoch."""
    loader = datamodule.train_dataloader()
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        for raw in loader:
            moved = {k: v.to(DEVICE, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in raw.items()}
            yield datamodule.on_after_batch_transfer(moved, 0)
        epoch += 1


class Step:
    """Forward, backward and update, in the memory format and precision of a training with this configuration."""

    def __init__(self, config: DictConfig, datamodule: FERDataModule) -> None:
        pl.seed_everything(0, verbose=False)
        module = build_module(config, Job.current(), datamodule, StartPoint()).to(DEVICE)
        self.network, self.loss = module.network.train(), module.loss
        self.optimizer = build_optimizer(to_container(config.optimizer), self.network)
        self.precision = choose_precision(config.trainer.precision, self.network, DEVICE.type)

    def __call__(self, batch: Batch) -> None:
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        self.optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.precision.startswith("bf16")):
            loss = self.loss(self.network(image), batch.get("target", batch["label"]))
        loss.backward()
        self.optimizer.step()


def rate(source: Iterator[Batch], steps: int, step: Callable[[Batch], object]) -> float:
    """Return the images per second over the given number of steps."""
    images = 0
    wait_for_device()
    started = time.perf_counter()
    for batch in islice(source, steps):
        step(batch)
        images += len(batch["label"])
    wait_for_device()
    return images / (time.perf_counter() - started)


def wait_for_device() -> None:
    """Wait until the device has finished all work."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
