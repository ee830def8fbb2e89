"""Reliability: how often predictions are right, by how sure they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 15
"""Bins of equal width of the reliability diagram and of ECE, as in Guo et al. 2017."""


@dataclass(frozen=True)
class Reliability:
    """Pictures in bins by confidence (DeGroot & Fienberg 1983).

    Attributes:
        count: int64 (bins,), pictures whose confidence lies in each bin of equal width over [0, 1].
        confidence: float64 (bins,), their mean confidence; NaN in an empty bin.
        accuracy: float64 (bins,), the fraction of them that is right; NaN in an empty bin.
    """

    count: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def ece(self) -> float:
        """Expected calibration error, in [0, 1] (Guo et al. 2017, eq. 3)."""
        share = self.count / self.count.sum()
        return float((share * (self.accuracy - self.confidence).abs()).nansum())


def reliability(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> Reliability:
    """Sorts predictions into bins of confidence, the probability of the predicted class.

    Args:
        probabilities: float (N, C), N >= 1.
        labels: int64 (N,).
        bins: How many there are; a bin holds its upper edge.
    """
    confidence, predicted = probabilities.double().max(dim=1)
    right = (predicted == labels).double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count = torch.bincount(place, minlength=bins)

    def mean(values: Tensor) -> Tensor:
        return torch.bincount(place, weights=values, minlength=bins) / count

    return Reliability(count, mean(confidence), mean(right))
