"""Pictures as `split/class/picture` in a folder or a zip: Kaggle's FER2013, AffectNet, RAF-DB and others."""

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
from fer_lightning.data.sources.chunks import Chunk, check_alike, ordered_map
from fer_lightning.data.sources.locate import emotion_of_folder, usage_of_folder, usage_of_picture
from fer_lightning.labels import EMOTIONS, USAGES

MAX_PIXELS: Final = 50_000_000
"""Pictures of more pixels are refused by their header, before anything is decoded."""

MAX_PIXELS_UNSCALED: Final = 1 << 18
"""The same where the pictures keep their size, since many of them are held at once."""

MAX_BYTES: Final = 50_000_000
"""Files of more bytes are refused unread."""

_FORMATS: Final = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
_ENDINGS: Final = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm"))
_GRAY_MODES: Final = frozenset(("1", "L", "LA", "La"))
_CHUNK: Final = 32  # pictures a thread takes at once
_LARGE: Final = 1 << 22  # pixels
_one_large_at_a_time = threading.Lock()  # decoded, each may take hundreds of megabytes


class Picture(NamedTuple):
    """One picture of a tree: its path under the split folders' parent, its class and its usage."""

    name: str
    label: int
    usage: str


class Tree(NamedTuple):
    """A `split/class/picture` layout, read from its paths.

    Attributes:
        prefix: What stands before the split in every path, empty or ending with `/`.
        pictures: Sorted by name.
        classes: FER2013's in their order where the folders mean exactly those seven, else the folders' names.
        official: Whether every file name carries FER2013's usage, as in Kaggle's layout.
        strays: Pictures that lie in no class of a split.
    """

    prefix: str
    pictures: tuple[Picture, ...]
    classes: tuple[str, ...]
    official: bool
    strays: tuple[str, ...]


def is_picture(path: str) -> bool:
    """Whether a path ends as a picture's does and is not one of the hidden files that systems leave."""
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.split("/"))
    return not hidden and os.path.splitext(path)[1].lower() in _ENDINGS


def picture_tree(paths: Iterable[str], source: str) -> Tree:
    """Reads splits and classes from paths like `train/happy/1.jpg`, which may all lie in one more folder.

    The usage comes from the file name where that carries it, else from the split folder.

    Args:
        paths: Relative, with `/`; other files than pictures are passed over.
        source: What the messages call the folder or archive.

    Raises:
        DataError: No picture lies in a class of a split, or there are two such trees beside each other.
    """
    found: list[tuple[str, str, str]] = []
    strays: list[str] = []
    prefixes: set[str] = set()
    for path in filter(is_picture, paths):
        *above, split, folder, _ = ("", "", "", *path.split("/"))[-(path.count("/") + 3) :]
        usage = usage_of_folder(split)
        if usage is None:
            strays.append(path)
            continue
        prefix = "".join(f"{part}/" for part in above if part)
        prefixes.add(prefix)
        found.append((path[len(prefix) :], folder, usage_of_picture(path) or usage))
    if not found:
        raise DataError(
            f"{source} holds neither FER2013's csv nor pictures in split/class/ folders such as "
            "train/happy/1.jpg, where a split is train, val or test"
        )
    if len(prefixes) > 1:
        places = " and ".join(sorted(prefix or "./" for prefix in prefixes)[:2])
        raise DataError(f"{source} holds more than one set of pictures, in {places}; set data.path to one of them")
    folders = {folder for _, folder, _ in found}
    classes, label_of = _classes(folders)
    pictures = sorted(Picture(name, label_of[folder], usage) for name, folder, usage in found)
    official = all(usage_of_picture(picture.name) for picture in pictures)
    return Tree(prefixes.pop(), tuple(pictures), classes, official, tuple(sorted(strays)))


def _classes(folders: set[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    meant = {folder: emotion_of_folder(folder) for folder in folders}
    if set(meant.values()) == set(EMOTIONS):
        return EMOTIONS, {folder: EMOTIONS.index(emotion) for folder, emotion in meant.items() if emotion}
    spellings: dict[str, list[str]] = {}  # `train/Angry` and `test/angry` are one class
    for folder in sorted(folders):
        spellings.setdefault(folder.strip().casefold(), []).append(folder)
    alike = sorted(spellings.values(), key=lambda names: (names[0].isdecimal() and int(names[0]), names[0]))
    return tuple(names[0] for names in alike), {name: code for code, names in enumerate(alike) for name in names}


def folder_reader(folder: Path) -> Callable[[str], bytes]:
    """A function that reads a file of a folder by its relative path."""

    def read(name: str) -> bytes:
        path = folder / name
        _check_size(path.stat().st_size)
        return path.read_bytes()

    return read


def zip_reader(archive: zipfile.ZipFile) -> Callable[[str], bytes]:
    """A function that reads a member of a zip into memory; nothing is ever written to disk."""

    def read(name: str) -> bytes:
        member = archive.getinfo(name)
        _check_size(member.file_size)
        return archive.read(member)

    return read


def _check_size(size: int) -> None:
    if size == 0:
        raise ValueError("the file is empty")
    if size > MAX_BYTES:
        raise ValueError(f"the file has {size:,} bytes, a picture may have {MAX_BYTES:,}")


def read_pictures(
    tree: Tree, read: Callable[[str], bytes], *, image_size: int | None, channels: int | None
) -> Iterator[Chunk]:
    """Decodes the pictures of a tree in threads, in order.

    Args:
        tree: What to read.
        read: Gives a file's bytes by its path (`folder_reader`, `zip_reader`).
        image_size: Pixels a side to scale every picture to, whatever its shape was; None keeps sizes.
        channels: 1 for gray, 3 for RGB, None for what the files have.

    Raises:
        DataError: While iterating: pictures differ in size or colours and no setting says what to do.
    """

    def chunk(pictures: tuple[Picture, ...]) -> Chunk:
        images: list[NDArray[np.uint8]] = []
        good: list[Picture] = []
        problems: list[str] = []
        for picture in pictures:
            try:
                image = decode(read(tree.prefix + picture.name), image_size, channels)
            except Exception as error:  # a damaged picture makes decoders raise anything
                problems.append(f"{_bytes(picture.name).decode()}: {_reason(error)}")
                continue
            if images:
                check_alike(_bytes(good[0].name), images[0], _bytes(picture.name), image)
            images.append(image)
            good.append(picture)
        return Chunk(
            np.stack(images) if images else np.empty((0, 0, 0), np.uint8),
            np.array([picture.label for picture in good], np.int64),
            np.array([picture.usage for picture in good], f"U{max(map(len, USAGES))}"),
            np.array([_bytes(picture.name) for picture in good], "S"),
            tuple(problems),
        )

    nothing = chunk(())
    yield Chunk(
        nothing.images,
        nothing.labels,
        nothing.usage,
        nothing.names,
        tuple(f"{stray}: it lies in no class of a train, val or test folder" for stray in tree.strays),
    )
    starts = range(0, len(tree.pictures), _CHUNK)
    yield from ordered_map(chunk, (tree.pictures[start : start + _CHUNK] for start in starts))


def _bytes(name: str) -> bytes:
    """A file's name; what of it is not UTF-8 becomes question marks."""
    return name.encode("utf-8", "replace")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"it is no picture of a known kind ({', '.join(_FORMATS)})"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"it cannot be read ({error})"


def decode(data: bytes, image_size: int | None = None, channels: int | None = None) -> NDArray[np.uint8]:
    """Decodes a picture the right way up.

    Args:
        data: A JPEG, PNG, BMP, WebP, TIFF or PPM file of 8 bits a channel. Transparency is dropped.
        image_size: Pixels a side to scale to (bilinear, antialiased), or None.
        channels: 1 for gray, 3 for RGB, None for what the file has.

    Returns:
        uint8 (H, W) or (H, W, 3).

    Raises:
        Exception: What the decoder raises for a damaged file; ValueError for one too large or too deep.
    """
    with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width}x{picture.height} pixels, at most {MAX_PIXELS:,} are allowed")
        if image_size is None and picture.width * picture.height > MAX_PIXELS_UNSCALED:
            raise ValueError(f"{picture.width}x{picture.height} pixels are too many unscaled: set data.image_size")
        if picture.mode.startswith(("I", "F")):
            raise ValueError("more than 8 bits a channel; save it with 8")
        with _one_large_at_a_time if picture.width * picture.height > _LARGE else nullcontext():
            ImageOps.exif_transpose(picture, in_place=True)
            return fit(picture, image_size, channels)


def fit(picture: Image.Image, image_size: int | None, channels: int | None) -> NDArray[np.uint8]:
    """Brings a picture to a size and a number of channels, None for its own: uint8 (H, W) or (H, W, 3)."""
    gray = picture.mode in _GRAY_MODES if channels is None else channels == 1
    mode = "L" if gray else "RGB"
    if picture.mode != mode:
        picture = picture.convert(mode)
    if image_size is not None and picture.size != (image_size, image_size):
        picture = picture.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(picture)
