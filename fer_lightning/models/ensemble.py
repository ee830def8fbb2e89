"""Soft voting: the answers of several networks as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def soft_vote(logits: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of several networks' probabilities.

    Args:
        logits: float (M, B, C), of M networks.
        weights: float (M,), each 0 or more, together 1.

    Returns:
        (B, C) of the logits' dtype: logarithms of the mean probabilities, whose softmax is the vote.
    """
    shares = weights.to(logits).log().view(-1, 1, 1)
    return (logits.log_softmax(dim=-1) + shares).logsumexp(dim=0)


class Ensemble(nn.Module):
    """Networks that vote.

    Args:
        networks: M networks from the same images to the same classes.
        weights: M numbers, each 0 or more; only their ratios matter.

    Attributes:
        temperature: Divides the logarithms of the vote, as `FERNetwork` divides its logits.
    """

    weights: Tensor
    temperature = 1.0

    def __init__(self, networks: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        shares = torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("weights", shares / shares.sum())

    def forward(self, images: Tensor) -> Tensor:
        """float32 (B, C), logarithms of the vote over the temperature, of images (B, 1 or 3, H, W) in [0, 1]."""
        voted = soft_vote(torch.stack([network(images).float() for network in self.networks]), self.weights)
        return voted if self.temperature == 1 else voted / self.temperature
