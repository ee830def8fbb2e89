"""Atomic writes, free names, checks that a path is writable, file hashes and short error messages."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Context manager that yields a temporary path beside `path` and renames it to `path` on success.

    After an error, `path` is unchanged.

    Args:
        path: The file; missing parent folders are created.

    Raises:
        OSError: The file cannot be written; `filename` is `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as written:  # Windows synchronises only what is open for writing
            os.fsync(written.fileno())  # otherwise a power failure can leave an empty file under this name
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.filename in (str(temporary), temporary):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON file atomically and return its path."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return path


@cache  # Hydra resolves `hydra.run.dir` more than once
def unique_folder(preferred: str) -> str:
    """Create the folder of a new run, with a number appended if it exists (two runs started in the same second).

    Returns:
        The path of the folder.

    Raises:
        OSError: The folder cannot be created.
    """
    Path(preferred).parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = free_path(Path(preferred))
        with suppress(FileExistsError):  # another process has just created it
            folder.mkdir()
            return str(folder)


def free_path(path: Path, suffix: str = "", first: int = 2) -> Path:
    """Return the first path that does not exist: `path`, else `path_2`, `path_3` and so on.

    Args:
        path: The preferred path, without the suffix.
        suffix: The end of the name, after the number.
        first: The number to start with.
    """
    free = path.with_name(f"{path.name}{suffix}")
    numbers = itertools.count(first)
    while os.path.lexists(free):
        free = path.with_name(f"{path.name}_{next(numbers)}{suffix}")
    return free


def check_writable(path: Path, argument: str) -> None:
    """Check that a path can be written, without creating anything.

    Args:
        path: A file or folder that may not exist yet.
        argument: The command-line argument that names it, for the message.

    Raises:
        ValueError: The path cannot be written.
    """
    existing = path
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if existing == path and path.is_file():
        existing = path.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(f"{argument}: {existing} cannot be written to ({error.strerror})") from None


def error_message(error: Exception) -> str:
    """Return the message of an error; for an OSError on a file without the errno: `results.csv: Permission denied`."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def one_line(error: BaseException) -> str:
    """Return the message of a library's error on one line of at most 300 characters, or its type if there is none."""
    message = textwrap.shorten(str(error), 300)
    return message if message and not isinstance(error, LookupError) else f"{type(error).__name__} {message}".strip()


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def user_cache() -> Path:
    """Return the user's cache folder, for files that can be recreated; it is not created here."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fer_lightning"


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk so that a rename survives a power failure; POSIX only."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
