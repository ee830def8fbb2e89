"""Augmentation of one image at a time on the CPU, with albumentations; ranges of the strengths of a policy."""

from __future__ import annotations

import os
import random
from typing import Final

import numpy as np
from numpy.typing import NDArray

ERASED_SIDE: Final = (0.1, 0.4)
"""The range of an erased rectangle's height and width, as fractions of the image's."""

ERASED_GRAY: Final = 128
"""Fill value of erased rectangles: mid-gray, close to zero after the model's normalisation."""

_LARGEST: Final = {
    "flip": 1.0,
    "rotation": 180.0,
    "shift": 1.0,
    "zoom": 0.99,
    "crop": 0.49,
    "brightness": 1.0,
    "contrast": 1.0,
    "erasing": 1.0,
    "shear": 80.0,
    "gamma": 10.0,
    "noise": 1.0,
}


def check_strengths(**strengths: float | str) -> None:
    """Check that every strength is in its valid range.

    Raises:
        ValueError: A strength is not a number, negative or above its maximum.
    """
    for name, value in strengths.items():
        if isinstance(value, str):
            hint = "; flip=alternate needs augmentation=batched_..." if value == "alternate" else ""
            raise ValueError(f"augmentation.policy.{name} is {value!r}; give a number{hint}")
        if not 0 <= value <= _LARGEST[name]:
            raise ValueError(
                f"augmentation.policy.{name} must lie between 0 and {_LARGEST[name]:g}, got {value}; 0 turns it off"
            )


class ImageAugmentation:
    """Applies random transforms to each image, with albumentations.

    `batched.BatchedAugmentation` applies the same policy to a whole batch on the device. Both sample every strength
    uniformly from its range, and both pad an image with its border pixels: reflection would add a second chin. Here
    shifts and crops are whole pixels.

    Args:
        flip: Probability of a horizontal flip.
        rotation: Maximum rotation in degrees, in either direction.
        shift: Maximum shift along each axis, in either direction, as a fraction of the width and height.
        zoom: Maximum relative change of size: 0.1 samples a scale from 0.9 to 1.1 for both axes.
        brightness: Maximum relative change of all pixels: 0.2 multiplies them by 0.8 to 1.2.
        contrast: Maximum relative change of the distance from the image's mean gray value.
        crop: Maximum fraction cut off each of the four sides, sampled per side; the rest is resized back.
        erasing: Probability that one rectangle (`ERASED_SIDE`) is filled with mid-gray.

    Raises:
        ValueError: A strength is outside its range.
    """

    def __init__(
        self,
        *,
        flip: float = 0.5,
        rotation: float = 10.0,
        shift: float = 0.0,
        zoom: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        crop: float = 0.0,
        erasing: float = 0.0,
    ) -> None:
        check_strengths(
            flip=flip,
            rotation=rotation,
            shift=shift,
            zoom=zoom,
            brightness=brightness,
            contrast=contrast,
            crop=crop,
            erasing=erasing,
        )
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise its import checks for updates online
        import albumentations as A
        import cv2

        steps: list[A.BasicTransform] = []
        if flip:
            steps.append(A.HorizontalFlip(p=flip))
        if rotation or shift or zoom:
            steps.append(
                A.Affine(
                    rotate=(-rotation, rotation),
                    translate_percent=(-shift, shift),
                    scale=(1 - zoom, 1 + zoom),
                    keep_ratio=True,
                    border_mode=cv2.BORDER_REPLICATE,
                    p=1,
                )
            )
        if crop:
            steps.append(A.CropAndPad(percent=[(-crop, 0.0)] * 4, p=1))
        if brightness or contrast:
            steps.append(
                A.ColorJitter(
                    brightness=(1 - brightness, 1 + brightness),
                    contrast=(1 - contrast, 1 + contrast),
                    saturation=(1, 1),
                    hue=(0, 0),
                    p=1,
                )
            )
        if erasing:
            steps.append(
                A.CoarseDropout(
                    num_holes_range=(1, 1),
                    hole_height_range=ERASED_SIDE,
                    hole_width_range=ERASED_SIDE,
                    fill=ERASED_GRAY,
                    p=erasing,
                )
            )
        self._pipeline = A.Compose(steps, is_check_shapes=False)
        self.reseed(0)

    def reseed(self, seed: int) -> None:
        """Restart the random number generator from a seed; batches need different seeds."""
        # One generator for all transforms: albumentations seeds every transform alike, which would correlate them.
        self._pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Transform each image independently.

        Args:
            images: uint8 (B, H, W) gray or (B, H, W, 3) RGB; not modified.

        Returns:
            A new array of the same shape and dtype.
        """
        augmented = np.empty(images.shape, dtype=np.uint8)
        for i, image in enumerate(np.asarray(images)):
            augmented[i] = self._pipeline(image=image)["image"]
        return augmented
