import numpy as np
import pytest
from helpers.measurements import CLASSES
from scipy.stats import binomtest, chi2

from fer_lightning.studies.compare.networks import mcnemar, paired, verdict


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
