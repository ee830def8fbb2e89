"""What becomes of a trial whose process died, or whose database is away."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from hydra_plugins.fer_optuna_sweeper import _study
from hydra_plugins.fer_optuna_sweeper._study import LOST, MAX_ATTEMPTS, OVERRIDES, give_up, give_up_silent, tell


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study()


def address_of(study: optuna.Study, stale: list[int] | None = None) -> Any:
    """A storage in memory, without heartbeats but with these stale trials."""
    storage = SimpleNamespace(
        set_trial_user_attr=study._storage.set_trial_user_attr, _get_stale_trial_ids=lambda study_id: stale or []
    )
    return SimpleNamespace(storage=storage, lock=nullcontext, grace_period=5)


def test_a_trial_that_always_dies_is_tried_no_more_than_so_often(study: optuna.Study) -> None:
    address = address_of(study)
    study.enqueue_trial({"x": 0.5})
    lost = []
    for number in range(MAX_ATTEMPTS):
        trial = study.ask({"x": FloatDistribution(0, 1)})
        trial.set_user_attr(OVERRIDES, ["x=0.5"])
        ended = give_up(study, address, trial.number, "it died")
        assert ended is not None
        lost.append(ended.user_attrs[LOST])
        waiting = [t for t in study.trials if t.state == TrialState.WAITING]
        assert len(waiting) == (number + 1 < MAX_ATTEMPTS)
    assert lost == [True] * (MAX_ATTEMPTS - 1) + [False]
    assert {trial.params["x"] for trial in study.trials} == {0.5}


def test_a_trial_that_was_being_claimed_is_given_up_at_once(study: optuna.Study) -> None:
    running, claimed, silent = study.ask(), study.ask(), study.ask()
    for trial in (running, silent):
        trial.set_user_attr(OVERRIDES, ["x=1"])
    ended = give_up_silent(study, address_of(study, stale=[silent._trial_id]))
    assert [trial.number for trial in ended] == [claimed.number, silent.number]
    assert study.trials[running.number].state == TrialState.RUNNING


def test_a_result_waits_for_a_database_that_is_away(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(_study.time, "sleep", pauses.append)
    trial, write = study.ask(), study.tell
    away = [optuna.exceptions.StorageInternalError("away")] * 2

    def sometimes(*arguments: Any, **options: Any) -> Any:
        if away:
            raise away.pop()
        return write(*arguments, **options)

    monkeypatch.setattr(study, "tell", sometimes)
    tell(study, address_of(study), trial.number, TrialState.COMPLETE, [0.75], "")
    assert pauses == [1, 10]
    assert study.trials[trial.number].value == 0.75
