"""Images as `split/class/image` in a folder or a zip: Kaggle's FER2013, AffectNet, RAF-DB and others."""

from __future__ import annotations

import io
import os
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fer_lightning.data.arrays import DataError
from fer_lightning.data.sources.chunks import Chunk, check_same_shape, ordered_map
from fer_lightning.data.sources.locate import emotion_of_folder, usage_of_folder, usage_of_image
from fer_lightning.labels import EMOTIONS, USAGES

MAX_PIXELS: Final = 50_000_000
"""Images with more pixels are rejected by their header, before decoding."""

MAX_PIXELS_UNSCALED: Final = 1 << 18
"""The limit without `image_size`, since many unscaled images are in memory at once."""

MAX_BYTES: Final = 50_000_000
"""Files with more bytes are rejected without reading them."""

# Stricter than `inference/images.py`, which also accepts GIF, AVIF, 16 bits, larger files and arrays: an image of a
# data set is refused rather than converted, so that its pixels and the fingerprint depend on no such conversion.
_FORMATS: Final = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
_EXTENSIONS: Final = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm"))
_GRAY_MODES: Final = frozenset(("1", "L", "LA"))
_CHUNK_SIZE: Final = 32  # images per thread task
_LARGE_PIXELS: Final = 1 << 22  # pixels
_large_image_lock = threading.Lock()  # a decoded large image may take hundreds of megabytes


class ImageEntry(NamedTuple):
    """One image of a tree: its path relative to the parent of the split folders, its label and its usage."""

    name: str
    label: int
    usage: str


class ImageTree(NamedTuple):
    """A `split/class/image` layout, derived from paths.

    Attributes:
        prefix: The part of every path before the split folder, empty or ending with `/`.
        images: Sorted by name.
        classes: FER2013's classes in their order if the folders denote exactly those seven, else the folder names.
        official: Whether every file name includes FER2013's usage, as in Kaggle's layout.
        unassigned: Images outside of class folders of a split.
    """

    prefix: str
    images: tuple[ImageEntry, ...]
    classes: tuple[str, ...]
    official: bool
    unassigned: tuple[str, ...]


def is_image_path(path: str) -> bool:
    """Whether a path has an image extension and is not a hidden or macOS system file."""
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.split("/"))
    return not hidden and os.path.splitext(path)[1].lower() in _EXTENSIONS


def find_image_tree(paths: Iterable[str], source: str) -> ImageTree:
    """Derive splits and classes from paths like `train/happy/1.jpg`, which may all have a common prefix.

    The usage comes from the file name if it includes one, else from the split folder.

    Args:
        paths: Relative, with `/`; files other than images are ignored.
        source: Name of the folder or archive in messages.

    Raises:
        DataError: No image is in a class folder of a split, or there are several trees with different prefixes.
    """
    found: list[tuple[str, str, str]] = []
    unassigned: list[str] = []
    prefixes: set[str] = set()
    for path in filter(is_image_path, paths):
        split, folder, file = ["", "", *path.split("/")][-3:]
        usage = usage_of_folder(split)
        if usage is None:
            unassigned.append(path)
            continue
        name = f"{split}/{folder}/{file}"
        prefixes.add(path.removesuffix(name))
        found.append((name, folder, usage_of_image(path) or usage))
    if not found:
        raise DataError(
            f"{source} contains neither FER2013's csv nor images in split/class/ folders such as "
            "train/happy/1.jpg, where a split is train, val or test"
        )
    if len(prefixes) > 1:
        roots = " and ".join(sorted(prefix or "./" for prefix in prefixes)[:2])
        raise DataError(f"{source} contains more than one set of images, in {roots}; set data.path to one of them")
    folders = {folder for _, folder, _ in found}
    classes, label_of = _classes_of_folders(folders)
    images = sorted(ImageEntry(name, label_of[folder], usage) for name, folder, usage in found)
    official = all(usage_of_image(entry.name) for entry in images)
    return ImageTree(prefixes.pop(), tuple(images), classes, official, tuple(sorted(unassigned)))


def _classes_of_folders(folders: set[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    emotions = {folder: emotion_of_folder(folder) for folder in folders}
    if set(emotions.values()) == set(EMOTIONS):
        return EMOTIONS, {folder: EMOTIONS.index(emotion) for folder, emotion in emotions.items() if emotion}
    spellings: dict[str, list[str]] = {}  # `train/Angry` and `test/angry` are the same class
    for folder in sorted(folders):
        spellings.setdefault(folder.strip().casefold(), []).append(folder)
    groups = sorted(spellings.values(), key=lambda names: (names[0].isdecimal() and int(names[0]), names[0]))
    return tuple(names[0] for names in groups), {name: code for code, names in enumerate(groups) for name in names}


def folder_reader(folder: Path) -> Callable[[str], bytes]:
    """Return a function that reads a file of a folder by its relative path."""

    def read(name: str) -> bytes:
        path = folder / name
        _check_size(path.stat().st_size)
        return path.read_bytes()

    return read


def zip_reader(archive: zipfile.ZipFile) -> Callable[[str], bytes]:
    """Return a function that reads a member of a zip into memory, without extracting it to disk."""

    def read(name: str) -> bytes:
        member = archive.getinfo(name)
        _check_size(member.file_size)
        return archive.read(member)

    return read


def _check_size(size: int) -> None:
    if size == 0:
        raise ValueError("the file is empty")
    if size > MAX_BYTES:
        raise ValueError(f"the file has {size:,} bytes, at most {MAX_BYTES:,} are allowed")


def read_images(
    tree: ImageTree, read: Callable[[str], bytes], *, image_size: int | None, channels: int | None
) -> Iterator[Chunk]:
    """Decode the images of a tree in threads, in order.

    Args:
        tree: The images to read.
        read: Returns the bytes of a file by its path (`folder_reader`, `zip_reader`).
        image_size: Pixels a side to which every image is resized, whatever its aspect ratio; None keeps the sizes.
        channels: 1 for gray, 3 for RGB, None for the channels of the files.

    Raises:
        DataError: While iterating: images differ in size or channels and no setting makes them equal.
    """

    def read_chunk(entries: tuple[ImageEntry, ...]) -> Chunk:
        images: list[NDArray[np.uint8]] = []
        decoded: list[ImageEntry] = []
        problems: list[str] = []
        for entry in entries:
            try:
                image = decode(read(tree.prefix + entry.name), image_size, channels)
            except Exception as error:  # decoders raise arbitrary exceptions for damaged images
                problems.append(f"{_encoded_name(entry.name).decode()}: {_problem(error)}")
                continue
            if images:
                check_same_shape(_encoded_name(decoded[0].name), images[0], _encoded_name(entry.name), image)
            images.append(image)
            decoded.append(entry)
        return Chunk(
            np.stack(images) if images else np.empty((0, 0, 0), np.uint8),
            np.array([entry.label for entry in decoded], np.int64),
            np.array([entry.usage for entry in decoded], f"U{max(map(len, USAGES))}"),
            np.array([_encoded_name(entry.name) for entry in decoded], "S"),
            tuple(problems),
        )

    empty = read_chunk(())
    yield Chunk(
        empty.images,
        empty.labels,
        empty.usage,
        empty.names,
        tuple(f"{path}: it is not in a class folder of train, val or test" for path in tree.unassigned),
    )
    starts = range(0, len(tree.images), _CHUNK_SIZE)
    yield from ordered_map(read_chunk, (tree.images[start : start + _CHUNK_SIZE] for start in starts))


def _encoded_name(name: str) -> bytes:
    """Return a file name in UTF-8; bytes that are not valid UTF-8 become question marks."""
    return name.encode("utf-8", "replace")


def _problem(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"it is not an image in a supported format ({', '.join(_FORMATS)})"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"it cannot be read ({error})"


def decode(data: bytes, image_size: int | None = None, channels: int | None = None) -> NDArray[np.uint8]:
    """Decode an image and apply its EXIF orientation.

    Args:
        data: A JPEG, PNG, BMP, WebP, TIFF or PPM file with 8 bits per channel. Transparency is dropped.
        image_size: Pixels a side to resize to (bilinear, antialiased), or None.
        channels: 1 for gray, 3 for RGB, None for the channels of the file.

    Returns:
        uint8 (H, W) or (H, W, 3).

    Raises:
        Exception: Any exception of the decoder for a damaged file; ValueError for too many pixels or bits per channel.
    """
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels, at most {MAX_PIXELS:,} are allowed")
        if image_size is None and image.width * image.height > MAX_PIXELS_UNSCALED:
            raise ValueError(f"{image.width}x{image.height} pixels are too many without resizing: set data.image_size")
        if image.mode.startswith(("I", "F")):
            raise ValueError("more than 8 bits per channel; convert it to 8")
        with _large_image_lock if image.width * image.height > _LARGE_PIXELS else nullcontext():
            ImageOps.exif_transpose(image, in_place=True)
            return convert_image(image, image_size, channels)


def convert_image(image: Image.Image, image_size: int | None, channels: int | None) -> NDArray[np.uint8]:
    """Resize an image and convert its channels, None keeps them: uint8 (H, W) or (H, W, 3)."""
    gray = image.mode in _GRAY_MODES if channels is None else channels == 1
    mode = "L" if gray else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image_size is not None and image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image)
