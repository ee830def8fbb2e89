"""How much time does the framework add? FERModule with Lightning and a bare PyTorch loop, on the same batches.

Both train the same network with the same optimizer on the same batches for an epoch, interleaved in one run; the table
shows medians, the median of the ratios of neighbouring rounds, and the lowest and highest ratio. The last case has a
step of about 5 ms, in which the overhead per step is visible.

    python benchmarks/training_loop.py --out benchmarks/results/training_loop.json
"""

from __future__ import annotations

import statistics
import time
from itertools import islice
from pathlib import Path

import fer_lightning  # noqa: F401  # isort: skip  # first: it makes any build of torchvision importable
import pytorch_lightning as pl
from harness import finish, interleave, new_parser, ratios
from omegaconf import DictConfig
from rich.console import Console
from training_step import Step, batches, config_of, data_of

from fer_lightning.run.data import prepare_data
from fer_lightning.run.job import Job
from fer_lightning.run.resume import StartPoint
from fer_lightning.run.train import build_module
from fer_lightning.run.trainer import build_trainer, quiet
from fer_lightning.training.callbacks import TrainingProgress

CASES = {
    "custom_cnn": ["model=custom_cnn"],
    "sequential_cnn": ["model=sequential_cnn"],
    "sequential_cnn, width 4, hidden 32": [
        *("model=sequential_cnn", "model.width=4", "model.hidden=32", "trainer.batch_size=16")
    ],
}
"""Overrides of each case, by name."""


class EpochTimer(pl.Callback):
    """Measures the time from a training batch of an epoch to its last."""

    def __init__(self, skip: int) -> None:
        self.skip = skip
        self.seconds = 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == self.skip:
            self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seconds = time.perf_counter() - self.start if batch_idx >= self.skip else 0.0


def config_for(case: str, steps: int) -> DictConfig:
    return config_of(
        *("data=synthetic", f"data.count={100 * steps}", *CASES[case], "tracking=none"),
        *("trainer.max_epochs=1", "scheduler=constant"),
        *(f"trainer.limit_train_batches={steps}", "trainer.limit_val_batches=1"),
    )


def lightning(config, skip: int) -> float:
    pl.seed_everything(0, verbose=False)
    datamodule = prepare_data(config)
    module = build_module(config, Job.current(), datamodule, StartPoint())
    timer = EpochTimer(skip)
    progress = TrainingProgress("val/accuracy", "max", Console(quiet=True))
    trainer = build_trainer(
        config,
        Path("outputs/benchmark"),
        module.network,
        logger=False,
        callbacks=[timer, progress],
        enable_checkpointing=False,
    )
    trainer.fit(module, datamodule=datamodule)
    if trainer.global_step != config.trainer.limit_train_batches:
        raise SystemExit(f"the epoch has only {trainer.global_step} steps: increase data.count")
    return timer.seconds


def bare(config: DictConfig, skip: int) -> tuple[float, str]:
    """Return the seconds and the precision."""
    prepared = prepare_data(config)
    datamodule = data_of(config, prepared.faces, prepared.split, resident=True)
    step, source = Step(config, datamodule), batches(datamodule)
    for batch in islice(source, skip):
        step(batch)
    start = time.perf_counter()
    for batch in islice(source, config.trainer.limit_train_batches - skip):
        step(batch)
    return time.perf_counter() - start, step.precision


def measure(case: str, rounds: int, steps: int) -> dict[str, float | int | str]:
    skip = steps // 4  # the first steps fill caches and allocate the memory of a new network
    config = config_for(case, steps)
    _, precision = bare(config, skip)
    sides = {"bare": lambda: bare(config, skip)[0], "lightning": lambda: lightning(config, skip)}
    times = interleave(sides, rounds, warm_up=1)
    per_step = 1000 / (steps - skip)
    epoch_ratios = ratios(times["lightning"], times["bare"])
    return {
        "bare_ms": statistics.median(times["bare"]) * per_step,
        "lightning_ms": statistics.median(times["lightning"]) * per_step,
        "ratio": statistics.median(epoch_ratios),
        "lowest": min(epoch_ratios),
        "highest": max(epoch_ratios),
        "rounds": rounds,
        "batch_size": config.trainer.batch_size,
        "precision": precision,
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=80)
    options = parser.parse_args()
    quiet()
    result = {case: measure(case, options.rounds, options.steps) for case in options.cases}
    finish("training_loop", __doc__, result, options.out)


if __name__ == "__main__":
    main()
