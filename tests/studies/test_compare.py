import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, chi2, t

from fer_lightning import __main__ as entry
from fer_lightning.studies.compare import (
    Measurement,
    compare,
    compare_recipes,
    mcnemar,
    paired,
    verdict,
    verdict_on_recipes,
)


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


def test_p_is_1_without_disagreements() -> None:
    assert mcnemar(0, 0).p == 1.0


def test_paired_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    a, b = np.array([0, 0, 1, 0, 1]), np.array([0, 1, 1, 0, 0])
    result = paired(labels, a, b, ["no", "yes"])
    assert (result["both_right"], result["both_wrong"]) == (2, 1)
    assert (result["mcnemar"]["only_a"], result["mcnemar"]["only_b"]) == (2, 0)
    assert result["accuracy"]["difference"] == pytest.approx(4 / 5 - 2 / 5)
    assert result["per_class_f1"]["yes"] == pytest.approx([2 * 2 / (2 * 2 + 0 + 1), 2 * 1 / (2 * 1 + 1 + 2)])


def test_the_paired_interval_matches_a_bootstrap_over_images() -> None:
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


CLASSES = ["no", "yes"]


def measurements_with(labels: np.ndarray, correct: list[np.ndarray], name: str = "A") -> list[Measurement]:
    """Create one measurement of two classes per mask of correctly classified images."""
    measurements = []
    for seed, mask in enumerate(correct):
        predicted = np.where(mask, labels, 1 - labels)
        columns = {"index": np.arange(len(labels))}
        columns |= {
            key: [CLASSES[code] for code in codes] for key, codes in (("label", labels), ("predicted", predicted))
        }
        table = pd.DataFrame(columns | {f"p_{one}": 0.5 for one in CLASSES})
        record = {"data": "faces", "data_fingerprint": "f", "protocol": "official"}
        measurements.append(Measurement(Path(f"{name}_seed{seed}"), record, table))
    return measurements


def test_recipes_with_hand_computed_values() -> None:
    labels = np.array([0, 1] * 50)
    # 70 and 80 of 100 correct against 60 and 60: means of 75% and 60%, variances of 0.005 and 0
    a = [np.arange(100) < count for count in (70, 80)]
    b = [np.arange(100) < 60] * 2
    result = compare_recipes(measurements_with(labels, a), measurements_with(labels, b, "B"))
    assert result["a"]["accuracies"] == pytest.approx([0.7, 0.8])
    assert result["a"]["deviation"] == pytest.approx(0.005**0.5)
    assert result["difference"] == pytest.approx(0.15)
    error = (0.005 / 2 + 0 / 2) ** 0.5  # Welch: one degree of freedom, since B's seeds do not differ
    margin = t.ppf(0.975, 1) * error
    assert result["over_seeds"] == pytest.approx([0.15 - margin, 0.15 + margin])
    assert result["p"] == pytest.approx(2 * t.sf(0.15 / error, 1))
    # over images: 10 of 100 differ by 1, 10 by a half, the rest not at all
    spread = ((10 * 0.85**2 + 10 * 0.35**2 + 80 * 0.15**2) / 100 / 100) ** 0.5
    assert result["over_images"] == pytest.approx([0.15 - 1.96 * spread, 0.15 + 1.96 * spread], abs=0.01)
    assert (
        verdict_on_recipes(result)
        == "The better recipe cannot be determined: other seeds could reverse the difference."
    )


def test_a_better_recipe_is_better_over_seeds_and_images() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 3000)
    difficulty = rng.random(3000)  # shared by all seeds
    a, b = ([difficulty < p + 0.02 * rng.standard_normal(3000) for _ in range(4)] for p in (0.75, 0.70))
    better = compare_recipes(measurements_with(labels, a), measurements_with(labels, b, "B"))
    assert better["over_seeds"][0] > 0 < better["over_images"][0]
    assert verdict_on_recipes(better).startswith("A is the better recipe")
    worse = compare_recipes(measurements_with(labels, b), measurements_with(labels, a))
    assert worse["difference"] == pytest.approx(-better["difference"])
    assert verdict_on_recipes(worse).startswith("B is the better recipe")
    same = compare_recipes(measurements_with(labels, a), measurements_with(labels, a[::-1]))
    assert same["difference"] == pytest.approx(0)
    assert "seeds or images" in verdict_on_recipes(same)


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


@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    [
        (60, 20, "A is significantly more accurate"),
        (20, 60, "B is significantly more accurate"),
        (30, 25, "The difference in accuracy is not significant"),
    ],
)
def test_the_verdict_names_the_better_network_if_the_difference_is_significant(
    only_a: int, only_b: int, expected: str
) -> None:
    labels = np.array([0, 1] * 200)
    a, b = labels.copy(), labels.copy()
    b[:only_a] = 1 - labels[:only_a]
    a[only_a : only_a + only_b] = 1 - labels[only_a : only_a + only_b]
    result = paired(labels, a, b, CLASSES)
    assert (result["mcnemar"]["only_a"], result["mcnemar"]["only_b"]) == (only_a, only_b)
    assert verdict(result).startswith(expected)
    low, high = result["macro_f1"]["interval"]
    assert low < result["macro_f1"]["difference"] < high


def test_measurements_on_other_data_cannot_be_paired() -> None:
    labels = np.array([0, 1] * 10)
    [a], [b] = measurements_with(labels, [labels == labels]), measurements_with(labels, [labels == labels], "B")
    assert compare(a, b)["mcnemar"]["p"] == 1
    other = dataclasses.replace(b, record={**b.record, "data_fingerprint": "g"})
    with pytest.raises(ValueError, match="were not measured on the same images"):
        compare(a, other)
