import numpy as np
import pytest
from helpers.measurements import measurements_with
from scipy.stats import t

from fer_lightning.studies.compare.recipes import compare_recipes, verdict_on_recipes


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
