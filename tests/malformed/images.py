"""Malformed images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from helpers.images import encoded, png_of_size
from hypothesis import strategies as st
from PIL import Image

from fer_lightning.data.arrays import DataError
from fer_lightning.data.sources.readers import read_faces
from fer_lightning.inference.images import ImageError, read_image
from fer_lightning.labels import EMOTIONS
from malformed.target import Target
from malformed.values import damaged, odd_integers


def image(kind: str = "PNG", mode: str = "L", size: tuple[int, int] = (20, 20), **options: Any) -> bytes:
    """A valid image file."""
    shades = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[::-1])
    return encoded(Image.fromarray(shades).convert(mode), kind, **options)


images = st.one_of(
    st.binary(max_size=100),
    st.builds(png_of_size, odd_integers, odd_integers),
    *(damaged(image(kind)) for kind in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF", "AVIF")),
    *(damaged(image("TIFF", mode)) for mode in ("I;16", "F", "CMYK")),
    damaged(image("JPEG", "RGB", progressive=True)),
    damaged(image("PNG", "P", transparency=3)),
)


def feed_image(content: bytes, folder: Path) -> None:
    pixels = read_image(content)
    assert pixels.ndim == 2 or pixels.shape[2] == 3


def feed_image_of_a_set(content: bytes, folder: Path) -> None:
    for name in EMOTIONS:
        (folder / "set" / "train" / name).mkdir(parents=True)
        (folder / "set" / "train" / name / "1.png").write_bytes(image())
    (folder / "set" / "train" / "sad" / "2.png").write_bytes(content)
    read_faces(folder / "set", cache=False, on_error="skip")
    read_faces(folder / "set", cache=False, image_size=16, channels=1)


TARGETS = [
    Target("images of a data set", images, feed_image_of_a_set, (DataError,)),
    Target("images to predict", images, feed_image, (ImageError,)),
]
