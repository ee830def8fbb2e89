"""Memory-mapped cache of a data set, written on the first read; it opens in milliseconds."""

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

_VERSION: Final = 2  # increase when the stored format or the reading of a source changes
_HASHED_BYTES: Final = 1 << 16  # at either end of a source file
_STALE_SECONDS: Final = 86_400  # age of an incomplete folder that no process writes any more
_COLUMNS: Final = ("labels", "usage", "names")
_MAX_CHECKED_BYTES: Final = 1 << 28  # file size up to which checksums are verified on opening; 0.1 s
_log = logging.getLogger(__name__)


def read_cached(
    source: Path, options: Mapping[str, object], read: Callable[[BinaryIO], FaceArrays], *, beside: bool = True
) -> FaceArrays:
    """Open the cache of a source, or read the source and write the cache.

    The cache is in `.fer_lightning_cache/` beside the source or, if that is not writable, in the user's cache folder;
    if neither is writable, the data set is read into memory. It is written under a temporary name and renamed when
    complete, so incomplete caches are never read and concurrent processes do not conflict. A damaged cache (files of
    up to 256 MiB are verified by checksum) is rebuilt; caches of earlier states of the source are removed.

    Args:
        source: File or folder. A change of its path, size, time, first or last bytes leads to a new cache.
        options: Other values that determine the result.
        read: Reads the source and writes its pixels to the given empty file.
        beside: Whether the cache may be beside the source; otherwise only in the user's cache folder.

    Returns:
        The result of `read`, with memory-mapped images.

    Raises:
        OSError: The source cannot be accessed.
    """
    source = source.absolute()  # links are not resolved, so that the cache is beside the given path
    slot = _digest(str(source), json.dumps(options, sort_keys=True))
    entry = f"{slot}-{_digest(str(_VERSION), _source_state(source))}"
    roots = [source.parent / CACHE_FOLDER, user_cache()][0 if beside else 1 :]
    for root in roots:
        if (faces := load(root / entry)) is not None:
            return faces
    for root in roots:
        try:
            return _write(root, slot, entry, read)
        except OSError as error:
            _log.info("cannot write the cache in %s: %s", root, error)
    return read(io.BytesIO())


def load(folder: Path) -> FaceArrays | None:
    """Open a cached data set; None if it is missing or damaged."""
    try:
        info = json.loads((folder / "about.json").read_text("utf-8"))
        files = [folder / f"{name}.npy" for name in ("images", *_COLUMNS)]
        if not all(file.is_file() for file in files) or info.pop("checksums") != {f.name: _checksum(f) for f in files}:
            return None
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        columns = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in _COLUMNS}
        texts = {name: info[name] for name in ("name", "fingerprint")}
        classes, skipped = tuple(info["classes"]), tuple(info["skipped"])
        if not all(isinstance(text, str) for text in (*texts.values(), *classes, *skipped)):
            return None
        faces = FaceArrays(images=images, classes=classes, skipped=skipped, **columns, **texts)
        return faces if _is_valid(faces) else None
    except Exception:  # damaged files make json and NumPy raise arbitrary exceptions
        return None


def _is_valid(faces: FaceArrays) -> bool:
    """Whether every column has valid types and values; a data set from others may include a cache of any content."""
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


def _write(root: Path, slot: str, entry: str, read: Callable[[BinaryIO], FaceArrays]) -> FaceArrays:
    """Write a data set to a temporary folder, rename it and open the result; raises OSError if that fails."""
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    if not existing.stat().st_mode & 0o222:  # root is not stopped by the permissions
        raise PermissionError(f"{existing} is read-only")
    root.mkdir(parents=True, exist_ok=True)
    (root / ".gitignore").write_text("*\n", "utf-8")
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
        info = {name: getattr(faces, name) for name in ("classes", "name", "fingerprint", "skipped")}
        info["checksums"] = {path.name: _checksum(path) for path in folder.iterdir()}
        with (folder / "about.json").open("w", encoding="utf-8") as text:
            json.dump(info, text)
            text.flush()
            os.fsync(text.fileno())
        del faces  # some systems cannot rename files that are mapped
        sync_folder(folder)
        _remove_outdated(root, slot, entry)
        try:
            folder.rename(root / entry)
        except OSError:  # another process finished first
            _log.info("%s was written by another process", entry)
        sync_folder(root)
        stored = load(root / entry)
        if stored is None:
            raise OSError(f"{root / entry} cannot be read back")
        return stored
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _checksum(path: Path) -> int | None:
    """CRC-32 of a file; None if it is too large to be read on every opening."""
    if path.stat().st_size > _MAX_CHECKED_BYTES:
        return None
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


def _remove_outdated(root: Path, slot: str, entry: str) -> None:
    """Remove caches of other states of the source, a damaged cache of this state, and stale temporary folders."""
    for folder in root.glob(f"{slot}-*"):
        if folder.name != entry or load(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
    for folder in root.glob(".*.tmp"):
        with suppress(OSError):  # its process may finish meanwhile
            if time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _source_state(source: Path) -> str:
    """State of a source: size, time and hash of both ends of a file; names, sizes and times of a folder's files."""
    state = source.stat()
    if source.is_dir():
        files = ((name, _file_state(entry)) for name, entry in walk(source))
        return repr(sorted((name, file.st_size, file.st_mtime_ns) for name, file in files))
    with source.open("rb") as file:
        ends = file.read(_HASHED_BYTES)
        file.seek(max(0, state.st_size - _HASHED_BYTES))
        ends += file.read(_HASHED_BYTES)
    return f"{state.st_size} {state.st_mtime_ns} {hashlib.sha256(ends).hexdigest()}"


def _file_state(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except FileNotFoundError:  # a broken link, which is reported when it is read
        return entry.stat(follow_symlinks=False)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]
