import pytest

from fer_lightning import __main__ as entry


@pytest.mark.parametrize("arguments", [["erase"], ["write", "seed=1"], ["run", "protocol=official"], ["run", "fast"]])
def test_wrong_arguments_are_reported(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["leaks", *arguments]) == 2
    assert " ".join(arguments) in capsys.readouterr().err
