"""Losses over hard or soft targets, with optional class weights that are saved in the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fer_lightning.training.processes import mean_over_processes


def balanced_weights(class_counts: Sequence[int]) -> Tensor:
    """Class weights w_c = N / (C n_c), as scikit-learn's `class_weight="balanced"`.

    Args:
        class_counts: Images of each class in the train split.

    Returns:
        float32 (C,). A class without images gets weight 0: it is in no target.
    """
    counts = torch.tensor(class_counts, dtype=torch.float64)
    weights = counts.sum() / (len(counts) * counts.clamp(min=1))
    return torch.where(counts > 0, weights, 0.0).float()


class FocalLoss(nn.Module):
    """Focal loss (Lin et al. 2017, eq. 5) for one-of-C classification; gamma = 0 is cross entropy.

    With p the softmax of the logits, t the target distribution (one-hot for hard labels), w the class weights and s the
    label smoothing, the loss of a batch is

        sum_ic u_ic (1 - p_ic)^gamma (-log p_ic)  /  sum_ic u_ic,    u_ic = (1 - s) t_ic w_c + s / C sum_k t_ik w_k

    which for gamma = 0 and s = 0 is `torch.nn.functional.cross_entropy(..., weight=w)`. With both weights and smoothing
    it is not: torch smooths first and weights each class's fraction of the target, so that a rare class gets most of
    the smoothing of all images. Here an image counts by the weight of its own label, as with Keras's `class_weight`,
    and the weights do not change which prediction minimises its loss. With class weights in several processes (DDP)
    the divisor is its mean over them, so that their gradients average to that of the whole batch.

    Args:
        class_counts: Images of each class in the train split; its length is the number of classes.
        class_weights: `none` or `balanced` (`balanced_weights`).
        gamma: Focusing parameter, >= 0; larger values down-weight well-classified images.
        label_smoothing: Fraction of each target spread evenly over all classes, in [0, 1).

    Raises:
        ValueError: An option is out of range.
    """

    weight: Tensor

    def __init__(
        self,
        class_counts: Sequence[int],
        class_weights: str = "none",
        gamma: float = 2.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if gamma < 0:
            raise ValueError(f"loss.gamma is {gamma}; it must be 0 or more (0 is cross entropy)")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"loss.label_smoothing is {label_smoothing}; it must be in [0, 1)")
        if class_weights not in ("none", "balanced"):
            raise ValueError(f"loss.class_weights is {class_weights!r}; it must be 'none' or 'balanced'")
        weight = torch.ones(len(class_counts)) if class_weights == "none" else balanced_weights(class_counts)
        self.register_buffer("weight", weight)
        self.weighted = class_weights != "none"
        self.gamma = gamma
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean loss of a batch.

        Args:
            logits: float (B, C).
            target: int64 (B,) class indices, or float (B, C) distributions.

        Returns:
            A scalar, float32.
        """
        logits = logits.float()  # the logarithm of a small bfloat16 probability is too coarse
        classes = logits.shape[1]
        weighted = (F.one_hot(target, classes) if target.ndim == 1 else target).float() * self.weight
        if self.label_smoothing:
            uniform = weighted.sum(dim=1, keepdim=True) / classes
            weighted = (1 - self.label_smoothing) * weighted + self.label_smoothing * uniform
        log_p = logits.log_softmax(dim=1)
        loss = -log_p
        if self.gamma:
            # Clamped above 0, where the derivative of x^gamma is infinite for gamma below 1.
            loss = (-log_p.expm1()).clamp(min=1e-7) ** self.gamma * loss
        divisor = mean_over_processes(weighted.sum()) if self.weighted else weighted.sum()
        return (weighted * loss).sum() / divisor


class CrossEntropyLoss(FocalLoss):
    """Cross entropy over hard or soft targets: `FocalLoss` with gamma = 0.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(self, class_counts: Sequence[int], class_weights: str = "none", label_smoothing: float = 0.0) -> None:
        super().__init__(class_counts, class_weights, gamma=0.0, label_smoothing=label_smoothing)


class LabelDrawingLoss(CrossEntropyLoss):
    """Cross entropy with one label per image, sampled from its soft target in each step: FER+'s probabilistic labels.

    Barsoum et al. 2016, arXiv 1608.01041. Its mean over many epochs is cross entropy with the soft target; one
    epoch is noisier. Samples come from torch's global generator, which each batch seeds.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean loss of a batch, as in `FocalLoss.forward`; int64 targets are used unchanged."""
        labels = target if target.ndim == 1 else torch.multinomial(target.float(), 1).squeeze(1)
        return super().forward(logits, labels)


class MultiTargetLoss(nn.Module):
    """Accepts any one of an image's labels as correct: FER+'s multi-label loss (Barsoum et al. 2016).

    With p the softmax of the logits and t = 1 for a label that is positive in the target, `elsewhere` for the others,
    the loss of an image is -log max_c(t_c p_c).

    Args:
        class_counts: Images of each class in the train split; not used, as the paper has no class weights.
        elsewhere: Value of t for labels that the image does not have, in (0, 1); above 0, so that the loss stays
            bounded where a model is confident in one of those. 0.001 in the authors' code.

    Raises:
        ValueError: `elsewhere` is out of range.
    """

    def __init__(self, class_counts: Sequence[int], elsewhere: float = 1e-3) -> None:
        super().__init__()
        if not 0 < elsewhere < 1:
            raise ValueError(f"loss.elsewhere is {elsewhere}; it must be between 0 and 1")
        self.elsewhere = elsewhere

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean loss of a batch.

        Args:
            logits: float (B, C).
            target: int64 (B,) class indices, or float (B, C), positive for the labels of an image.

        Returns:
            A scalar, float32.
        """
        log_p = logits.float().log_softmax(dim=1)
        is_label = (F.one_hot(target, log_p.shape[1]) if target.ndim == 1 else target) > 0
        return -torch.where(is_label, log_p, log_p + math.log(self.elsewhere)).amax(dim=1).mean()
