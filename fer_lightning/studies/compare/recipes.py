"""Two recipes on the same images, each with several seeds: intervals over seeds and over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_lightning.studies.compare.networks import RESAMPLES
from fer_lightning.studies.measurement import Measurement, check_same_images


def compare_recipes(a: Sequence[Measurement], b: Sequence[Measurement]) -> dict[str, Any]:
    """Compare the accuracies of two recipes over several seeds, on the same images.

    Seeds and images are two sources of variance (Bouthillier et al. 2021, arXiv 2103.03098): other seeds would give
    other networks, and other images another accuracy of the same networks. Each has its own interval.

    Args:
        a: Measurements of the first recipe, two or more.
        b: Measurements of the second recipe, two or more.

    Returns:
        `a` and `b`, each with `folders`, `accuracies`, `mean` and `deviation` (sample standard deviation);
        `difference` of the means (a - b); its 95% intervals `over_seeds`, Welch's, and `over_images`, paired
        bootstrap; `p`, Welch's two-sided.

    Raises:
        ValueError: A recipe has fewer than two seeds, or the images or classes differ.
    """
    from scipy.stats import ttest_ind  # takes a second to import

    for recipe in (a, b):
        if len(recipe) < 2:
            raise ValueError(f"{recipe[0].folder} is the only seed of its recipe; a comparison needs two or more seeds")
    for other in (*a[1:], *b):
        check_same_images(a[0], other)
    labels = a[0].positions("label")
    right_a, right_b = (np.stack([m.positions("predicted") == labels for m in recipe]) for recipe in (a, b))
    accuracies_a, accuracies_b = right_a.mean(axis=1), right_b.mean(axis=1)
    differences, counts = np.unique(right_a.mean(axis=0) - right_b.mean(axis=0), return_counts=True)
    resamples = np.random.default_rng(0).multinomial(len(labels), counts / len(labels), size=RESAMPLES)
    test = ttest_ind(accuracies_a, accuracies_b, equal_var=False)
    interval = test.confidence_interval(0.95)

    def summary(seeds: Sequence[Measurement], accuracies: NDArray[np.float64]) -> dict[str, Any]:
        return {
            "folders": [str(m.folder) for m in seeds],
            "accuracies": accuracies.tolist(),
            "mean": float(accuracies.mean()),
            "deviation": float(accuracies.std(ddof=1)),
        }

    return {
        "a": summary(a, accuracies_a),
        "b": summary(b, accuracies_b),
        "n": len(labels),
        "difference": float(accuracies_a.mean() - accuracies_b.mean()),
        "over_seeds": [float(interval.low), float(interval.high)],
        "over_images": np.quantile(resamples @ differences / len(labels), [0.025, 0.975]).tolist(),
        "p": float(test.pvalue),
    }


def verdict_on_recipes(result: Mapping[str, Any]) -> str:
    """Conclude a comparison of recipes in one sentence."""
    intervals = {"seeds": result["over_seeds"], "images": result["over_images"]}
    uncertain = [name for name, (low, high) in intervals.items() if not (low > 0 or high < 0)]
    if uncertain:
        return f"The better recipe cannot be determined: other {' or '.join(uncertain)} could reverse the difference."
    return f"{'A' if result['difference'] > 0 else 'B'} is the better recipe, over other seeds and other images."
