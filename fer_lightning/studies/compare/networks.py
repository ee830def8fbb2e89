"""Two networks on the same images: McNemar's test, and paired bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from fer_lightning.studies.measurement import Classes, Measurement, check_same_images
from fer_lightning.training.metrics import scores_from_confusion

EXACT_BELOW = 25
"""Number of disagreements below which McNemar's test uses the exact binomial distribution."""

RESAMPLES = 2000


@dataclass(frozen=True)
class McNemar:
    """McNemar's test (1947) of equal error rates of two networks on the same images.

    Attributes:
        only_a: Images that only the first network classifies correctly.
        only_b: Images that only the second network classifies correctly.
        test: `exact binomial`, or `chi-squared with continuity correction` from `EXACT_BELOW` disagreements on.
        p: Two-sided p-value in [0, 1].
    """

    only_a: int
    only_b: int
    test: str
    p: float


def mcnemar(only_a: int, only_b: int) -> McNemar:
    """Compute the test from the two counts of disagreement; without any disagreement p is 1."""
    n = only_a + only_b
    if n < EXACT_BELOW:
        tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
        return McNemar(only_a, only_b, "exact binomial", min(1.0, 2 * tail))
    chi2 = max(0, abs(only_a - only_b) - 1) ** 2 / n  # Edwards 1948; one degree of freedom
    return McNemar(only_a, only_b, "chi-squared with continuity correction", math.erfc(math.sqrt(chi2 / 2)))


def paired(labels: Classes, a: Classes, b: Classes, classes: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Compare two networks on the same N >= 1 images.

    Args:
        labels: (N,) true classes.
        a: (N,) predicted classes of the first network.
        b: (N,) predicted classes of the second network.
        classes: The C class names.
        seed: Seed of the bootstrap.

    Returns:
        `n`; `both_right`, `both_wrong`; `mcnemar`; `accuracy` and `macro_f1`, each with `a`, `b`, `difference` (a - b)
        and its 95% paired bootstrap percentile `interval`; `per_class_f1`, by class `[a, b]`.
    """
    count, n = len(classes), len(labels)
    # Images with the same label and predictions are interchangeable, so a resample is a multinomial draw over cells.
    cells = np.bincount((labels * count + a) * count + b, minlength=count**3)
    resamples = np.random.default_rng(seed).multinomial(n, cells / n, size=RESAMPLES)
    joint = torch.from_numpy(np.concatenate([cells[None], resamples])).view(-1, count, count, count)
    scores_a, scores_b = scores_from_confusion(joint.sum(dim=3)), scores_from_confusion(joint.sum(dim=2))
    right_a, right_b = a == labels, b == labels
    result: dict[str, Any] = {
        "n": n,
        "both_right": int((right_a & right_b).sum()),
        "both_wrong": int((~right_a & ~right_b).sum()),
        "mcnemar": asdict(mcnemar(int((right_a & ~right_b).sum()), int((~right_a & right_b).sum()))),
    }
    for name in ("accuracy", "macro_f1"):
        differences = (scores_a[name] - scores_b[name]).numpy()
        result[name] = {
            "a": scores_a[name][0].item(),
            "b": scores_b[name][0].item(),
            "difference": float(differences[0]),
            "interval": np.quantile(differences[1:], [0.025, 0.975]).tolist(),
        }
    both = zip(scores_a["f1"][0].tolist(), scores_b["f1"][0].tolist(), strict=True)
    return result | {"per_class_f1": {name: list(f1) for name, f1 in zip(classes, both, strict=True)}}


def compare(a: Measurement, b: Measurement) -> dict[str, Any]:
    """Return `paired` of two measurements, with the folder, data and protocol of each.

    Raises:
        ValueError: Their images or classes differ.
    """
    check_same_images(a, b)
    sources = {
        name: {"folder": str(m.folder), "data": m.record["data"], "protocol": m.record["protocol"]}
        for name, m in (("a", a), ("b", b))
    }
    return sources | paired(a.positions("label"), a.positions("predicted"), b.positions("predicted"), a.classes)


def verdict(result: Mapping[str, Any]) -> str:
    """Conclude a comparison of two networks in one sentence."""
    test, accuracy = result["mcnemar"], result["accuracy"]
    if test["p"] >= 0.05:
        return "The difference in accuracy is not significant."
    better = "A" if accuracy["difference"] > 0 else "B"
    return (
        f"{better} is significantly more accurate. This holds for these two networks; "
        "to compare recipes, use compare 'A_seed*' 'B_seed*'."
    )
