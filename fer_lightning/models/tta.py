"""Test-time augmentation: several views of each picture, averaged.

A way to look (`flip`, `shifts`, `ten_crop`, ...) takes pictures (B, C, H, W) and gives a list of views (B, C, h, w).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def average_views(network: Callable[[Tensor], Tensor], views: Sequence[Tensor], average: str) -> Tensor:
    """The network's answer averaged over views.

    Args:
        network: From images (B, C, H, W) to logits (B, classes).
        views: One tensor (B, C, h, w) a view.
        average: `probabilities` or `logits`.

    Returns:
        float32 (B, classes) whose softmax is the averaged answer.

    Raises:
        ValueError: `average` is neither.
    """
    answers = torch.stack([network(view).float() for view in views])
    if average == "logits":
        return answers.mean(dim=0)
    if average == "probabilities":
        return answers.log_softmax(dim=-1).logsumexp(dim=0) - torch.log(torch.tensor(float(len(views))))
    raise ValueError(f"eval.average is {average!r}; it must be 'probabilities' or 'logits'")


def identity(images: Tensor) -> list[Tensor]:
    """The picture itself."""
    return [images]


def flip(images: Tensor) -> list[Tensor]:
    """The picture and its mirror image."""
    return [images, images.flip(-1)]


def shifts(images: Tensor, shift: float) -> list[Tensor]:
    """The picture and four copies shifted by `shift` of its side, edges repeated, each with its mirror image.

    Raises:
        ValueError: `shift` is no share of a side.
    """
    if not 0 < shift < 1:
        raise ValueError(f"eval.views.shift is {shift}; it is a share of the side, above 0 and below 1")
    height, width = images.shape[-2:]
    dy, dx = max(1, round(shift * height)), max(1, round(shift * width))
    padded = F.pad(images, (dx, dx, dy, dy), mode="replicate")
    starts = [(dy, dx), (0, dx), (2 * dy, dx), (dy, 0), (dy, 2 * dx)]
    return [v for y, x in starts for v in flip(padded[..., y : y + height, x : x + width])]


def rotations(images: Tensor, degrees: float, angles: int) -> list[Tensor]:
    """The picture at `angles` even angles from -`degrees` to `degrees`, black beyond its border, each mirrored too.

    A single one is the picture as it is.
    """
    views = []
    height, width = images.shape[-2:]
    first = -degrees if angles > 1 else 0.0
    for angle in torch.linspace(first, degrees, angles).deg2rad().tolist():
        cos, sin = math.cos(angle), math.sin(angle)
        turn = images.new_tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]).float()
        with torch.autocast(images.device.type, enabled=False):  # half precision misses places by parts of a pixel
            grid = F.affine_grid(turn.expand(len(images), 2, 3), list(images.shape), align_corners=False)
            turned = F.grid_sample(images.float(), grid, align_corners=False)
        views += flip(turned.to(images.dtype))
    return views


def five_crop(images: Tensor, size: float) -> list[Tensor]:
    """Crops of `size` of the side at the four corners, and last the one at the centre."""
    height, width = images.shape[-2:]
    h, w = _part(height, size), _part(width, size)
    bottom, right = height - h, width - w
    starts = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    return [images[..., y : y + h, x : x + w] for y, x in starts]


def centre_crop(images: Tensor, size: float) -> list[Tensor]:
    """The centre of the picture, `size` of its side."""
    return five_crop(images, size)[-1:]


def ten_crop(images: Tensor, size: float) -> list[Tensor]:
    """The crops of `five_crop`, each with its mirror image."""
    return [v for view in five_crop(images, size) for v in flip(view)]


def _part(side: int, size: float) -> int:
    """Pixels of a crop along a side.

    Raises:
        ValueError: `size` is no share.
    """
    if not 0 < size <= 1:
        raise ValueError(f"eval.views.size is {size}; it is a share of the side, above 0 and up to 1")
    return max(1, round(size * side))
