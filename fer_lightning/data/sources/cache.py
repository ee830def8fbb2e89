"""The memory-mapped copy of a data set that its first read leaves beside it; it opens in milliseconds."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final
from uuid import uuid4

import numpy as np

from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.sources.locate import walk
from fer_lightning.files import sync_folder, user_cache
from fer_lightning.labels import USAGES

CACHE_FOLDER: Final = ".fer_lightning_cache"

_VERSION: Final = 2  # raise it when what is stored, or how a source is read, changes
_EDGE: Final = 1 << 16  # bytes at either end of a file that are hashed
_ABANDONED: Final = 86_400  # seconds after which a half-written folder has no writer any more
_COLUMNS: Final = ("labels", "usage", "names")
_CHECKED: Final = 1 << 28  # bytes of pixels up to which a set is checked when it is opened; 0.1 s
_log = logging.getLogger(__name__)


def cached(
    source: Path, options: Mapping[str, object], read: Callable[[BinaryIO], FaceArrays], *, beside: bool = True
) -> FaceArrays:
    """Opens the cache of a source or makes it.

    It lies in `.fer_lightning_cache/` beside the source or, where that cannot be written, in the user's cache
    folder; where neither can, the set is read into memory. It is written under another name and renamed when
    complete, so it is never seen half-written and two processes do not disturb each other. A damaged one, down to a
    flipped bit in sets of up to 256 MiB, is made anew, one of an older state of the same source is removed.

    Args:
        source: File or folder. A change of it (path, size, time, first and last bytes) leads to a new cache.
        options: What else the result depends on.
        read: Reads the source, its pixels into the given empty file.
        beside: Whether it may lie beside the source; otherwise in the user's cache folder alone.

    Returns:
        What `read` returned, with memory-mapped images.

    Raises:
        OSError: The source cannot be looked at.
    """
    source = source.absolute()  # links are kept, so that the cache lies beside what the user named
    slot = _digest(str(source), json.dumps(options, sort_keys=True))
    entry = f"{slot}-{_digest(str(_VERSION), _identity(source))}"
    roots = [source.parent / CACHE_FOLDER, user_cache()][0 if beside else 1 :]
    for root in roots:
        if (faces := load(root / entry)) is not None:
            return faces
    for root in roots:
        try:
            return _store(root, slot, entry, read)
        except OSError as error:
            _log.info("no cache in %s: %s", root, error)
    return read(io.BytesIO())


def load(folder: Path) -> FaceArrays | None:
    """Opens a stored set, or returns None if it is not there or damaged."""
    try:
        about = json.loads((folder / "about.json").read_text("utf-8"))
        files = [folder / f"{name}.npy" for name in ("images", *_COLUMNS)]
        if not all(file.is_file() for file in files) or about.pop("checksums") != {f.name: _checksum(f) for f in files}:
            return None
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        columns = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in _COLUMNS}
        told = {name: about[name] for name in ("name", "fingerprint")}
        classes, skipped = tuple(about["classes"]), tuple(about["skipped"])
        if not all(isinstance(text, str) for text in (*told.values(), *classes, *skipped)):
            return None
        faces = FaceArrays(images=images, classes=classes, skipped=skipped, **columns, **told)
        return faces if _fits(faces) else None
    except Exception:  # what is damaged makes json and NumPy raise anything
        return None


def _fits(faces: FaceArrays) -> bool:
    """Whether every column is what it stands for; a set that somebody sent may bring a cache of any content."""
    labels, images = faces.labels, faces.images
    return (
        (labels.dtype.kind, faces.usage.dtype.kind, faces.names.dtype.kind) == ("i", "U", "S")
        and (labels.ndim, faces.usage.ndim, faces.names.ndim) == (1, 1, 1)
        and (images.ndim == 3 or images.shape[3] == 3)
        and images[:1].size > 0
        and labels.min() >= 0
        and labels.max() < len(faces.classes)
        and bool(np.isin(faces.usage, USAGES).all())
    )


def _store(root: Path, slot: str, entry: str, read: Callable[[BinaryIO], FaceArrays]) -> FaceArrays:
    """Writes a set into a temporary folder and renames that; raises OSError where it cannot be written."""
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    if not existing.stat().st_mode & 0o222:  # the superuser could write here, but somebody said not to
        raise PermissionError(f"{existing} is read-only")
    root.mkdir(parents=True, exist_ok=True)
    (root / ".gitignore").write_text("*\n")
    folder = root / f".{uuid4().hex}.tmp"
    folder.mkdir()
    try:
        with (folder / "images.npy").open("w+b") as file:
            faces = read(file)
            os.fsync(file.fileno())
        for name in _COLUMNS:
            with (folder / f"{name}.npy").open("wb") as file:
                np.save(file, getattr(faces, name), allow_pickle=False)
                os.fsync(file.fileno())
        about = {name: getattr(faces, name) for name in ("classes", "name", "fingerprint", "skipped")}
        about["checksums"] = {path.name: _checksum(path) for path in folder.iterdir()}
        with (folder / "about.json").open("w", encoding="utf-8") as text:
            json.dump(about, text)
            text.flush()
            os.fsync(text.fileno())
        del faces  # an open map keeps some systems from renaming
        sync_folder(folder)
        _remove_outdated(root, slot, entry)
        try:
            folder.rename(root / entry)
        except OSError:  # another process was faster
            _log.info("%s was made by another process", entry)
        sync_folder(root)
        stored = load(root / entry)
        if stored is None:
            raise OSError(f"{root / entry} cannot be read back")
        return stored
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _checksum(path: Path) -> int | None:
    """CRC-32 of a file, which finds a flipped bit; None of one that is too large to be read each time."""
    if path.stat().st_size > _CHECKED:
        return None
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            crc = zlib.crc32(piece, crc)
    return crc


def _remove_outdated(root: Path, slot: str, entry: str) -> None:
    """Removes other states of the source, a damaged cache of this one, and what killed processes left."""
    for folder in root.glob(f"{slot}-*"):
        if folder.name != entry or load(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
    for folder in root.glob(".*.tmp"):
        with suppress(OSError):  # its writer may finish meanwhile
            if time.time() - folder.stat().st_mtime > _ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)


def _identity(source: Path) -> str:
    """Changes when the source does: a file's size, time and ends; a folder's files with size and time."""
    state = source.stat()
    if source.is_dir():
        files = ((name, _file_state(entry)) for name, entry in walk(source))
        return repr(sorted((name, file.st_size, file.st_mtime_ns) for name, file in files))
    with source.open("rb") as file:
        ends = file.read(_EDGE)
        file.seek(max(0, state.st_size - _EDGE))
        ends += file.read(_EDGE)
    return f"{state.st_size} {state.st_mtime_ns} {hashlib.sha256(ends).hexdigest()}"


def _file_state(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except FileNotFoundError:  # a link to nowhere, which the reading will name
        return entry.stat(follow_symlinks=False)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]
