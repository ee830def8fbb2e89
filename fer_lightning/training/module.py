"""FERModule: one network and one loss; train, val and test look at pictures by one path."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from fer_lightning.config import build, target_of
from fer_lightning.data.datamodule import Batch
from fer_lightning.files import one_line
from fer_lightning.models.network import FERNetwork, build_network, limit_parameter_bytes
from fer_lightning.models.tta import average_views
from fer_lightning.training.callbacks import TrainingProgress
from fer_lightning.training.checkpoint_io import read_checkpoint
from fer_lightning.training.errors import NonFiniteLossError
from fer_lightning.training.metrics import Predictions, PredictionStore, epoch_scores
from fer_lightning.training.optim import build_optimizer

STEPS_BETWEEN_LOSS_CHECKS = 50
"""Steps on a GPU between two looks at the losses, each of which waits for it; on a CPU every loss is looked at."""

SKIPPED_IN_A_ROW = 10
"""So many batches without a finite loss mean that the weights themselves are lost."""


def seed_device(device: torch.device, seed: int) -> None:
    """`torch.manual_seed` for one device; that for all looks for each kind there is, half a millisecond a step."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)


def monitored(metrics: Mapping[str, Tensor], name: str) -> float:
    """The logged metric of that name.

    Raises:
        ValueError: Nothing of that name is logged; the message lists what is.
    """
    if name not in metrics:
        raise ValueError(f"{name!r} is not logged; there are {', '.join(sorted(metrics))}")
    return float(metrics[name])


class FERModule(pl.LightningModule):
    """Trains a network for facial expression recognition.

    All arguments are plain containers and land in the checkpoint, which therefore loads under `weights_only`; the
    objects are built inside.

    Args:
        model: conf/model, for `build_network`.
        loss: conf/loss; the loss also gets `class_counts`.
        optimizer: conf/optimizer.
        scheduler: conf/scheduler.
        evaluation: conf/eval; how test pictures are looked at.
        classes: Class names.
        class_counts: Pictures of each class in the train part.
        provenance: Whatever says where this net comes from (data set, fingerprint, protocol, config); stored only.
        on_nan: At a loss that is not finite, `stop` the training or `skip` the batch's update.

    Attributes:
        crop: Share of the side that a view shows (`size` of `models.tta`); below 1 for networks trained on crops.

    Raises:
        ValueError: The loss or the views are none of this package's, or the network cannot be built so.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        loss: Mapping[str, Any],
        optimizer: Mapping[str, Any],
        scheduler: Mapping[str, Any],
        evaluation: Mapping[str, Any],
        classes: Sequence[str],
        class_counts: Sequence[int],
        provenance: Mapping[str, Any] | None = None,
        on_nan: str = "stop",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.classes = list(classes)
        self.network = build_network(model, num_classes=len(classes))
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        target_of(loss, under=("fer_lightning.training.",))  # a checkpoint may come from a stranger
        self.loss = build(loss, class_counts=list(class_counts))
        self.set_evaluation(evaluation)
        self.history: list[dict[str, float]] = []
        self.test_predictions: Predictions | None = None
        self._store = PredictionStore()
        self._sums = torch.zeros(3)  # of the epoch so far: loss, correct, pictures
        self._val: dict[str, float] = {}  # the epoch's scores, where it was validated
        self._skips = on_nan == "skip"
        self._skipped = self._skipped_in_a_row = 0
        self._losses: list[Tensor] = []  # not looked at yet

    def set_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        """Chooses how test pictures are looked at (conf/eval).

        Raises:
            ValueError: The views are none of `models.tta`; a checkpoint may come from a stranger.
        """
        for views in filter(None, (evaluation["views"], evaluation["validation"])):
            target_of(views, under=("fer_lightning.models.tta.",))
        self._views = build(evaluation["views"])
        self._validation_views = build(evaluation["validation"]) if evaluation["validation"] else None
        self._average = evaluation["average"]
        self.crop = float((evaluation["validation"] or evaluation["views"]).get("size", 1.0))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of float images (B, 1 or 3, H, W) in [0, 1]."""
        logits: Tensor = self.network(images)
        return logits

    def network_for_whole_images(self) -> FERNetwork:
        """The network, with the same weights, for use outside of this module: it crops where its views do."""
        network = copy.copy(self.network)
        network.crop = self.crop
        return network

    def _logits(self, batch: Batch, views: Any = None) -> Tensor:
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        logits: Tensor = average_views(self.network, views(image), self._average) if views else self(image)
        return logits

    def on_fit_start(self) -> None:
        """Gives a resumed run's loggers what they lack, and lets one that had stopped early stay stopped."""
        for row in self.history:
            for logger in self.loggers:
                logger.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=int(row["epoch"]))
        if any(c is not None and c.stopped_epoch for c in self.trainer.early_stopping_callbacks):
            self.trainer.should_stop = True

    def on_train_epoch_start(self) -> None:
        """Starts the sums of the epoch."""
        self._sums, self._val = torch.zeros(3, device=self.device), {}
        self._skipped = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """One batch; returns the loss, or None where the batch is skipped."""
        seed_device(self.device, batch["seed"])  # of dropout, so that a resumed run draws the same
        buffers = [buffer.clone() for buffer in self.network.buffers()] if self._skips else []
        logits = self._logits(batch)
        loss: Tensor = self.loss(logits, batch.get("target", batch["label"]))
        if self._skips and not math.isfinite(loss.item()):
            for buffer, before in zip(self.network.buffers(), buffers, strict=True):
                buffer.copy_(before)  # BatchNorm has seen the batch
            self._skipped += 1
            self._skipped_in_a_row += 1
            if self._skipped_in_a_row == SKIPPED_IN_A_ROW:
                raise self._not_finite(loss.item(), batch_idx, f"{SKIPPED_IN_A_ROW} batches in a row were skipped")
            return None
        self._skipped_in_a_row = 0
        self._losses.append(loss.detach())
        last = batch_idx + 1 == self.trainer.num_training_batches
        if last or loss.device.type == "cpu" or len(self._losses) == STEPS_BETWEEN_LOSS_CHECKS:
            self._check_losses(batch_idx)
        with torch.no_grad():
            correct = (logits.argmax(dim=1) == batch["label"]).sum()
            pictures = len(batch["label"])
            self._sums += torch.stack([loss.detach() * pictures, correct, torch.full_like(correct, pictures)])
        return loss

    def _check_losses(self, batch_idx: int) -> None:
        values = torch.stack(self._losses).tolist()
        self._losses.clear()
        for later, value in zip(reversed(range(len(values))), values, strict=True):
            if not math.isfinite(value):
                raise self._not_finite(value, batch_idx, "the training stops", later)

    def _not_finite(self, value: float, batch_idx: int, then: str, later: int = 0) -> NonFiniteLossError:
        """The error for a batch after which came so many `later` ones."""
        trainer = self.trainer
        return NonFiniteLossError(
            f"The loss is {value} at step {self.global_step + 1 - later:,} (epoch {self.current_epoch + 1}, batch "
            f"{batch_idx + 1 - later} of {trainer.num_training_batches}): {then}. {self._what_helps}; "
            "trainer.on_nan=skip leaves such batches out"
        )

    @property
    def _what_helps(self) -> str:
        rate = self.hparams["optimizer"]["lr"]
        return (
            f"A lower optimizer.lr (now {rate:g}), trainer.gradient_clip_val=1 or trainer.precision=32-true (now "
            f"{self.trainer.precision}) help most often"
        )

    def on_validation_epoch_start(self) -> None:
        """Across processes, BatchNorm's running statistics are those of the first, as its checkpoint has them."""
        if self.trainer.world_size > 1:
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Stores the predictions of a batch, by the views chosen for validation."""
        logits = self._logits(batch, self._validation_views)
        self._store.update(batch["index"], logits, batch["label"])

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Stores the predictions of a batch, by the chosen views."""
        logits = self._logits(batch, self._views)
        self._store.update(batch["index"], logits, batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Logs the scores of the val part, for callbacks; the epoch's row goes out in `on_train_epoch_end`."""
        scores = epoch_scores(self._store.collect(), self.classes)
        self._val = {f"val/{name}": value for name, value in scores.items()}
        self.log_dict(self._val, logger=False)

    def on_train_epoch_end(self) -> None:
        """Sends one row for the epoch to every logger, its step the number of the epoch counted from 1.

        Raises:
            NonFiniteLossError: No batch of the epoch had a finite loss, or its last update has spoilt the weights,
                which no loss has shown; `last.ckpt` keeps those of the epoch before.
        """
        if not torch.stack([weight.isfinite().all() for weight in self.network.parameters()]).all():
            raise NonFiniteLossError(
                f"The last update of epoch {self.current_epoch + 1} left weights that are no numbers: the training "
                f"stops. {self._what_helps}"
            )
        loss, correct, pictures = self.trainer.strategy.reduce(self._sums, reduce_op="sum").tolist()
        if not pictures:
            last = int(self.trainer.num_training_batches) - 1
            raise self._not_finite(math.nan, last, "all batches of the epoch were skipped")
        train = {"train/loss": loss / pictures, "train/accuracy": correct / pictures}
        if self._skips:
            train["train/skipped_batches"] = float(self._skipped)
        self.log_dict(train, logger=False)
        row = {**train, **self._val, "lr": self.trainer.optimizers[0].param_groups[0]["lr"]}
        epoch = self.current_epoch + 1
        self.history.append({"epoch": epoch, **row})
        for logger in self.loggers:
            logger.log_metrics(row, step=epoch)
        for schedule in self.trainer.lr_scheduler_configs:
            monitors_val = str(schedule.monitor).startswith("val/")
            if isinstance(schedule.scheduler, ReduceLROnPlateau) and (self._val or not monitors_val):
                schedule.scheduler.step(monitored(self.trainer.callback_metrics, str(schedule.monitor)))

    def on_train_start(self) -> None:
        """Puts a schedule where its epochs are: it counts steps, and a run may go on with other batches."""
        steps = int(self.trainer.estimated_stepping_batches) // (self.trainer.max_epochs or 1)
        for schedule in self.trainer.lr_scheduler_configs:
            scheduler, done = schedule.scheduler, self.trainer.current_epoch * steps
            if isinstance(scheduler, LambdaLR) and scheduler.last_epoch != done:
                scheduler.last_epoch = done - 1
                scheduler.step()

    def on_test_epoch_end(self) -> None:
        """Leaves the predictions in `test_predictions`."""
        self.test_predictions = self._store.collect()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Builds optimizer and scheduler; no weight decay on norms and biases."""
        epochs = self.trainer.max_epochs or 1
        steps = int(self.trainer.estimated_stepping_batches) // epochs
        optimizer = build_optimizer(self.hparams["optimizer"], self.network)
        scheduler = build(self.hparams["scheduler"], optimizer=optimizer, epochs=epochs, steps_per_epoch=max(1, steps))
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the history; the last row holds this checkpoint's scores."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the history over, but not class weights, and not what the best epoch on other data was."""
        self.history = list(checkpoint["history"])
        for state in (checkpoint["state_dict"], checkpoint.get("current_model_state", {})):
            if "loss.weight" in state:  # which follow from how often each class is drawn now
                state["loss.weight"] = self.loss.weight
        before = checkpoint["hyper_parameters"].get("provenance") or {}
        here = self.hparams["provenance"] or {}
        if "callbacks" in checkpoint and before.get("data_fingerprint") != here.get("data_fingerprint"):
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, (ModelCheckpoint, EarlyStopping, TrainingProgress)):
                    checkpoint["callbacks"].pop(callback.state_key, None)
            for state in checkpoint.get("lr_schedulers", []):
                if "num_bad_epochs" in state:  # of a plateau
                    state |= {"best": state["mode_worse"], "num_bad_epochs": 0}


def load_module(path: Path) -> FERModule:
    """A trained module from its checkpoint; nothing is downloaded and no code in the file is run.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a checkpoint of this project.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint={path}: there is no such file")
    try:
        checkpoint = read_checkpoint(path)
        hyperparameters = checkpoint["hyper_parameters"]
        unfetched = {k: v for k, v in hyperparameters["model"].items() if k not in ("pretrained", "weights")}
        with limit_parameter_bytes(2 * path.stat().st_size):  # which all of them lie in; some bodies drop a layer
            module = FERModule(**{**hyperparameters, "model": unfetched})
        module.load_state_dict(checkpoint["state_dict"])
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # settings that somebody changed make constructors raise anything
        raise ValueError(f"checkpoint={path} is not a checkpoint that this project wrote ({one_line(error)})") from None
    module.history = checkpoint["history"]
    return module
