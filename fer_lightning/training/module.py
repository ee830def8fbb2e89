"""FERModule: one network and one loss, with one forward path for train, val and test."""

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
from fer_lightning.models.network import FERNetwork, build_network
from fer_lightning.models.tta import average_views
from fer_lightning.models.weights import limit_parameter_bytes
from fer_lightning.training.callbacks import TrainingProgress
from fer_lightning.training.checkpoint_io import read_checkpoint
from fer_lightning.training.errors import NonFiniteLossError
from fer_lightning.training.metrics import Predictions, PredictionStore, epoch_scores
from fer_lightning.training.optim import build_optimizer

STEPS_BETWEEN_LOSS_CHECKS = 50
"""Steps between two checks of the losses on a GPU, as each check waits for it; on a CPU every loss is checked."""

DROPOUT_STREAM = 0x9E3779B9
"""Separates the random draws of dropout from those of the augmentation, which is seeded with the same batch seed."""

SKIPPED_IN_A_ROW = 10
"""After this many consecutive batches without a finite loss the training stops: the weights are broken."""


def seed_device(device: torch.device, seed: int) -> None:
    """`torch.manual_seed` for one device; torch's own looks up every device type, half a millisecond per step."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)


def logged_metric(metrics: Mapping[str, Tensor], name: str) -> float:
    """Return the logged metric of that name.

    Raises:
        ValueError: No metric of that name is logged; the message lists those that are.
    """
    if name not in metrics:
        raise ValueError(f"{name!r} is not logged; the metrics are {', '.join(sorted(metrics))}")
    return float(metrics[name])


class FERModule(pl.LightningModule):
    """Trains a network for facial expression recognition.

    All arguments are plain containers and are saved in the checkpoint, which therefore loads under `weights_only`; the
    module builds the objects from them.

    Args:
        model: conf/model, for `build_network`.
        loss: conf/loss; the loss also gets `class_counts`.
        optimizer: conf/optimizer.
        scheduler: conf/scheduler.
        evaluation: conf/eval; the test-time views.
        classes: Class names.
        class_counts: Images of each class in the train part.
        provenance: Origin of the network (data set, fingerprint, protocol, config, earlier trainings); only stored.
        on_nan: At a loss that is not finite, `stop` the training or `skip` the batch's update.

    Attributes:
        crop: Fraction of the side that a view shows (`size` of `models.tta`); below 1 for networks trained on crops.

    Raises:
        ValueError: The loss or the views are not from this package, or the network cannot be built.
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
        target_of(loss, under=("fer_lightning.training.",))  # a checkpoint may be untrusted
        self.loss = build(loss, class_counts=list(class_counts))
        self.set_evaluation(evaluation)
        self.history: list[dict[str, float]] = []
        self.test_predictions: Predictions | None = None
        self._store = PredictionStore()
        self._sums = torch.zeros(3)  # of the epoch so far: loss, correct, images
        self._val: dict[str, float] = {}  # the epoch's scores, if it was validated
        self._skips = on_nan == "skip"
        self._skipped = self._skipped_in_a_row = 0
        self._losses: list[Tensor] = []  # not checked yet

    def set_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        """Set the test-time views and their averaging (conf/eval).

        Raises:
            ValueError: The views are not from `models.tta`; a checkpoint may be untrusted.
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
        """Return the network, with the same weights, for use outside of this module: it crops as its views do."""
        network = copy.copy(self.network)
        network.crop = self.crop
        return network

    def _logits(self, batch: Batch, views: Any = None) -> Tensor:
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        logits: Tensor = average_views(self.network, views(image), self._average) if views else self(image)
        return logits

    def on_fit_start(self) -> None:
        """For a resumed run: logs the earlier epochs, and stops if early stopping had ended it."""
        for row in self.history:
            for logger in self.loggers:
                logger.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=int(row["epoch"]))
        if any(c is not None and c.stopped_epoch for c in self.trainer.early_stopping_callbacks):
            self.trainer.should_stop = True

    def on_train_epoch_start(self) -> None:
        """Reset the sums of the epoch."""
        self._sums, self._val = torch.zeros(3, device=self.device), {}
        self._skipped = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Compute the loss of a batch; return None if the batch is skipped."""
        # dropout of a resumed run is that of an uninterrupted one
        seed_device(self.device, batch["seed"] ^ DROPOUT_STREAM)
        buffers = [buffer.clone() for buffer in self.network.buffers()] if self._skips else []
        logits = self._logits(batch)
        loss: Tensor = self.loss(logits, batch.get("target", batch["label"]))
        if self._skips and not math.isfinite(loss.item()):
            for buffer, saved in zip(self.network.buffers(), buffers, strict=True):
                buffer.copy_(saved)  # BatchNorm has updated its statistics with the batch
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
            count = len(batch["label"])
            self._sums += torch.stack([loss.detach() * count, correct, torch.full_like(correct, count)])
        return loss

    @property
    def train_loss(self) -> float:
        """Mean loss of the current epoch's images so far, of this process; NaN before the first batch."""
        return float(self._sums[0] / self._sums[2])

    def _check_losses(self, batch_idx: int) -> None:
        """Raise for the first loss that is not finite among the unchecked ones, the last of them of `batch_idx`."""
        values = torch.stack(self._losses).tolist()
        self._losses.clear()
        for later, value in zip(reversed(range(len(values))), values, strict=True):
            if not math.isfinite(value):
                raise self._not_finite(value, batch_idx, "the training stops", later)

    def _not_finite(self, value: float, batch_idx: int, then: str, later: int = 0) -> NonFiniteLossError:
        """Return the error for the batch that is `later` batches before `batch_idx`; `then` states the consequence."""
        trainer = self.trainer
        return NonFiniteLossError(
            f"The loss is {value} at step {self.global_step + 1 - later:,} (epoch {self.current_epoch + 1}, batch "
            f"{batch_idx + 1 - later} of {trainer.num_training_batches}): {then}. {self._remedies}; "
            "trainer.on_nan=skip skips such batches"
        )

    @property
    def _remedies(self) -> str:
        rate = self.hparams["optimizer"]["lr"]
        return (
            f"A lower optimizer.lr (now {rate:g}), trainer.gradient_clip_val=1 or trainer.precision=32-true (now "
            f"{self.trainer.precision}) help most often"
        )

    def on_validation_epoch_start(self) -> None:
        """Broadcast BatchNorm's running statistics from the first process, which writes the checkpoint."""
        if self.trainer.world_size > 1:
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Store the predictions of a batch from the validation views."""
        logits = self._logits(batch, self._validation_views)
        self._store.update(batch["index"], logits, batch["label"])

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Store the predictions of a batch from the test-time views."""
        logits = self._logits(batch, self._views)
        self._store.update(batch["index"], logits, batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the val part for callbacks; loggers get them in `on_train_epoch_end`."""
        scores = epoch_scores(self._store.collect(), self.classes)
        self._val = {f"val/{name}": value for name, value in scores.items()}
        self.log_dict(self._val, logger=False)

    def on_train_epoch_end(self) -> None:
        """Log the metrics of the epoch to every logger, with the epoch (from 1) as step.

        Raises:
            NonFiniteLossError: No batch of the epoch had a finite loss, or its last update made weights non-finite,
                which no loss has shown yet; `last.ckpt` keeps those of the previous epoch.
        """
        if not torch.stack([weight.isfinite().all() for weight in self.network.parameters()]).all():
            raise NonFiniteLossError(
                f"The last update of epoch {self.current_epoch + 1} made weights NaN or infinite: the training stops. "
                f"{self._remedies}"
            )
        loss, correct, count = self.trainer.strategy.reduce(self._sums, reduce_op="sum").tolist()
        if not count:
            last = int(self.trainer.num_training_batches) - 1
            raise self._not_finite(math.nan, last, "all batches of the epoch were skipped")
        train = {"train/loss": loss / count, "train/accuracy": correct / count}
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
                schedule.scheduler.step(logged_metric(self.trainer.callback_metrics, str(schedule.monitor)))

    def on_train_start(self) -> None:
        """Set the schedules of a resumed run to its epoch, as its batch size or number of epochs may have changed."""
        steps = int(self.trainer.estimated_stepping_batches) // (self.trainer.max_epochs or 1)
        for schedule in self.trainer.lr_scheduler_configs:
            scheduler, done = schedule.scheduler, self.trainer.current_epoch * steps
            if isinstance(scheduler, LambdaLR) and done:
                scheduler.last_epoch = done - 1
                scheduler.step()

    def on_test_epoch_end(self) -> None:
        """Store the predictions in `test_predictions`."""
        self.test_predictions = self._store.collect()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build optimizer and scheduler; no weight decay on norms and biases."""
        epochs = self.trainer.max_epochs or 1
        steps = int(self.trainer.estimated_stepping_batches) // epochs
        optimizer = build_optimizer(self.hparams["optimizer"], self.network)
        scheduler = build(self.hparams["scheduler"], optimizer=optimizer, epochs=epochs, steps_per_epoch=max(1, steps))
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the history; its last row has this checkpoint's scores."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the history, but not the class weights, nor the best epoch if the data differ."""
        self.history = list(checkpoint["history"])
        for state in (checkpoint["state_dict"], checkpoint.get("current_model_state", {})):
            if "loss.weight" in state:  # depends on the class counts of the current data and sampler
                state["loss.weight"] = self.loss.weight
        saved = checkpoint["hyper_parameters"].get("provenance") or {}
        current = self.hparams["provenance"] or {}
        if "callbacks" in checkpoint and saved.get("data_fingerprint") != current.get("data_fingerprint"):
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, (ModelCheckpoint, EarlyStopping, TrainingProgress)):
                    checkpoint["callbacks"].pop(callback.state_key, None)
            for state in checkpoint.get("lr_schedulers", []):
                if "num_bad_epochs" in state:  # a plateau schedule
                    state |= {"best": state["mode_worse"], "num_bad_epochs": 0}


def load_module(path: Path) -> FERModule:
    """Load a trained module from its checkpoint, without downloads and without executing code in the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a checkpoint of this project.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint={path}: there is no such file")
    try:
        checkpoint = read_checkpoint(path)
        hyperparameters = checkpoint["hyper_parameters"]
        model = {k: v for k, v in hyperparameters["model"].items() if k not in ("pretrained", "weights")}
        with limit_parameter_bytes(2 * path.stat().st_size):  # the file has all parameters; some bodies drop a layer
            module = FERModule(**{**hyperparameters, "model": model})
        module.load_state_dict(checkpoint["state_dict"])
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # constructors may raise anything for manipulated settings
        raise ValueError(f"checkpoint={path} is not a checkpoint that this project wrote ({one_line(error)})") from None
    module.history = checkpoint["history"]
    return module
