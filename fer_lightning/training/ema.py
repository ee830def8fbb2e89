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

    Unlike Lightning's own, it averages on the device that trains, where no weight has to be copied elsewhere and no
    step waits for a GPU, and until the average begins it stands for the weights themselves, not for the untrained
    network.

    Args:
        decay: Share of the average that each step keeps.
        update_starting_at_step: The steps before it are not averaged.
    """

    def __init__(self, decay: float = 0.999, update_starting_at_step: int = 100) -> None:
        super().__init__()
        self.update_starting_at_step = update_starting_at_step
        self._decay = decay

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After every step from the chosen one on."""
        return step_idx is not None and step_idx >= self.update_starting_at_step

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Moves the average to where the network is by now."""
        assert self._average_model is not None
        self._average_model.module.to(pl_module.device)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Takes a step into the average; torch's own would wait for the GPU to learn how many there were."""
        average = self._average_model
        if average is None or trainer.global_step <= self._latest_update_step:
            return
        if self.should_update(step_idx=trainer.global_step - 1):
            pairs = self._pairs(pl_module)
            if average.n_averaged:  # which lies on the CPU
                floats = [(mine, its) for mine, its in pairs if mine.is_floating_point()]
                torch._foreach_lerp_([mine for mine, _ in floats], [its for _, its in floats], 1 - self._decay)
            else:
                for mine, its in pairs:
                    mine.copy_(its)
            average.n_averaged += 1
            self._latest_update_step = trainer.global_step

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lets the average, of which a checkpoint is made now, be the network before its first step."""
        self._follow(pl_module)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lets the network be the average, which before its first step is the network."""
        self._follow(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the average in the network."""
        self._follow(pl_module)
        super().on_train_end(trainer, pl_module)

    def _follow(self, pl_module: pl.LightningModule) -> None:
        if self._average_model is not None and not self._average_model.n_averaged:
            for mine, its in self._pairs(pl_module):
                mine.copy_(its)

    def _pairs(self, pl_module: pl.LightningModule) -> list[tuple[Tensor, Tensor]]:
        """Each weight and buffer of the average with the network's."""
        assert self._average_model is not None
        average, current = (chain(m.parameters(), m.buffers()) for m in (self._average_model.module, pl_module))
        return [(mine.data, its.data) for mine, its in zip(average, current, strict=True)]
