"""Trials whose process died, and results while the database is not available."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from hydra_plugins.fer_optuna_sweeper import _study
from hydra_plugins.fer_optuna_sweeper._study import (
    LOST,
    MAX_ATTEMPTS,
    OVERRIDES,
    fail_and_requeue,
    fail_stale_trials,
    tell,
)


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study()


def address_of(study: optuna.Study, stale: list[int] | None = None) -> Any:
    """Return a fake address of an in-memory storage, with the given stale trials instead of heartbeats."""
    storage = SimpleNamespace(
        set_trial_user_attr=study._storage.set_trial_user_attr, _get_stale_trial_ids=lambda study_id: stale or []
    )
    return SimpleNamespace(storage=storage, lock=nullcontext, grace_period=5)


def test_a_lost_trial_is_retried_up_to_the_maximum_of_attempts(study: optuna.Study) -> None:
    address = address_of(study)
    study.enqueue_trial({"x": 0.5})
    lost = []
    for number in range(MAX_ATTEMPTS):
        trial = study.ask({"x": FloatDistribution(0, 1)})
        trial.set_user_attr(OVERRIDES, ["x=0.5"])
        failed = fail_and_requeue(study, address, trial.number, "its process died")
        assert failed is not None
        lost.append(failed.user_attrs[LOST])
        waiting = [t for t in study.trials if t.state == TrialState.WAITING]
        assert len(waiting) == (number + 1 < MAX_ATTEMPTS)
    assert lost == [True] * (MAX_ATTEMPTS - 1) + [False]
    assert {trial.params["x"] for trial in study.trials} == {0.5}


def test_a_trial_without_overrides_is_failed_at_once(study: optuna.Study) -> None:
    running, claiming, stale = study.ask(), study.ask(), study.ask()
    for trial in (running, stale):
        trial.set_user_attr(OVERRIDES, ["x=1"])
    failed = fail_stale_trials(study, address_of(study, stale=[stale._trial_id]))
    assert [trial.number for trial in failed] == [claiming.number, stale.number]
    assert study.trials[running.number].state == TrialState.RUNNING


def test_writing_a_result_is_retried_during_a_database_outage(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(_study.time, "sleep", pauses.append)
    trial, write = study.ask(), study.tell
    errors = [optuna.exceptions.StorageInternalError("unavailable")] * 2

    def fail_twice(*arguments: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return write(*arguments, **options)

    monkeypatch.setattr(study, "tell", fail_twice)
    tell(study, address_of(study), trial.number, TrialState.COMPLETE, [0.75], "")
    assert pauses == [1, 10]
    assert study.trials[trial.number].value == 0.75
