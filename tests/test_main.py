"""`python -m fer_lightning VERB` in installations that lack something."""

import sys

import pytest

from fer_lightning import __main__ as entry


def test_a_package_that_a_verb_needs_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "fer_lightning.studies.evaluate", raising=False)
    monkeypatch.setitem(sys.modules, "rich.console", None)  # as where only predicting was installed
    assert entry.main(["evaluate", "checkpoint=run"]) == 2
    assert capsys.readouterr().err == "fer evaluate needs rich, which is not installed: pip install -e . in a clone\n"


def test_a_misspelt_verb_gives_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["evalute", "checkpoint=run"]) == 2
    assert capsys.readouterr().err == "fer: there is no subcommand 'evalute'; did you mean 'evaluate'?\n"
    assert entry.main(["train"]) == 2
    assert "the subcommands are app, audit, baselines" in capsys.readouterr().err
