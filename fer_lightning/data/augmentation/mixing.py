"""MixUp and CutMix: mixing the images and targets of a batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class MixUp:
    """Blends each image and its target with another of the batch (Zhang et al. 2018, arXiv 1710.09412).

    Args:
        alpha: Parameter of Beta(alpha, alpha), the distribution of an image's weight lambda; above 0. 0.2 mostly
            blends little, 1 is the uniform distribution.
        per_image: Sample lambda per image; otherwise per batch, as in the authors' code.

    Raises:
        ValueError: alpha is not above 0.
    """

    def __init__(self, alpha: float, per_image: bool = False) -> None:
        self.alpha, self.per_image = _validated_alpha(alpha), per_image

    def __call__(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Blend a batch with a shuffled copy of itself.

        Args:
            images: Float (B, C, H, W).
            targets: Float (B, classes), each row a distribution.
            generator: On the images' device or, to avoid a synchronisation, on the CPU.

        Returns:
            New images and targets: lambda times the own plus 1 - lambda times the other.
        """
        lambdas = _sample_lambdas(self.alpha, len(images) if self.per_image else 1, generator).to(
            images, non_blocking=True
        )
        other = _random_permutation(images, generator)
        mixed = torch.lerp(images[other], images, lambdas.view(-1, 1, 1, 1))
        return mixed, torch.lerp(targets[other], targets, lambdas.to(targets).view(-1, 1))


class CutMix:
    """Pastes a rectangle of another image into each (Yun et al. 2019, arXiv 1905.04899).

    The rectangle covers 1 - lambda of the area, lambda ~ Beta(alpha, alpha). As in the authors' code its centre is
    anywhere in the image, it is clipped at the border, and lambda is corrected to the pasted area, by which the
    targets are mixed.

    Args:
        alpha: Above 0; 1 in the paper.
        per_image: Sample a rectangle per image; otherwise per batch, as in the authors' code.

    Raises:
        ValueError: alpha is not above 0.
    """

    def __init__(self, alpha: float, per_image: bool = False) -> None:
        self.alpha, self.per_image = _validated_alpha(alpha), per_image

    def __call__(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Paste rectangles from a shuffled copy of the batch into it.

        Args:
            images: Float (B, C, H, W).
            targets: Float (B, classes), each row a distribution.
            generator: On the images' device or, to avoid a synchronisation, on the CPU.

        Returns:
            New images and targets.
        """
        height, width = images.shape[2:]
        sides = (1 - _sample_lambdas(self.alpha, len(images) if self.per_image else 1, generator)).sqrt()
        other = _random_permutation(images, generator)
        rows, columns = _interval_mask(height, sides, generator), _interval_mask(width, sides, generator)
        lambdas = 1 - rows.sum(dim=1) * columns.sum(dim=1) / (height * width)
        pasted = (rows[:, None, :, None] & columns[:, None, None, :]).to(images.device, non_blocking=True)
        mixed = torch.where(pasted, images[other], images)
        lambdas = lambdas.to(targets, non_blocking=True).view(-1, 1)
        return mixed, torch.lerp(targets[other], targets, lambdas)


def _validated_alpha(alpha: float) -> float:
    if not alpha > 0:
        raise ValueError(f"augmentation.mix.alpha must be above 0, got {alpha}; augmentation.mix=null turns mixing off")
    return alpha


def _sample_lambdas(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """Sample lambda ~ Beta(alpha, alpha), float64 (count,), with NumPy, since torch's Beta takes no generator."""
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, count))


def _random_permutation(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randperm(len(images), generator=generator, device=generator.device).to(
        images.device, non_blocking=True
    )


def _interval_mask(size: int, sides: Tensor, generator: torch.Generator) -> Tensor:
    """Pixels along one axis that rectangles of `sides` (fractions of `size`) cover, with random centres.

    Returns:
        Bool (count, size).
    """
    centres = torch.randint(size, (len(sides), 1), generator=generator, device=generator.device).to(sides.device)
    halves = (size * sides).long()[:, None] // 2
    pixels = torch.arange(size)
    return (pixels >= centres - halves) & (pixels < centres + halves)
