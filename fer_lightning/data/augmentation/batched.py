"""The same augmentation policies for a whole batch at once, on any device."""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fer_lightning.data.augmentation.per_image import ERASED_GRAY, ERASED_SIDE, check_strengths

_DRAWS = (
    *("flip", "rotation", "shift_x", "shift_y", "zoom", "shear", "left", "right", "top", "bottom"),
    *("brightness", "contrast", "gamma", "erasing", "height", "width", "y", "x", "view_y", "view_x"),
)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in torchvision and OpenCV


class BatchedAugmentation:
    """Applies random transforms to each image of a batch, all images at once.

    Flip, rotation, shift, zoom, shear and crop form one affine map with one bilinear resampling, so an image is
    blurred once. The strengths are those of `per_image.ImageAugmentation`, and four more: shear, gamma, noise, view.

    Args:
        flip: Probability of a horizontal flip; or `alternate`: half of the images are flipped in one epoch, the other
            half in the next, so that both orientations are equally frequent (Jordan 2024, arXiv 2404.00498).
        rotation: Maximum rotation in degrees, in either direction.
        shift: Maximum shift along each axis, in either direction, as a fraction of the width and height.
        zoom: Maximum relative change of size: 0.1 samples a scale from 0.9 to 1.1 for both axes.
        brightness: Maximum relative change of all pixels: 0.2 multiplies them by 0.8 to 1.2.
        contrast: Maximum relative change of the distance from the image's mean gray value.
        crop: Maximum fraction cut off each of the four sides, sampled per side; the rest is resized back.
        erasing: Probability that one rectangle (`per_image.ERASED_SIDE`) is filled with mid-gray.
        shear: Maximum horizontal shear in degrees, in either direction.
        gamma: Maximum gamma correction: 0.5 samples an exponent from 1/1.5 to 1.5, uniformly on a log scale.
        noise: Standard deviation of Gaussian noise added to each value, on the scale of [0, 1].
        view: Side of a random crop as a fraction of the image's side. The crop is not resized, so images become
            smaller. For networks that are tested on crops of that size (eval=ten_crop).

    Raises:
        ValueError: A strength is outside its range.
    """

    def __init__(
        self,
        *,
        flip: float | str = 0.5,
        rotation: float = 10.0,
        shift: float = 0.0,
        zoom: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        crop: float = 0.0,
        erasing: float = 0.0,
        shear: float = 0.0,
        gamma: float = 0.0,
        noise: float = 0.0,
        view: float = 1.0,
    ) -> None:
        strength = 0.5 if flip == "alternate" else flip
        self.rotation, self.shift, self.zoom = rotation, shift, zoom
        self.brightness, self.contrast, self.crop, self.erasing = brightness, contrast, crop, erasing
        self.shear, self.gamma, self.noise = shear, gamma, noise
        check_strengths(flip=strength, **vars(self))
        self.flip, self.flips_alternate = float(strength), flip == "alternate"
        if not 0 < view <= 1:
            raise ValueError(f"augmentation.policy.view is {view}; it must be above 0 and at most 1 (the whole image)")
        self.view = view
        smallest, largest = ERASED_SIDE
        symmetric = {
            "rotation": (math.radians(rotation), 0.0),
            "shift_x": (shift, 0.0),
            "shift_y": (shift, 0.0),
            "zoom": (zoom, 1.0),
            "shear": (math.radians(shear), 0.0),
            "brightness": (brightness, 1.0),
            "contrast": (contrast, 1.0),
            "gamma": (math.log1p(gamma), 0.0),
        }
        one_sided = dict.fromkeys(("left", "right", "top", "bottom"), (crop, 0.0))
        one_sided |= dict.fromkeys(("height", "width"), (largest - smallest, smallest))
        # Per draw: factor and offset that map it to (-1, 1) or keep it in (0, 1), then width and start of its range.
        # Vectorised, since one operation per draw would take longer than transforming a small batch.
        self._ranges = torch.tensor(
            [(2.0, 1.0, *symmetric[n]) if n in symmetric else (1.0, 0.0, *one_sided.get(n, (1.0, 0.0))) for n in _DRAWS]
        ).T.unsqueeze(2)

    def draw(self, count: int, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
        """Sample the transform parameters of `count` images.

        The number of draws does not depend on the strengths: one seed flips the same images in any policy.

        Returns:
            Float32 (count,) each, on `device`: `flip` and `erasing` are 1 or 0; `rotation` and `shear` in
            radians; `shift_x`, `shift_y`, `left`, `right`, `top`, `bottom` as fractions of a side; `zoom`,
            `brightness`, `contrast` as factors; `gamma` an exponent; `height`, `width` of the erased
            rectangle as fractions, and `y`, `x` its position: 0 at the top or left edge, towards 1 as far down or
            right as it fits; `view_y`, `view_x` likewise for the crop of `view`.
        """
        uniform = torch.rand((len(_DRAWS), count), generator=generator, device=generator.device)
        factor, offset, width, start = self._ranges.to(generator.device).unbind()
        values = (uniform * factor - offset) * width + start
        drawn = dict(zip(_DRAWS, values.to(device, non_blocking=True).unbind(), strict=True))
        return drawn | {
            "flip": (drawn["flip"] < self.flip).float(),
            "gamma": drawn["gamma"].exp(),
            "erasing": (drawn["erasing"] < self.erasing).float(),
        }

    def __call__(self, images: Tensor, generator: torch.Generator, flipped: Tensor | None = None) -> Tensor:
        """Transform each image independently.

        Args:
            images: Float (B, C, H, W) in [0, 1], C is 1 or 3, of any floating dtype; not modified.
            generator: On the images' device, or on the CPU (then the draws are the same on every device).
            flipped: Bool (B,), on the images' device: which images are flipped, in place of a random draw.

        Returns:
            A new tensor of the same shape (with `view`: that fraction of the height and width), dtype and memory
            format, in [0, 1]. It is computed in float32, since bfloat16 cannot address the pixels of a large image.
        """
        channels, height, width = images.shape[1:]
        draws = self.draw(len(images), generator, images.device)
        if flipped is not None:
            draws["flip"] = flipped.float()
        per_image = {name: value.view(-1, 1, 1, 1) for name, value in draws.items()}
        if self.flip or self.rotation or self.shift or self.zoom or self.shear or self.crop or self.view < 1:
            grid = _sampling_grid(draws, height, width)
            if self.view < 1:
                grid = _crop_windows(grid, draws, *(max(1, round(self.view * side)) for side in (height, width)))
            height, width = grid.shape[1:3]
            sample = _sampled_by_clamping if images.device.type == "mps" else _sampled
            out = sample(images.float(), grid)
        else:
            out = images.to(torch.float32, copy=True)
        if self.brightness or self.contrast:
            mean = out.mean(dim=(2, 3), keepdim=True)
            if channels == 3:
                mean = (mean * _luma_weights(mean.device)).sum(dim=1, keepdim=True)
            contrast, brightness = per_image["contrast"], per_image["brightness"]
            out.mul_(contrast * brightness).add_((1 - contrast) * brightness * mean).clamp_(0, 1)
        if self.gamma:
            out.clamp_(0, 1).pow_(per_image["gamma"])
        if self.noise:
            noise = torch.randn(out.shape, generator=generator, device=generator.device)
            out.add_(noise.to(out.device, non_blocking=True), alpha=self.noise).clamp_(0, 1)
        if self.erasing:
            out.masked_fill_(_erased_mask(per_image, height, width), ERASED_GRAY / 255)
        layout = torch.contiguous_format if images.is_contiguous() else torch.channels_last
        return out.to(images.dtype, memory_format=layout)


def _sampled(images: Tensor, grid: Tensor) -> Tensor:
    """Sample images at the points of a grid, with border padding."""
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _sampled_by_clamping(images: Tensor, grid: Tensor) -> Tensor:
    """Sample as above up to rounding, on Apple's GPUs, where torch below 2.13 has no border padding."""
    last = 1 - 1 / torch.tensor(images.shape[:1:-1], dtype=grid.dtype, device=grid.device)  # the outermost centres
    return F.grid_sample(images, grid.clamp(-last, last), align_corners=False)


def _sampling_grid(draws: dict[str, Tensor], height: int, width: int) -> Tensor:
    """Input coordinates of each output pixel, in [-1, 1] as in `grid_sample`: (B, H, W, 2).

    An image is flipped, zoomed, rotated, sheared, shifted and cropped, in this order; the map is the inverse. It is
    `affine_grid` of that map, written as the sum of a row and a column: many times faster on a CPU, and without a
    matrix product that autocast would compute in half precision.
    """
    cos, sin, shear = draws["rotation"].cos(), draws["rotation"].sin(), draws["shear"].tan()
    # From coordinates in the crop to coordinates in the shifted image, then before the shift.
    x = _pixel_centres(width, cos.device) * (1 - draws["left"] - draws["right"])[:, None]
    y = _pixel_centres(height, cos.device) * (1 - draws["top"] - draws["bottom"])[:, None]
    x = x + (draws["left"] - draws["right"] - 2 * draws["shift_x"])[:, None]
    y = y + (draws["top"] - draws["bottom"] - 2 * draws["shift_y"])[:, None]
    # Inverse of shear, rotation, zoom and flip; height / width preserves angles in images that are not square.
    mirror = 1 - 2 * draws["flip"]
    from_x = torch.stack([mirror * cos, sin * (width / height)], dim=1) / draws["zoom"][:, None]
    from_y = torch.stack([mirror * (-cos * shear - sin) * (height / width), cos - sin * shear], dim=1)
    from_y = from_y / draws["zoom"][:, None]
    planes = from_x[:, :, None, None] * x[:, None, None, :] + from_y[:, :, None, None] * y[:, None, :, None]
    return planes.permute(0, 2, 3, 1)


def _crop_windows(grid: Tensor, draws: dict[str, Tensor], rows: int, columns: int) -> Tensor:
    """Crop a window of whole pixels from each image's grid (B, H, W, 2): (B, rows, columns, 2)."""
    height, width = grid.shape[1:3]
    # the largest draw below 1 times an integer can round up to that integer
    top = (draws["view_y"] * (height - rows + 1)).long().clamp(max=height - rows)
    left = (draws["view_x"] * (width - columns + 1)).long().clamp(max=width - columns)
    y = top[:, None] + torch.arange(rows, device=grid.device)
    x = left[:, None] + torch.arange(columns, device=grid.device)
    row = torch.arange(len(grid), device=grid.device)
    return grid[row[:, None, None], y[:, :, None], x[:, None, :]]


@cache
def _luma_weights(device: torch.device) -> Tensor:
    """Luma weights of red, green and blue: float32 (1, 3, 1, 1)."""
    return torch.tensor(_LUMA, device=device).view(1, 3, 1, 1)


@cache
def _pixel_centres(size: int, device: torch.device) -> Tensor:
    """Pixel centres of an image that spans -1 to 1: float32 (size,)."""
    return (2 * torch.arange(size, device=device, dtype=torch.float32) + 1) / size - 1


def _erased_mask(draws: dict[str, Tensor], height: int, width: int) -> Tensor:
    """Mask of the pixels in the erased rectangles: bool (B, 1, H, W)."""
    inside = draws["erasing"] > 0
    for size, length, start, shape in (
        (height, draws["height"], draws["y"], (1, 1, -1, 1)),
        (width, draws["width"], draws["x"], (1, 1, 1, -1)),
    ):
        pixels = torch.arange(size, device=start.device).view(shape)
        extent = (length * size).floor()
        first = (start * (size - extent + 1)).floor()
        inside = inside & (pixels >= first) & (pixels < first + extent)
    return inside
