"""Fine-tuning: freezes stages of the network and unfreezes them on a schedule."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import nn


class GradualUnfreezing(Callback):
    """Trains only the head, then unfreezes the feature stages from the output side (Howard & Ruder 2018).

    A frozen stage has neither gradients nor weight decay, and its BatchNorm statistics do not change. The frozen
    stages depend on the epoch alone, so a resumed run continues as if uninterrupted. The stages are those of the
    module's `network.body.stages()`.

    Args:
        frozen_epochs: Epochs before the first stage is unfrozen; None: never.
        every_epochs: Epochs from one stage to the next.
        keep_frozen: Stages at the input side that are never unfrozen.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(self, frozen_epochs: int | None = None, every_epochs: int = 1, keep_frozen: int = 0) -> None:
        for name, value, least in (
            ("frozen_epochs", frozen_epochs, 0),
            ("every_epochs", every_epochs, 1),
            ("keep_frozen", keep_frozen, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"finetune.callback.{name} is {value}; it must be at least {least}")
        self.frozen_epochs = frozen_epochs
        self.every_epochs = every_epochs
        self.keep_frozen = keep_frozen

    def frozen_stages(self, epoch: int, stages: int) -> int:
        """Return the number of `stages`, from the input side, that are frozen in `epoch` (from 0)."""
        if self.frozen_epochs is None or epoch < self.frozen_epochs:
            return stages
        unfrozen = 1 + (epoch - self.frozen_epochs) // self.every_epochs
        return max(min(self.keep_frozen, stages), stages - unfrozen)

    def check_stages(self, stages: int) -> None:
        """Check that `keep_frozen` is not above the number of stages.

        Raises:
            ValueError: The network has fewer stages than `keep_frozen`.
        """
        if self.keep_frozen > stages:
            raise ValueError(f"finetune.callback.keep_frozen is {self.keep_frozen}; the model has {stages} stages")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Freeze stages before the strategy wraps the module.

        Raises:
            ValueError: Stages would be unfrozen in a run on several devices, where the gradients of parameters that
                were frozen at the start are not averaged; or the network has fewer stages than `keep_frozen`.
        """
        if stage != "fit":
            return
        if self.frozen_epochs is not None and trainer.world_size > 1:
            raise ValueError("finetune=gradual works on one device: set trainer.devices=1, or finetune=frozen or full")
        stages = _stages(pl_module)
        self.check_stages(len(stages))
        for module in stages[: self.frozen_stages(0, len(stages))]:
            module.requires_grad_(False)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze and unfreeze stages, in each epoch again since Lightning resets the training mode."""
        stages = _stages(pl_module)
        frozen = self.frozen_stages(trainer.current_epoch, len(stages))
        body: Any = pl_module.network.body  # type: ignore[union-attr]
        body.train(frozen < len(stages))  # also layers without weights between the stages, as stochastic depth
        body.head.train()
        for module in stages[frozen:]:
            module.requires_grad_(True).train()
        for module in stages[:frozen]:  # after the others: a layer that two stages share stays frozen
            module.requires_grad_(False).eval()
            module.zero_grad(set_to_none=True)  # optimizers skip a parameter without gradient, weight decay included


def _stages(module: pl.LightningModule) -> list[nn.Module]:
    stages: list[nn.Module] = module.network.body.stages()  # type: ignore[operator, union-attr]
    return stages
