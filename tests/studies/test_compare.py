import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, chi2

from fer_lightning import __main__ as entry
from fer_lightning.studies.compare import mcnemar, paired


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (3, 9), (9, 3), (5, 5), (0, 24), (12, 12)])
def test_few_disagreements_get_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    test = mcnemar(only_a, only_b)
    assert test.test == "exact binomial"
    assert test.p == pytest.approx(binomtest(only_a, only_a + only_b, 0.5).pvalue)


@pytest.mark.parametrize(("only_a", "only_b"), [(59, 6), (6, 59), (20, 5), (13, 13), (300, 290)])
def test_many_disagreements_get_the_corrected_chi_squared_test(only_a: int, only_b: int) -> None:
    statistic = max(0, abs(only_a - only_b) - 1) ** 2 / (only_a + only_b)
    assert mcnemar(only_a, only_b).p == pytest.approx(chi2.sf(statistic, df=1))


def test_mcnemar_of_a_textbook() -> None:
    # Agresti, Categorical Data Analysis, approval of the prime minister: 150 and 86 changed their mind
    test = mcnemar(150, 86)
    assert test.test == "chi-squared with continuity correction"
    assert test.p == pytest.approx(4.115e-05, rel=1e-3)  # R: mcnemar.test(matrix(c(794, 86, 150, 570), 2))


def test_nets_that_never_disagree_cannot_be_told_apart() -> None:
    assert mcnemar(0, 0).p == 1.0


def test_paired_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    a, b = np.array([0, 0, 1, 0, 1]), np.array([0, 1, 1, 0, 0])
    result = paired(labels, a, b, ["no", "yes"])
    assert (result["both_right"], result["both_wrong"]) == (2, 1)
    assert (result["mcnemar"]["only_a"], result["mcnemar"]["only_b"]) == (2, 0)
    assert result["accuracy"]["difference"] == pytest.approx(4 / 5 - 2 / 5)
    assert result["per_class_f1"]["yes"] == pytest.approx([2 * 2 / (2 * 2 + 0 + 1), 2 * 1 / (2 * 1 + 1 + 2)])


def test_the_paired_interval_is_that_of_resampled_pictures() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    a = np.where(rng.random(400) < 0.7, labels, rng.integers(0, 3, 400))
    b = np.where(rng.random(400) < 0.7, a, rng.integers(0, 3, 400))
    result = paired(labels, a, b, ["x", "y", "z"])["accuracy"]
    difference = (a == labels).astype(float) - (b == labels)
    resampled = [difference[rng.integers(0, 400, 400)].mean() for _ in range(4000)]
    assert result["interval"] == pytest.approx(np.quantile(resampled, [0.025, 0.975]).tolist(), abs=0.008)
    assert result["difference"] == pytest.approx(difference.mean())


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
    for name, one in zip("ab", record, strict=True):
        assert result["accuracy"][name] == pytest.approx(one["test"]["accuracy"])
        assert result["macro_f1"][name] == pytest.approx(one["test"]["macro_f1"])
    table = [pd.read_parquet(run / "predictions.parquet") for run in (a, b)]
    assert result["mcnemar"]["only_a"] == (table[0]["correct"] & ~table[1]["correct"]).sum()
    assert entry.main(["compare", str(a), str(a)]) == 0
    assert "p = 1" in capsys.readouterr().out


def test_only_measurements_of_the_same_pictures_compare(
    tiny_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    pd.read_parquet(tiny_runs[0] / "predictions.parquet").iloc[1:].to_parquet(other / "predictions.parquet")
    (other / "record.json").write_text((tiny_runs[0] / "record.json").read_text())
    assert entry.main(["compare", str(tiny_runs[0]), str(other)]) == 2
    assert "not measured on the same pictures" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["a"], ["a", "b", "c"], ["nowhere", "either"]])
def test_wrong_use_ends_with_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["compare", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
