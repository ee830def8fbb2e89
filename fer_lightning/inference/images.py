"""Pictures from anywhere, read within bounds: files, bytes, Pillow, NumPy, tensors."""

from __future__ import annotations

import io
import os
import warnings
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8] | NDArray[np.float32]
"""A picture the right way up: (H, W) gray or (H, W, 3) RGB, uint8 or float32 in [0, 1]."""

MAX_PIXELS: Final = 50_000_000
"""Pictures of more pixels are refused by their header, before anything is decoded."""

MAX_BYTES: Final = 100_000_000
"""Of a file no more than this is read."""

MIN_SIDE: Final = 8
"""Pixels; nobody can see a face in less."""

_FORMATS: Final = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF", "AVIF")
_KNOWN: Final = "JPEG, PNG, BMP, WebP, TIFF, PPM, GIF or AVIF"
_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as in `FERNetwork`
_GRAY: Final = frozenset(("1", "L", "LA", "La"))


class PictureError(ValueError):
    """A picture cannot be used; the message names it and says why."""


def read_picture(source: Any, name: str = "picture") -> Pixels:
    """A picture from whatever holds one.

    Of animations and files of several pages the first picture is taken; transparency is dropped; what a camera
    noted on the way it was held is applied; CMYK becomes RGB; 16 bits become 8.

    Args:
        source: A path, the bytes of a file, a file opened for reading bytes, a Pillow image, or an array or tensor:
            (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, integers from 0 to 255, uint16 of full range, or
            float in [0, 1]. Where first and last axis could both be the channels, the last one is.
        name: What messages call it, where it is no path.

    Raises:
        PictureError: It is missing, damaged, too large, too small or no picture.
    """
    name = printable(source) if isinstance(source, (str, os.PathLike)) else name
    try:
        pixels = _read(source)
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from None
    except Exception as error:  # a damaged picture makes decoders raise anything
        raise PictureError(f"{name}: {reason_of(error)}") from error
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise PictureError(f"{name}: {width}x{height} pixels are too few for a face, {MIN_SIDE}x{MIN_SIDE} the least")
    return pixels


def to_input(pixels: Pixels, size: int, channels: int) -> NDArray[np.float32]:
    """A picture as networks get it: RGB to gray as FER2013's were, squeezed to a square, antialiased where it shrinks.

    The same arithmetic as in `FERNetwork`, so that both answer alike for pictures of any size.

    Args:
        pixels: Gray or RGB, of any size.
        size: Pixels a side.
        channels: 1 or 3.

    Returns:
        float32 (channels, size, size) in [0, 1].
    """
    planes = [pixels] if pixels.ndim == 2 else [pixels[..., channel] for channel in range(3)]
    small = np.stack([_resized(plane, size) for plane in planes])
    if pixels.dtype == np.uint8:
        small /= 255
    if len(small) > channels:
        return np.asarray(np.einsum("chw,c->hw", small, _LUMA)[None], np.float32)
    return np.repeat(small, 3, axis=0) if len(small) < channels else small


def to_uint8(pixels: Pixels) -> NDArray[np.uint8]:
    """The same picture as uint8."""
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.uint8)
    return np.asarray(np.rint(pixels * np.float32(255)), np.uint8)


def _resized(plane: NDArray[Any], size: int) -> NDArray[np.float32]:
    plane = plane.astype(np.float32)
    if plane.shape == (size, size):
        return plane
    return np.array(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR))


def _read(source: Any) -> Pixels:
    if isinstance(source, Image.Image):
        return _decoded(source)
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            source = file.read(MAX_BYTES + 1)
    elif hasattr(source, "read"):
        source = source.read(MAX_BYTES + 1)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _opened(source)
    if hasattr(source, "detach"):  # a tensor may lie on a GPU or carry a gradient
        source = source.detach().cpu()
    if hasattr(source, "__array__"):
        return _from_array(np.asarray(source))
    raise PictureError(f"a {type(source).__name__} is no picture; give a path, bytes, a Pillow image or an array")


def _opened(data: bytes | bytearray | memoryview) -> Pixels:
    if len(data) == 0:
        raise PictureError("the file is empty")
    if len(data) > MAX_BYTES:
        raise PictureError(f"the file has more than {MAX_BYTES:,} bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound here is lower
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            return _decoded(picture)


def _decoded(picture: Image.Image) -> Pixels:
    if picture.width * picture.height > MAX_PIXELS:
        raise PictureError(f"{picture.width}x{picture.height} pixels, at most {MAX_PIXELS:,} are read")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        deep = np.asarray(picture)
        if deep.min() < 0 or deep.max() > 65535:
            raise PictureError("more than 16 bits a channel; save it with 8")
        return _from_array(deep.astype(np.uint16))
    if picture.mode == "F":
        return _from_array(np.asarray(picture))
    return np.asarray(picture.convert("L" if picture.mode in _GRAY else "RGB"))


def _from_array(array: NDArray[Any]) -> Pixels:
    given = array.shape
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise PictureError(f"an array of shape {given} is no picture; (H, W), (H, W, C) and (C, H, W) are")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise PictureError(f"{array.shape[1]}x{array.shape[0]} pixels, at most {MAX_PIXELS:,} are read")
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
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # not a number fails too
            raise PictureError(f"float pixels must lie in [0, 1], these lie in [{low:g}, {high:g}]")
        return np.ascontiguousarray(array.clip(0, 1), dtype=np.float32)
    if not np.issubdtype(array.dtype, np.integer) or low < 0 or high > 255:
        raise PictureError(f"pixels must be integers from 0 to 255 or float in [0, 1], these are {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.uint8)


def printable(path: str | os.PathLike[str]) -> str:
    """A path as one line of text, whatever bytes its name has."""
    return "".join(char if char.isprintable() else "?" for char in os.fspath(path))


def reason_of(error: Exception) -> str:
    """Why a picture cannot be read, in words."""
    if isinstance(error, UnidentifiedImageError):
        return f"it is no picture of a known kind ({_KNOWN})"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has far more pixels than the {MAX_PIXELS:,} that are read"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"it cannot be read ({(str(error) or type(error).__name__).splitlines()[0]})"
