"""Soft voting: the predictions of several networks combined."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def soft_vote(logits: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of several networks' probabilities, as logarithms.

    Args:
        logits: float (M, B, C), of M networks.
        weights: float (M,), non-negative, with sum 1.

    Returns:
        (B, C) in the dtype of the logits: logarithms of the mean probabilities; their softmax is the vote.
    """
    log_weights = weights.to(logits).log().view(-1, 1, 1)
    return (logits.log_softmax(dim=-1) + log_weights).logsumexp(dim=0)


class Ensemble(nn.Module):
    """A soft-voting ensemble of networks.

    Args:
        networks: M networks with the same input and the same classes.
        weights: M non-negative weights of the votes; they are normalised to sum 1.

    Attributes:
        temperature: Divides the log probabilities of the vote, as `FERNetwork` divides its logits.
    """

    weights: Tensor
    temperature = 1.0

    def __init__(self, networks: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        raw_weights = torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("weights", raw_weights / raw_weights.sum())

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 (B, C), log probabilities of the vote divided by the temperature.

        Args:
            images: float (B, 1 or 3, H, W) in [0, 1].
        """
        vote = soft_vote(torch.stack([network(images).float() for network in self.networks]), self.weights)
        return vote if self.temperature == 1 else vote / self.temperature
