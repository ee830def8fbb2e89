"""Usual names of FER2013's files, folders, parts and classes, and the search for it. Imports no large packages."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CSV_NAMES: Final = ("fer2013.csv", "icml_face_data.csv")
"""The csv of the challenge and its variant (other column order, spaces in the header), in order of preference."""

_FILES: Final = (
    *(name + ending for name in CSV_NAMES for ending in ("", ".gz", ".xz")),
    *("fer2013" + ending for ending in (".zip", ".tar.gz", ".tgz", ".csv.zip")),
    "challenges-in-representation-learning-facial-expression-recognition-challenge.zip",
    *("fer2013-kaggle.zip", "fer-2013.zip", "archive.zip"),
)
_FOLDERS: Final = ("fer2013", "fer-2013", "fer2013-kaggle", "archive")
_MAX_DEPTH: Final = 6  # wrapper/wrapper/split/class/image and one more level; also stops cycles of links

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
_OFFICIAL_FILE_NAME: Final = re.compile(r"(?:.*[/\\])?(Training|PublicTest|PrivateTest)_\d+\.\w+")


def usage_of_folder(name: str) -> str | None:
    """Return the usage that a split folder's name denotes (`val`, `Public_Test`: PublicTest), or None."""
    return _USAGE_OF.get(re.sub(r"[-_ ]", "", name.lower()))


def usage_of_image(path: str) -> str | None:
    """Return the usage in the file name of an image in Kaggle's layout (`Training_123.jpg`), or None."""
    match = _OFFICIAL_FILE_NAME.fullmatch(path)
    return match[1] if match else None


def emotion_of_folder(name: str) -> str | None:
    """Return the FER2013 class that a folder name denotes (`Happiness`: happy), or None."""
    return _EMOTION_OF.get(name.strip().lower())


def walk(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield every file under a folder as (relative path with `/`, entry); follows links, skips hidden files."""

    def entries_of(path: str, prefix: str, depth: int) -> Iterator[tuple[str, os.DirEntry[str]]]:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    yield prefix + entry.name, entry
                elif depth:
                    yield from entries_of(entry.path, f"{prefix}{entry.name}/", depth - 1)

    return entries_of(str(folder), "", _MAX_DEPTH)


def find_fer2013(folder: str | Path) -> Path | None:
    """Search a data folder for FER2013 under its usual names, case-insensitively; a csv is preferred to JPEGs.

    Args:
        folder: The folder to search: for `fer2013.csv` (also .gz, .xz), `icml_face_data.csv`, archives of them with
            Kaggle's names, the folders `train` and `test` with FER2013's classes, and all of these in `fer2013/`.

    Returns:
        The file or folder to pass to `read_faces`, or None.
    """
    folder = Path(os.path.expanduser(folder))
    try:
        entries = {path.name.lower(): path for path in sorted(folder.iterdir())}
    except OSError:
        return None
    for name in _FILES:
        path = entries.get(name)
        if path is not None and path.is_file() and (name != "archive.zip" or _zip_holds_fer2013(path)):
            return path
    if "test" in entries and "train" in entries and _has_emotion_folders(entries["train"]):
        return folder
    for name in _FOLDERS:
        if name in entries and entries[name].is_dir() and (found := find_fer2013(entries[name])):
            return found
    return None


def has_split_folders(folder: Path) -> bool:
    """Whether a folder contains a split folder, such as `train` or `PublicTest`."""
    return any(usage_of_folder(path.name) and path.is_dir() for path in folder.iterdir())


def _has_emotion_folders(folder: Path) -> bool:
    try:
        return {emotion_of_folder(path.name) for path in folder.iterdir()} >= set(_EMOTIONS)
    except OSError:
        return False


def _zip_holds_fer2013(path: Path) -> bool:
    """Whether a zip contains FER2013; Kaggle names every download archive.zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    return any(name.rpartition("/")[2] in CSV_NAMES or usage_of_image(name) for name in names)
