"""Reads images from files, bytes, Pillow, NumPy and tensors, with limits on their size."""

from __future__ import annotations

import io
import os
import warnings
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8] | NDArray[np.float32]
"""An upright image: (H, W) gray or (H, W, 3) RGB, uint8 or float32 in [0, 1]."""

MAX_PIXELS: Final = 50_000_000
"""Images with more pixels are refused before decoding."""

MAX_BYTES: Final = 100_000_000
"""Larger files are refused."""

MIN_SIDE: Final = 8
"""Pixels; smaller images cannot show a face."""

_FORMATS: Final = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF", "AVIF")
_KNOWN: Final = "JPEG, PNG, BMP, WebP, TIFF, PPM, GIF or AVIF"
_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as in `FERNetwork`
_GRAY: Final = frozenset(("1", "L", "LA"))


class ImageError(ValueError):
    """An image cannot be used; the message names it and the reason."""


def read_image(source: Any, name: str = "image") -> Pixels:
    """Read an image.

    Uses the first frame or page of a file, drops transparency, applies the EXIF orientation, converts CMYK to RGB and
    16 bits to 8.

    Args:
        source: A path, the bytes of a file, a file opened for reading bytes, a Pillow image, or an array or tensor:
            (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, integers from 0 to 255, uint16 of full range, or
            float in [0, 1]. If both the first and the last axis could be the channels, the last one is used.
        name: Name in messages if `source` is not a path.

    Raises:
        ImageError: The image is missing, damaged, too large, too small or not an image.
    """
    name = printable(source) if isinstance(source, (str, os.PathLike)) else name
    try:
        pixels = _read(source)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except Exception as error:  # damaged images cause all kinds of errors in decoders
        raise ImageError(f"{name}: {reason_of(error)}") from error
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ImageError(
            f"{name}: {width}x{height} pixels are too few for a face, at least {MIN_SIDE}x{MIN_SIDE} are needed"
        )
    return pixels


def to_input(pixels: Pixels, size: int, channels: int) -> NDArray[np.float32]:
    """Convert an image to the input of a network: gray or RGB, resized to a square, antialiased when shrinking.

    The arithmetic is that of `FERNetwork`, so that both give the same predictions for images of any size.

    Args:
        pixels: Gray or RGB, of any size.
        size: Height and width in pixels.
        channels: 1 or 3.

    Returns:
        float32 (channels, size, size) in [0, 1].
    """
    planes = [pixels] if pixels.ndim == 2 else [pixels[..., channel] for channel in range(3)]
    small = np.stack([_resize(plane, size) for plane in planes])
    if pixels.dtype == np.uint8:
        small /= 255
    if len(small) > channels:
        return np.asarray(np.einsum("chw,c->hw", small, _LUMA)[None], np.float32)
    return np.repeat(small, 3, axis=0) if len(small) < channels else small


def to_uint8(pixels: Pixels) -> NDArray[np.uint8]:
    """Convert an image to uint8."""
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.uint8)
    return np.asarray(np.rint(pixels * np.float32(255)), np.uint8)


def _resize(plane: NDArray[Any], size: int) -> NDArray[np.float32]:
    plane = plane.astype(np.float32)
    if plane.shape == (size, size):
        return plane
    return np.array(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR))


def _read(source: Any) -> Pixels:
    if isinstance(source, Image.Image):
        return _decode(source)
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            source = file.read(MAX_BYTES + 1)
    elif hasattr(source, "read"):
        source = source.read(MAX_BYTES + 1)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _open_bytes(source)
    if hasattr(source, "detach"):  # a tensor may be on a GPU or require a gradient
        source = source.detach().cpu()
    if hasattr(source, "__array__"):
        return _from_array(np.asarray(source))
    raise ImageError(f"a {type(source).__name__} is not an image; pass a path, bytes, a Pillow image or an array")


def _open_bytes(data: bytes | bytearray | memoryview) -> Pixels:
    if len(data) == 0:
        raise ImageError("the file is empty")
    if len(data) > MAX_BYTES:
        raise ImageError(f"the file has more than {MAX_BYTES:,} bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `MAX_PIXELS` is lower
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return _decode(image)


def _decode(image: Image.Image) -> Pixels:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{image.width}x{image.height} pixels, the limit is {MAX_PIXELS:,}")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ImageError("more than 16 bits per channel; save it with 8")
        return _from_array(pixels.astype(np.uint16))
    if image.mode == "F":
        return _from_array(np.asarray(image))
    return np.asarray(image.convert("L" if image.mode in _GRAY else "RGB"))


def _from_array(array: NDArray[Any]) -> Pixels:
    shape = array.shape
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"an array of shape {shape} is not an image; pass (H, W), (H, W, C) or (C, H, W)")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ImageError(f"{array.shape[1]}x{array.shape[0]} pixels, the limit is {MAX_PIXELS:,}")
    if array.ndim == 3:
        array = array[..., 0] if array.shape[2] == 1 else array[..., :3]
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        scaled = array / np.float32(257)
        return np.rint(scaled, out=scaled).astype(np.uint8)
    low, high = array.min(), array.max()
    if np.issubdtype(array.dtype, np.floating):
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # also refuses NaN
            raise ImageError(f"float pixels must lie in [0, 1], these lie in [{low:g}, {high:g}]")
        return np.ascontiguousarray(array.clip(0, 1), dtype=np.float32)
    if not np.issubdtype(array.dtype, np.integer) or low < 0 or high > 255:
        raise ImageError(f"pixels must be integers from 0 to 255 or float in [0, 1], these are {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.uint8)


def printable(path: str | os.PathLike[str]) -> str:
    """Return a path as one line of printable text."""
    return "".join(char if char.isprintable() else "?" for char in os.fspath(path))


def reason_of(error: Exception) -> str:
    """Return the reason why an image cannot be read, for messages."""
    if isinstance(error, UnidentifiedImageError):
        return f"it is not an image in a known format ({_KNOWN})"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has far more pixels than {MAX_PIXELS:,}, the limit"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"it cannot be read ({(str(error) or type(error).__name__).splitlines()[0]})"
