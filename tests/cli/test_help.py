"""Help texts, wrapped to the width of the terminal."""

from contextlib import suppress

import pytest

from fer_lightning.__main__ import VERBS, main
from fer_lightning.cli.help import help_text, wrap_text
from fer_lightning.config import CONF

TEXT = """usage: python -m fer_lightning verb checkpoint=RUN [key=value ...]

One sentence of
prose.

  key=value      what it does, in words
  key.of.another.length=and_value   what it does
"""


def test_prose_and_columns_break_between_words() -> None:
    assert wrap_text(TEXT, 34).splitlines() == [
        "usage: python -m fer_lightning",
        "    verb checkpoint=RUN [key=value",
        "    ...]",
        "",
        "One sentence of prose.",
        "",
        "  key=value      what it does, in",
        "                 words",
        "  key.of.another.length=and_value",
        "      what it does",
    ]


def test_text_that_fits_is_unchanged() -> None:
    assert wrap_text(TEXT.replace("of\nprose", "of prose"), 80) == TEXT.replace("of\nprose", "of prose")


def test_the_default_of_each_group_is_marked() -> None:
    listed = help_text(CONF)
    assert "optimizer: adam, adamw*, muon, radam, sgd\n" in listed
    assert "debug: fast, overfit\n" in listed
    assert listed.count("*") == 14  # 13 groups with a default, and the legend


@pytest.mark.parametrize("width", [60, 80, 120])
def test_all_help_texts_fit(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    texts = [wrap_text(help_text(CONF))]
    for verb in VERBS:
        with suppress(SystemExit):  # of argparse
            assert main([verb, "--help"]) == 0
        texts.append(text := capsys.readouterr().out)
        assert text.startswith("usage:")
    too_long = [line for text in texts for line in text.splitlines() if len(line) > width and " " in line.strip()]
    assert too_long == []
