"""The exponential moving average of the weights."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torch import Tensor


class EMA(WeightAveraging):
    """Validation, checkpoints and test use a moving average of weights and buffers (Polyak and Juditsky 1992).

    Unlike Lightning's own, it averages on the training device, without copies to another device and without waiting for
    the GPU. Before the first averaged step the average equals the current weights, not those of the untrained network.

    Args:
        decay: Weight of the previous average in each update.
        update_starting_at_step: First step that is averaged.
    """

    def __init__(self, decay: float = 0.999, update_starting_at_step: int = 100) -> None:
        super().__init__()
        self.update_starting_at_step = update_starting_at_step
        self._decay = decay
        self._pairs: list[tuple[Tensor, Tensor]] = []  # each averaged weight or buffer, and the network's current one

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether to update: after every step from `update_starting_at_step` on."""
        return step_idx is not None and step_idx >= self.update_starting_at_step

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the average to the network's device, and find its tensors once: each search walks all modules."""
        assert self._average_model is not None
        average = self._average_model.module.to(pl_module.device)
        averages, currents = (chain(module.parameters(), module.buffers()) for module in (average, pl_module))
        self._pairs = [(averaged.data, current.data) for averaged, current in zip(averages, currents, strict=True)]

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Update the average; torch's own update would wait for the GPU to read the number of steps."""
        average = self._average_model
        if average is None or trainer.global_step <= self._latest_update_step:
            return
        if self.should_update(step_idx=trainer.global_step - 1):
            if average.n_averaged:  # on the CPU, so that reading it waits for no GPU
                floats = [(averaged, current) for averaged, current in self._pairs if averaged.is_floating_point()]
                torch._foreach_lerp_([averaged for averaged, _ in floats], [c for _, c in floats], 1 - self._decay)
            else:
                self._copy_network()
            average.n_averaged += 1
            self._latest_update_step = trainer.global_step

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the network into an average without a step, as a checkpoint is written next."""
        self._copy_until_first_step()

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate with the average, which before its first step is a copy of the network."""
        self._copy_until_first_step()
        super().on_validation_epoch_start(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the average into the network."""
        self._copy_until_first_step()
        self._pairs = []  # they would keep the network's memory on the GPU
        super().on_train_end(trainer, pl_module)

    def _copy_until_first_step(self) -> None:
        """Copy the network into the average as long as no step was averaged."""
        if self._average_model is not None and not self._average_model.n_averaged:
            self._copy_network()

    def _copy_network(self) -> None:
        for averaged, current in self._pairs:
            averaged.copy_(current)
