"""The moving average of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from helpers.runs import TINY, load_checkpoint
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn

from fer_lightning.run.train import train
from fer_lightning.training.ema import EMA


class OneWeight(pl.LightningModule):
    """Its weight is the number of steps taken; it records the weight in each validation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.validated: list[float] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return -self.weight.sum()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.validated.append(float(self.weight))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def trained(callback: EMA, epochs: int, more: Sequence[Callback] = (), **options: Any) -> OneWeight:
    """A module after epochs of two steps each."""
    module = OneWeight()
    loader = torch.utils.data.DataLoader(torch.zeros(2, 1))
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[callback, *more], accelerator="cpu", logger=False,
        enable_checkpointing=bool(more), enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, **options,
    )  # fmt: skip
    trainer.fit(module, loader, torch.utils.data.DataLoader(torch.zeros(1, 1)))
    return module


def test_validation_uses_the_average_which_equals_the_network_before_it_begins() -> None:
    module = trained(EMA(decay=0.75, update_starting_at_step=3), epochs=4)
    # weights after each step 1 to 8; the average begins with the fourth's
    average = 4.0
    expected = [2.0, average]
    for step in (5.0, 6.0):
        average = 0.75 * average + 0.25 * step
    expected.append(average)
    for step in (7.0, 8.0):
        average = 0.75 * average + 0.25 * step
    expected.append(average)
    torch.testing.assert_close(torch.tensor(module.validated), torch.tensor(expected))
    assert float(module.weight) == module.validated[-1]  # the average remains after the training


def test_every_weight_and_buffer_is_averaged() -> None:
    class Several(OneWeight):
        def __init__(self) -> None:
            super().__init__()
            self.others = nn.ParameterList([nn.Parameter(torch.zeros(2)) for _ in range(3)])
            self.register_buffer("count", torch.zeros(1))
            self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            self.count += 1
            self.steps += 1
            return -self.weight.sum() - sum(2 * other.sum() for other in self.others)

    module = Several()
    loader = torch.utils.data.DataLoader(torch.zeros(3, 1))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    callback = EMA(decay=0.5, update_starting_at_step=0)
    trainer = pl.Trainer(max_epochs=1, callbacks=[callback], accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(module, loader)
    average = 0.5 * (0.5 * 1 + 0.5 * 2) + 0.5 * 3  # of 1, 2 and 3
    assert float(module.weight) == average
    assert float(module.count) == average
    assert all(torch.equal(other, torch.full((2,), 2 * average)) for other in module.others)


def test_a_training_that_ends_before_the_average_begins_keeps_its_weights() -> None:
    assert float(trained(EMA(update_starting_at_step=100), epochs=3).weight) == 6.0


def test_a_checkpoint_before_the_average_begins_has_the_current_weights(tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path, save_on_train_epoch_end=True)
    trained(EMA(decay=0.75, update_starting_at_step=100), epochs=1, more=[save], limit_val_batches=0)
    state = torch.load(save.best_model_path, weights_only=True)["state_dict"]
    assert float(state["weight"]) == 2.0


def test_a_short_run_saves_its_trained_weights(composed, tmp_path: Path) -> None:
    for name, option in (("with", "ema"), ("without", "none")):
        train(composed(*TINY, f"callbacks={option}", f"paths.output_dir={tmp_path / name}"))
    averaged, reference = (load_checkpoint(tmp_path / name, "best")["state_dict"] for name in ("with", "without"))
    assert all(torch.equal(value, reference[key]) for key, value in averaged.items())
