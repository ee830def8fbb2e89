import sys

import optuna
import pytest

from hydra_plugins.fer_optuna_sweeper._report import retrain_command
from hydra_plugins.fer_optuna_sweeper._study import OVERRIDES


@pytest.mark.parametrize(
    ("override", "redacted"),
    [
        ("tracking.uri=http://me:se/cret@host", "'tracking.uri=http://me:***@host'"),
        ("tracking.uri=postgresql://host/db?user=me&password=secret", "password=***'"),
        ("tracking.uri=http://host?Token=secret&x=1", "Token=***&x=1'"),
    ],
)
def test_retrain_command_shows_no_password(monkeypatch: pytest.MonkeyPatch, override: str, redacted: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "-m"])
    trial = optuna.trial.create_trial(value=0.5, user_attrs={OVERRIDES: ["lr=1", override]})
    command = retrain_command(trial)
    assert command.endswith(redacted)
    assert "cret" not in command
    assert " lr=1 " in command
