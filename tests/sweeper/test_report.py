import sys

import optuna
import pytest

from hydra_plugins.fer_optuna_sweeper._report import retrain_command
from hydra_plugins.fer_optuna_sweeper._study import OVERRIDES


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("tracking.uri=http://me:se/cret@host", "tracking.uri=http://me:***@host"),
        ("tracking.uri=postgresql://host/db?user=me&password=secret", "password=***'"),
        ("tracking.uri=http://host?Token=secret&x=1", "Token=***&x=1'"),
    ],
)
def test_the_command_that_trains_a_trial_again_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, typed: str, shown: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "-m"])
    trial = optuna.trial.create_trial(value=0.5, user_attrs={OVERRIDES: ["lr=1", typed]})
    command = retrain_command(trial)
    assert command.endswith(shown)
    assert "cret" not in command
    assert " lr=1 " in command
