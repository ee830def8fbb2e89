"""Test-time augmentation: predictions averaged over several views of each image.

A view function (`flip`, `shifts`, `ten_crop`, ...) takes images (B, C, H, W) and returns a list of views (B, C, h, w).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_ANGLES = 360


def average_views(network: Callable[[Tensor], Tensor], views: Sequence[Tensor], average: str) -> Tensor:
    """Return the network's prediction averaged over views.

    Args:
        network: Maps images (B, C, H, W) to logits (B, classes).
        views: One tensor (B, C, h, w) per view.
        average: `probabilities` or `logits`.

    Returns:
        float32 (B, classes) whose softmax is the averaged prediction.

    Raises:
        ValueError: `average` is neither of these.
    """
    logits = torch.stack([network(view).float() for view in views])
    if average == "logits":
        return logits.mean(dim=0)
    if average == "probabilities":
        return logits.log_softmax(dim=-1).logsumexp(dim=0) - torch.log(torch.tensor(float(len(views))))
    raise ValueError(f"eval.average is {average!r}; it must be 'probabilities' or 'logits'")


def identity(images: Tensor) -> list[Tensor]:
    """Return the image itself."""
    return [images]


def flip(images: Tensor) -> list[Tensor]:
    """Return the image and its mirror image."""
    return [images, images.flip(-1)]


def shifts(images: Tensor, shift: float) -> list[Tensor]:
    """Return the image and four copies shifted by a fraction of the side, edges repeated, each with its mirror image.

    Args:
        images: (B, C, H, W).
        shift: Shift as a fraction of the side.

    Raises:
        ValueError: `shift` is not in (0, 1).
    """
    if not 0 < shift < 1:
        raise ValueError(f"eval.views.shift is {shift}; it must be a fraction of the side, above 0 and below 1")
    height, width = images.shape[-2:]
    dy, dx = max(1, round(shift * height)), max(1, round(shift * width))
    padded = F.pad(images, (dx, dx, dy, dy), mode="replicate")
    starts = [(dy, dx), (0, dx), (2 * dy, dx), (dy, 0), (dy, 2 * dx)]
    return [v for y, x in starts for v in flip(padded[..., y : y + height, x : x + width])]


def rotations(images: Tensor, degrees: float, angles: int) -> list[Tensor]:
    """Return rotated images, black outside the original, each with its mirror image.

    The angles are `angles` evenly spaced ones from -`degrees` to `degrees`; a single one is 0.

    Raises:
        ValueError: `angles` is below 1 or above `MAX_ANGLES`, whose views would not fit into memory.
    """
    if not 1 <= angles <= MAX_ANGLES:
        raise ValueError(f"eval.views.angles is {angles}; it must be a whole number from 1 to {MAX_ANGLES}")
    views = []
    height, width = images.shape[-2:]
    first = -degrees if angles > 1 else 0.0
    for angle in torch.linspace(first, degrees, angles).deg2rad().tolist():
        cos, sin = math.cos(angle), math.sin(angle)
        rotation = images.new_tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]).float()
        with torch.autocast(images.device.type, enabled=False):  # half precision is too coarse for pixel coordinates
            grid = F.affine_grid(rotation.expand(len(images), 2, 3), list(images.shape), align_corners=False)
            rotated = F.grid_sample(images.float(), grid, align_corners=False)
        views += flip(rotated.to(images.dtype))
    return views


def five_crop(images: Tensor, size: float) -> list[Tensor]:
    """Return crops at the four corners and at the centre; `size` is their fraction of the side."""
    height, width = images.shape[-2:]
    h, w = _crop_side(height, size), _crop_side(width, size)
    bottom, right = height - h, width - w
    starts = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    return [images[..., y : y + h, x : x + w] for y, x in starts]


def centre_crop(images: Tensor, size: float) -> list[Tensor]:
    """Return the centre crop of the image; `size` is its fraction of the side."""
    return five_crop(images, size)[-1:]


def ten_crop(images: Tensor, size: float) -> list[Tensor]:
    """Return the crops of `five_crop`, each with its mirror image."""
    return [v for view in five_crop(images, size) for v in flip(view)]


def _crop_side(side: int, size: float) -> int:
    """Return the side of a crop in pixels.

    Raises:
        ValueError: `size` is not in (0, 1].
    """
    if not 0 < size <= 1:
        raise ValueError(f"eval.views.size is {size}; it must be a fraction of the side, above 0 and up to 1")
    return max(1, round(size * side))
