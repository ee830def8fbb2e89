"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from pytorch_lightning.utilities.types import LRSchedulerConfigType
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from fer_lightning.config import build


def build_optimizer(config: Mapping[str, Any], network: nn.Module) -> Optimizer:
    """Build the optimizer of all parameters, without weight decay on norms and biases (one-dimensional parameters)."""
    parameters = list(network.parameters())
    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer: Optimizer = build(config, [group for group in groups if group["params"]])
    # A fused optimizer would unscale float16 gradients in its step, after clipping: Lightning refuses that.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


def constant(optimizer: Optimizer, *, epochs: int, steps_per_epoch: int) -> LRSchedulerConfigType:
    """Constant learning rate."""
    return {"scheduler": LambdaLR(optimizer, lambda _: 1.0), "interval": "step"}


def plateau(
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    monitor: str,
    mode: str,
    factor: float,
    patience: int,
    min_lr: float,
) -> LRSchedulerConfigType:
    """Multiply the learning rate by `factor` when `monitor` has not improved for more than `patience` epochs.

    With a monitor of the val part, epochs without validation do not count.
    """
    scheduler = ReduceLROnPlateau(
        optimizer,
        mode=mode,  # type: ignore[arg-type]  # a string from yaml, checked by torch
        factor=factor,
        patience=patience,
        min_lr=min_lr,
    )
    # Lightning steps epoch schedulers after the epoch's checkpoint is written, so a resumed run would miss a step.
    # This frequency disables that, and FERModule steps the scheduler before the checkpoint.
    return {"scheduler": scheduler, "interval": "epoch", "frequency": sys.maxsize, "monitor": monitor}


def cosine(
    optimizer: Optimizer, *, epochs: int, steps_per_epoch: int, warmup_epochs: float, final_fraction: float
) -> LRSchedulerConfigType:
    """Linear warm-up, then half a cosine to `final_fraction` of the peak (Loshchilov & Hutter 2017), per step."""
    total = max(1, epochs * steps_per_epoch)
    warmup = min(round(warmup_epochs * steps_per_epoch), total - 1)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = min(1.0, (step - warmup) / (total - warmup))
        return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))

    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}


def onecycle(
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    warmup_fraction: float,
    initial_divisor: float,
    final_divisor: float,
) -> LRSchedulerConfigType:
    """One rise from lr / `initial_divisor` to `optimizer.lr` and one fall (Smith & Topin 2018), per step.

    The values are those of torch's OneCycleLR, whose state contains the total steps, so that no run could be resumed
    for more epochs.
    """
    last = max(1, epochs * steps_per_epoch - 1)
    peak = max(0.5, warmup_fraction * (last + 1) - 1)  # the step with the highest rate
    first, final = 1 / initial_divisor, 1 / (initial_divisor * final_divisor)

    def factor(step: int) -> float:
        start, end, done = (first, 1.0, step / peak) if step <= peak else (1.0, final, (step - peak) / (last - peak))
        return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}


def step(
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    every_epochs: int,
    factor: float,
    after_epochs: int = 0,
) -> LRSchedulerConfigType:
    """Multiply the learning rate by `factor` every `every_epochs` epochs, starting at epoch `after_epochs`."""
    every, after = every_epochs * steps_per_epoch, after_epochs * steps_per_epoch
    scheduler = LambdaLR(optimizer, lambda done: factor ** (max(0, done - after) // every))
    return {"scheduler": scheduler, "interval": "step"}
