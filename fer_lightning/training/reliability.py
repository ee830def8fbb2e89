"""Reliability diagram: accuracy by confidence, and the expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 15
"""Number of bins of equal width for the reliability diagram and ECE, as in Guo et al. 2017."""


@dataclass(frozen=True)
class Reliability:
    """Images binned by confidence (DeGroot & Fienberg 1983).

    Attributes:
        count: int64 (bins,), images whose confidence is in each bin of equal width over [0, 1].
        confidence: float64 (bins,), their mean confidence; NaN in an empty bin.
        accuracy: float64 (bins,), the fraction of them predicted correctly; NaN in an empty bin.
    """

    count: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def ece(self) -> float:
        """Expected calibration error, in [0, 1] (Guo et al. 2017, eq. 3)."""
        fraction = self.count / self.count.sum()
        return float((fraction * (self.accuracy - self.confidence).abs()).nansum())


def reliability(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> Reliability:
    """Bin predictions by confidence, the probability of the predicted class.

    Args:
        probabilities: float (N, C), N >= 1.
        labels: int64 (N,).
        bins: Number of bins; a bin includes its upper edge.
    """
    confidence, predicted = probabilities.double().max(dim=1)
    correct = (predicted == labels).double()
    bin_index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count = torch.bincount(bin_index, minlength=bins)

    def mean(values: Tensor) -> Tensor:
        return torch.bincount(bin_index, weights=values, minlength=bins) / count

    return Reliability(count, mean(confidence), mean(correct))
