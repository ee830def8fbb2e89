"""The command line of a subcommand: its own arguments, overrides, errors."""

from __future__ import annotations

import pytest

from fer_lightning.cli.command_line import split_arguments
from fer_lightning.cli.verb import run_verb

OWN = ("checkpoint", "int8")


def test_own_arguments_are_separated_from_overrides() -> None:
    arguments = ["data.path=a=b.csv", "checkpoint=run", "eval=tta", "+trainer.x=1", "~search", "int8=true", "seed=1"]
    given, overrides = split_arguments(arguments, OWN)
    assert given == {"checkpoint": "run", "int8": "true"}
    assert overrides == ["data.path=a=b.csv", "eval=tta", "+trainer.x=1", "~search", "seed=1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("checkpoint=run in8=true", "there is no key 'in8'; did you mean 'int8'?"),
        ("chekpoint=run", "there is no key 'chekpoint'; did you mean 'checkpoint'?"),
        ("checkpoint=run evla=tta", "there is no key 'evla'; did you mean 'eval'?"),
        ("checkpoint=run checkpoint=other", "give checkpoint=... once, and with a value"),
        ("checkpoint=", "give checkpoint=... once, and with a value"),
        ("checkpoint=run --config-dir=my", "--config-dir=my is a flag; this command takes only key=value arguments"),
        ("eval=tta", "give one checkpoint=RUN, the folder of a run"),
    ],
)
def test_errors_are_one_sentence(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the action must not run")

    assert run_verb("export", "usage", never, arguments.split(), OWN) == 2
    assert capsys.readouterr().err == f"fer export: {message}\n"


def test_the_status_is_that_of_the_action() -> None:
    assert run_verb("export", "usage", lambda given, overrides: 1, ["checkpoint=run"]) == 1
    assert run_verb("export", "usage", lambda given, overrides: None, ["checkpoint=run"]) == 0


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("export", "usage", lambda given, overrides: 1, ["--help"]) == 0
    assert run_verb("export", "usage", lambda given, overrides: 1, []) == 2  # a checkpoint is missing
    assert run_verb("audit", "usage", lambda given, overrides: 0, [], own=()) == 0  # all of its arguments are optional
    assert capsys.readouterr().out == "usage\nusage\n"
