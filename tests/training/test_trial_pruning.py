"""Reports to a trial during a training; tests/studies/test_study_report.py has whole sweeps."""

import math
from types import SimpleNamespace

import pytest
import torch
from optuna.exceptions import StorageInternalError

from fer_lightning.training.trial_pruning import Pruning


class Trial:
    number = 3

    def __init__(self, error: Exception | None = None, prune: bool = False) -> None:
        self.error, self.prune, self.reported = error, prune, {}

    def report(self, value: float, epoch: int) -> None:
        if self.error:
            raise self.error
        self.reported[epoch] = value

    def should_prune(self) -> bool:
        return self.prune


def stopped_after_validation(trial: Trial, value: float, epoch: int = 2) -> bool:
    """Whether a training of 4 epochs stops after an epoch with this objective."""
    metrics = {"val/loss": torch.tensor(value)}
    trainer = SimpleNamespace(callback_metrics=metrics, current_epoch=epoch - 1, max_epochs=4, should_stop=False)
    Pruning(trial, "val/loss").on_validation_end(trainer, None)
    return trainer.should_stop


def test_an_objective_is_reported_and_the_pruner_stops_all_epochs_but_the_last() -> None:
    trial = Trial()
    assert not stopped_after_validation(trial, 0.5)
    assert trial.reported == {2: 0.5}
    assert stopped_after_validation(Trial(prune=True), 0.5)
    assert not stopped_after_validation(Trial(prune=True), 0.5, epoch=4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_training_stops_if_its_objective_is_not_finite(value: float) -> None:
    trial = Trial()
    assert stopped_after_validation(trial, value)
    assert trial.reported == {}


def test_an_unreachable_database_does_not_end_a_training(caplog: pytest.LogCaptureFixture) -> None:
    assert not stopped_after_validation(Trial(StorageInternalError("no answer")), 0.5)
    assert "epoch 2 of trial 3 was not reported: no answer" in caplog.text
