"""Mixing the pictures of a batch, and their targets with them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class MixUp:
    """Blends each picture, and its target, with another of the batch (Zhang et al. 2018, arXiv 1710.09412).

    Args:
        alpha: Of Beta(alpha, alpha), which a picture's share lambda is drawn from; above 0. 0.2 blends a little and
            rarely, 1 draws every share alike.
        per_picture: A lambda for each picture; without it one a batch, as in the authors' code.

    Raises:
        ValueError: alpha is not above 0.
    """

    def __init__(self, alpha: float, per_picture: bool = False) -> None:
        self.alpha, self.per_picture = _checked(alpha), per_picture

    def __call__(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Blends a batch with a shuffled copy of itself.

        Args:
            images: Float (B, C, H, W).
            targets: Float (B, classes), each row a distribution.
            generator: On the images' device or, without a wait for the device, on the CPU.

        Returns:
            New images and targets: lambda of the own, 1 - lambda of the other.
        """
        shares = _shares(self.alpha, len(images) if self.per_picture else 1, generator).to(images, non_blocking=True)
        other = _shuffled(images, generator)
        mixed = torch.lerp(images[other], images, shares.view(-1, 1, 1, 1))
        return mixed, torch.lerp(targets[other], targets, shares.to(targets).view(-1, 1))


class CutMix:
    """Pastes a rectangle of another picture into each (Yun et al. 2019, arXiv 1905.04899).

    The rectangle has 1 - lambda of the area with lambda ~ Beta(alpha, alpha). As in the authors' code its centre lies
    anywhere, what reaches over the border is cut off, and lambda is corrected to the area that was pasted. The targets
    are mixed by that area.

    Args:
        alpha: Above 0; 1 in the paper.
        per_picture: A rectangle for each picture; without it one a batch, as in the authors' code.

    Raises:
        ValueError: alpha is not above 0.
    """

    def __init__(self, alpha: float, per_picture: bool = False) -> None:
        self.alpha, self.per_picture = _checked(alpha), per_picture

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
        sides = (1 - _shares(self.alpha, len(images) if self.per_picture else 1, generator)).sqrt()
        other = _shuffled(images, generator)
        rows, columns = _span(height, sides, generator), _span(width, sides, generator)
        shares = 1 - rows.sum(dim=1) * columns.sum(dim=1) / (height * width)
        pasted = (rows[:, None, :, None] & columns[:, None, None, :]).to(images.device, non_blocking=True)
        mixed = torch.where(pasted, images[other], images)
        shares = shares.to(targets, non_blocking=True).view(-1, 1)
        return mixed, torch.lerp(targets[other], targets, shares)


def _checked(alpha: float) -> float:
    if not alpha > 0:
        raise ValueError(f"augmentation.mix.alpha must be above 0, got {alpha}; augmentation.mix=null turns mixing off")
    return alpha


def _shares(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """Lambda ~ Beta(alpha, alpha), float64 (count,); numpy draws it, since torch's Beta takes no generator."""
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, count))


def _shuffled(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randperm(len(images), generator=generator, device=generator.device).to(
        images.device, non_blocking=True
    )


def _span(size: int, sides: Tensor, generator: torch.Generator) -> Tensor:
    """Which places rectangles with `sides` of `size` cover, around centres drawn anywhere: bool (count, size)."""
    centres = torch.randint(size, (len(sides), 1), generator=generator, device=generator.device).to(sides.device)
    halves = (size * sides).long()[:, None] // 2
    places = torch.arange(size)
    return (places >= centres - halves) & (places < centres + halves)
