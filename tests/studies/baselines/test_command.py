import pytest

from fer_lightning import __main__ as entry


def test_the_subcommand_lists_rows_and_refuses_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["baselines"]) == 0
    assert "custom_cnn" in capsys.readouterr().out
    assert entry.main(["baselines", "erase"]) == 2
    assert "erase" in capsys.readouterr().err
    assert entry.main(["baselines", "run", "vggnets"]) == 2
    assert "vggnets is not a row; did you mean 'vggnet'?" in capsys.readouterr().err
    assert entry.main(["baselines", "run", "vggnet", "--seeds", "a"]) == 2
    assert "give numbers" in capsys.readouterr().err
    assert entry.main(["baselines", "run", "vggnet", "--at_once", "0"]) == 2
    assert "--at_once is 0; give 1 or more" in capsys.readouterr().err
