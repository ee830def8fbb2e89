import json
from pathlib import Path

import pandas as pd
import pytest

from fer_lightning import __main__ as entry


def test_a_run_compared_with_another_and_with_itself(
    tiny_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = tiny_runs[:2]
    assert entry.main(["compare", str(a), str(b / "checkpoints" / "best.ckpt"), f"json={tmp_path / 'c.json'}"]) == 0
    shown = capsys.readouterr().out
    assert "McNemar" in shown
    assert "F1 happy" in shown
    result = json.loads((tmp_path / "c.json").read_text())
    record = [json.loads((run / "record.json").read_text()) for run in (a, b)]
    for name, expected in zip("ab", record, strict=True):
        assert result["accuracy"][name] == pytest.approx(expected["test"]["accuracy"])
        assert result["macro_f1"][name] == pytest.approx(expected["test"]["macro_f1"])
    table = [pd.read_parquet(run / "predictions.parquet") for run in (a, b)]
    assert result["mcnemar"]["only_a"] == (table[0]["correct"] & ~table[1]["correct"]).sum()
    assert entry.main(["compare", str(a), str(a)]) == 0
    assert "p = 1" in capsys.readouterr().out


def test_only_measurements_of_the_same_images_can_be_compared(
    tiny_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    pd.read_parquet(tiny_runs[0] / "predictions.parquet").iloc[1:].to_parquet(other / "predictions.parquet")
    (other / "record.json").write_text((tiny_runs[0] / "record.json").read_text())
    assert entry.main(["compare", str(tiny_runs[0]), str(other)]) == 2
    assert "not measured on the same images" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["a"], ["a", "b", "c"], ["nowhere", "either"]])
def test_wrong_arguments_give_a_message_of_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["compare", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_patterns_match_the_seeds_of_a_recipe(
    tiny_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, run in {"a_seed0": 0, "a_seed1": 1, "b_seed0": 2, "b_seed1": 0}.items():
        (tmp_path / name).symlink_to(tiny_runs[run])
    (tmp_path / "a_seed2").mkdir()  # not finished
    patterns = [f"{tmp_path}/a_seed*", f"{tmp_path}/b_seed*"]
    assert entry.main(["compare", *patterns, f"json={tmp_path / 'c.json'}"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "over seeds" in shown
    result = json.loads((tmp_path / "c.json").read_text())
    accuracies = [json.loads((run / "record.json").read_text())["test"]["accuracy"] for run in tiny_runs]
    assert result["a"]["accuracies"] == pytest.approx(accuracies[:2])
    assert result["b"]["accuracies"] == pytest.approx([accuracies[2], accuracies[0]])
    assert entry.main(["compare", patterns[0], str(tmp_path / "b_seed0")]) == 2
    assert "b_seed0 is the only seed of its recipe" in capsys.readouterr().err
    assert entry.main(["compare", f"{tmp_path}/c_seed*", patterns[0]]) == 2
    assert "no finished run matches" in capsys.readouterr().err
