"""A verb's command line: its own words, overrides, mistakes."""

from __future__ import annotations

import pytest

from fer_lightning.cli.command_line import split_words
from fer_lightning.cli.verb import run_verb

OWN = ("checkpoint", "int8")


def test_own_words_are_told_from_overrides() -> None:
    words = ["data.path=a=b.csv", "checkpoint=run", "eval=tta", "+trainer.x=1", "~search", "int8=true", "seed=1"]
    given, overrides = split_words(words, OWN)
    assert given == {"checkpoint": "run", "int8": "true"}
    assert overrides == ["data.path=a=b.csv", "eval=tta", "+trainer.x=1", "~search", "seed=1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("checkpoint=run in8=true", "there is no key 'in8'; did you mean 'int8'?"),
        ("chekpoint=run", "there is no key 'chekpoint'; did you mean 'checkpoint'?"),
        ("checkpoint=run evla=tta", "there is no key 'evla'; did you mean 'eval'?"),
        ("checkpoint=run checkpoint=other", "give checkpoint=... once, and with a value"),
        ("checkpoint=", "give checkpoint=... once, and with a value"),
        ("checkpoint=run --config-dir=my", "--config-dir=my is a flag, and a verb takes key=value alone"),
        ("eval=tta", "give one checkpoint=RUN, the folder of a run"),
    ],
)
def test_mistakes_are_one_sentence(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the verb must not run")

    assert run_verb("export", "usage", never, words.split(), OWN) == 2
    assert capsys.readouterr().err == f"fer export: {said}\n"


def test_the_status_is_the_verbs() -> None:
    assert run_verb("export", "usage", lambda given, overrides: 1, ["checkpoint=run"]) == 1
    assert run_verb("export", "usage", lambda given, overrides: None, ["checkpoint=run"]) == 0


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("export", "usage", lambda given, overrides: 1, ["--help"]) == 0
    assert run_verb("export", "usage", lambda given, overrides: 1, []) == 2  # a checkpoint is missing
    assert run_verb("audit", "usage", lambda given, overrides: 0, [], own=()) == 0  # all of its words can be left out
    assert capsys.readouterr().out == "usage\nusage\n"
