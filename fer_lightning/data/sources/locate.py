"""The names under which people keep FER2013: files, folders, parts and classes. Imports nothing heavy."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CSV_NAMES: Final = ("fer2013.csv", "icml_face_data.csv")
"""The csv of the challenge and its second form (other column order, spaces in the header), best first."""

_FILES: Final = (
    *(name + ending for name in CSV_NAMES for ending in ("", ".gz", ".xz")),
    *("fer2013" + ending for ending in (".zip", ".tar.gz", ".tgz", ".csv.zip")),
    "challenges-in-representation-learning-facial-expression-recognition-challenge.zip",
    *("fer2013-kaggle.zip", "fer-2013.zip", "archive.zip"),
)
_FOLDERS: Final = ("fer2013", "fer-2013", "fer2013-kaggle", "archive")
_DEPTH: Final = 6  # wrapper/wrapper/split/class/picture, and one to spare; also ends a circle of links

_USAGES: Final = {
    "Training": ("train", "training"),
    "PublicTest": ("val", "valid", "validation", "dev", "publictest"),
    "PrivateTest": ("test", "testing", "privatetest"),
}
_EMOTIONS: Final = {
    "angry": ("angry", "anger"),
    "disgust": ("disgust", "disgusted"),
    "fear": ("fear", "fearful", "scared", "afraid"),
    "happy": ("happy", "happiness"),
    "sad": ("sad", "sadness"),
    "surprise": ("surprise", "surprised"),
    "neutral": ("neutral", "neutrality"),
}
_USAGE_OF: Final = {alias: usage for usage, aliases in _USAGES.items() for alias in aliases}
_EMOTION_OF: Final = {alias: emotion for emotion, aliases in _EMOTIONS.items() for alias in aliases}
_OFFICIAL_PICTURE: Final = re.compile(r"(?:.*[/\\])?(Training|PublicTest|PrivateTest)_\d+\.\w+")


def usage_of_folder(name: str) -> str | None:
    """The usage that a split folder's name means (`val`, `Public_Test`: PublicTest), or None."""
    return _USAGE_OF.get(re.sub(r"[-_ ]", "", name.lower()))


def usage_of_picture(path: str) -> str | None:
    """The usage that a picture of Kaggle's layout carries in its name (`Training_123.jpg`), or None."""
    match = _OFFICIAL_PICTURE.fullmatch(path)
    return match[1] if match else None


def emotion_of_folder(name: str) -> str | None:
    """FER2013's name of the class that a folder means (`Happiness`: happy), or None if it has none."""
    return _EMOTION_OF.get(name.strip().lower())


def walk(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every file under a folder as (relative path with `/`, entry), links followed, hidden ones left out."""

    def inside(place: str, prefix: str, depth: int) -> Iterator[tuple[str, os.DirEntry[str]]]:
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    yield prefix + entry.name, entry
                elif depth:
                    yield from inside(entry.path, f"{prefix}{entry.name}/", depth - 1)

    return inside(str(folder), "", _DEPTH)


def find_fer2013(folder: str | Path) -> Path | None:
    """Looks for FER2013 in a data folder under its usual names, in any case; the csv wins over the JPEGs.

    Args:
        folder: Where to look: `fer2013.csv` (also .gz, .xz), `icml_face_data.csv`, their archives as Kaggle
            names them, the folders `train` and `test` with FER2013's classes, and deeper, in `fer2013/`.

    Returns:
        The file or folder to give to `read_faces`, or None.
    """
    folder = Path(os.path.expanduser(folder))
    try:
        inside = {path.name.lower(): path for path in sorted(folder.iterdir())}
    except OSError:
        return None
    for name in _FILES:
        path = inside.get(name)
        if path is not None and path.is_file() and (name != "archive.zip" or _zip_holds_fer2013(path)):
            return path
    if "test" in inside and "train" in inside and _has_emotions(inside["train"]):
        return folder
    for name in _FOLDERS:
        if name in inside and inside[name].is_dir() and (found := find_fer2013(inside[name])):
            return found
    return None


def has_parts(folder: Path) -> bool:
    """Whether a folder holds one that is named as the part of a data set, `train` or `PublicTest`."""
    return any(usage_of_folder(path.name) and path.is_dir() for path in folder.iterdir())


def _has_emotions(folder: Path) -> bool:
    try:
        return {emotion_of_folder(path.name) for path in folder.iterdir()} >= set(_EMOTIONS)
    except OSError:
        return False


def _zip_holds_fer2013(path: Path) -> bool:
    """Kaggle calls every download archive.zip, so that name alone says nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    return any(name.rpartition("/")[2] in CSV_NAMES or usage_of_picture(name) for name in names)
