"""Mixing the pictures of a batch, and their targets with them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


class MixUp:
    """Blends each picture, and its target, with another of the batch (Zhang et al. 2018, arXiv 1710.09412).

    One share lambda ~ Beta(alpha, alpha) a batch, as in the authors' code.

    Args:
        alpha: Above 0; 0.2 blends a little and rarely, 1 draws every share alike.

    Raises:
        ValueError: alpha is not above 0.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = _checked(alpha)

    def __call__(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Blends a batch with a shuffled copy of itself.

        Args:
            images: Float (B, C, H, W).
            targets: Float (B, classes), each row a distribution.
            generator: On the images' device or, without a wait for the device, on the CPU.

        Returns:
            New images and targets: lambda of the own, 1 - lambda of the other.
        """
        share = _share(self.alpha, generator)
        other = _shuffled(images, generator)
        return torch.lerp(images[other], images, share), torch.lerp(targets[other], targets, share)


class CutMix:
    """Pastes a rectangle of another picture into each (Yun et al. 2019, arXiv 1905.04899).

    One rectangle a batch, of 1 - lambda of the area with lambda ~ Beta(alpha, alpha), as in the authors'
    code: its centre lies anywhere, what reaches over the border is cut off, and lambda is corrected to the
    area that was pasted. The targets are mixed by that area.

    Args:
        alpha: Above 0; 1 in the paper.

    Raises:
        ValueError: alpha is not above 0.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = _checked(alpha)

    def __call__(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pastes into a batch from a shuffled copy of itself.

        Args:
            images: Float (B, C, H, W).
            targets: Float (B, classes), each row a distribution.
            generator: On the images' device or, without a wait for the device, on the CPU.

        Returns:
            New images and targets.
        """
        height, width = images.shape[2:]
        side = math.sqrt(1 - _share(self.alpha, generator))
        other = _shuffled(images, generator)
        rows = _span(height, side, generator)
        columns = _span(width, side, generator)
        mixed = images.clone()
        mixed[:, :, rows, columns] = images[other][:, :, rows, columns]
        share = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        return mixed, torch.lerp(targets[other], targets, share)


def _checked(alpha: float) -> float:
    if not alpha > 0:
        raise ValueError(f"augmentation.mix.alpha must be above 0, got {alpha}; augmentation.mix=null turns mixing off")
    return alpha


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator, device=generator.device))


def _share(alpha: float, generator: torch.Generator) -> float:
    """Lambda ~ Beta(alpha, alpha); numpy draws it, since torch's Beta takes no generator."""
    return float(np.random.default_rng(_integer(2**62, generator)).beta(alpha, alpha))


def _shuffled(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randperm(len(images), generator=generator, device=generator.device).to(
        images.device, non_blocking=True
    )


def _span(size: int, side: float, generator: torch.Generator) -> slice:
    """Where a rectangle with `side` of `size` lies around a centre drawn anywhere, cut off at the border."""
    centre, half = _integer(size, generator), int(size * side) // 2
    return slice(max(centre - half, 0), min(centre + half, size))
