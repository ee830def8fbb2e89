"""Pruning of a training that is a trial of a sweep."""

from __future__ import annotations

import logging
import math
import shutil
from typing import TYPE_CHECKING

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)


class Pruning(Callback):
    """Reports the objective of each epoch to a trial, and stops the training if the trial's pruner decides so.

    A pruned training ends with `optuna.TrialPruned` and its checkpoints are removed. A training whose objective is no
    longer finite is stopped too, since it will not improve; its value is that of its best epoch, if it has one.

    Args:
        trial: A trial of a study with one objective.
        objective: The metric, for example `val/accuracy`; its steps are epochs, counted from 1.
    """

    def __init__(self, trial: optuna.Trial, objective: str) -> None:
        self.trial = trial
        self.objective = objective
        self.pruned = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the objective; the epoch is still logged before the training stops."""
        value, epoch = float(trainer.callback_metrics[self.objective]), trainer.current_epoch + 1
        if not math.isfinite(value):
            trainer.should_stop = True
            return
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            self.trial.report(value, epoch)
            should_prune = self.trial.should_prune()
        except (StorageInternalError, SQLAlchemyError) as error:  # an unreachable database must not end the training
            log.warning("epoch %d of trial %d was not reported: %s", epoch, self.trial.number, error)
            return
        if should_prune and epoch < (trainer.max_epochs or math.inf):
            self.pruned = trainer.should_stop = True

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End a pruned trial.

        Raises:
            optuna.TrialPruned: The trial was pruned.
        """
        if self.pruned:
            import optuna

            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, ModelCheckpoint) and callback.dirpath:
                    shutil.rmtree(callback.dirpath, ignore_errors=True)
            raise optuna.TrialPruned(f"pruned after epoch {trainer.current_epoch}")
