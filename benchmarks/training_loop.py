"""Does the framework cost time? One epoch of FERModule under Lightning against a bare PyTorch loop, same batches.

Both sides train the same network with the same optimizer on the same batches, interleaved in one run; the table shows
medians and the median of the ratios of neighbouring rounds.

    python benchmarks/training_loop.py --out benchmarks/results/training_loop.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import fer_lightning  # noqa: F401  # isort: skip  # first, so that torchvision can be imported whatever it was built for
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from fer_lightning.config import plain, register_resolvers
from fer_lightning.data.datamodule import FERDataModule
from fer_lightning.reporting import records
from fer_lightning.run import Job, build_module, build_trainer, prepare_data, quiet
from fer_lightning.training.callbacks import TrainingProgress
from fer_lightning.training.optim import build_optimizer

ROOT = Path(__file__).parents[1]


class Lap(pl.Callback):
    """Takes the time from the first training batch of an epoch to its last."""

    def __init__(self, skip: int) -> None:
        self.skip = skip
        self.seconds = 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == self.skip:
            self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seconds = time.perf_counter() - self.start if batch_idx >= self.skip else 0.0


def config_for(model: str, steps: int) -> object:
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(
            "config",
            overrides=[
                "data=synthetic",
                f"model={model}",
                "tracking=none",
                "paths.output_dir=outputs/benchmark",
                "trainer.max_epochs=1",
                f"trainer.limit_train_batches={steps}",
                "trainer.limit_val_batches=1",
                "scheduler=constant",
            ],
        )


def prepared(config) -> tuple[FERDataModule, object]:
    pl.seed_everything(0, verbose=False)
    faces, split, datamodule = prepare_data(config)
    return datamodule, build_module(config, Job.current(), faces, split, datamodule)


def lightning(config, skip: int) -> float:
    datamodule, module = prepared(config)
    lap = Lap(skip)
    progress = TrainingProgress("val/accuracy", "max", Console(quiet=True))
    trainer = build_trainer(
        config,
        Path("outputs/benchmark"),
        module.network,
        logger=False,
        callbacks=[lap, progress],
        enable_checkpointing=False,
    )
    trainer.fit(module, datamodule=datamodule)
    return lap.seconds


class _Training:
    training = True


def bare(config, skip: int, precision: str) -> float:
    datamodule, module = prepared(config)
    datamodule.trainer = _Training()
    network, loss = module.network.train(), module.loss
    optimizer = build_optimizer(plain(config.optimizer), network)
    mixed = precision.startswith("bf16")
    for step, raw in enumerate(datamodule.train_dataloader()):
        if step == skip:
            start = time.perf_counter()
        if step == config.trainer.limit_train_batches:
            break
        batch = datamodule.on_after_batch_transfer(raw, 0)
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            value = loss(network(image), batch["label"])
        value.backward()
        optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["custom_cnn", "sequential_cnn"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    quiet()
    skip = 4  # the first steps warm caches up
    result = {"question": __doc__.splitlines()[0], "machine": records.machine(), "versions": records.versions()}
    table = Table("model", "bare, ms a step", "Lightning, ms a step", "ratio", title=result["question"])
    for model in options.models:
        config = config_for(model, options.steps)
        precision = str(
            build_trainer(config, Path("outputs/benchmark"), prepared(config)[1].network, logger=False).precision
        )
        pairs = []
        for round_ in range(options.rounds + 1):
            if round_ % 2:  # the sides take turns at going first
                ours, theirs = lightning(config, skip), bare(config, skip, precision)
            else:
                theirs, ours = bare(config, skip, precision), lightning(config, skip)
            if round_:  # the first round warms up
                pairs.append((theirs, ours))
        per_step = 1000 / (options.steps - skip)
        row = {
            "bare_ms": statistics.median(b for b, _ in pairs) * per_step,
            "lightning_ms": statistics.median(f for _, f in pairs) * per_step,
            "ratio": statistics.median(f / b for b, f in pairs),
            "rounds": options.rounds,
            "batch_size": config.trainer.batch_size,
            "precision": precision,
        }
        result[model] = row
        table.add_row(model, f"{row['bare_ms']:.1f}", f"{row['lightning_ms']:.1f}", f"{row['ratio']:.3f}")
    Console().print(table)
    if options.out:
        records.write_json(options.out, {**result, "commit": records.commit()})


if __name__ == "__main__":
    main()
