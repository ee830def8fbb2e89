"""Atomic writes, and checks that a place can be written to before there is anything to lose."""

from __future__ import annotations

import hashlib
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
    """Gives a file beside `path` to write to, which takes its place at the end; after an error it is as before.

    Args:
        path: The file; its folders are made.

    Raises:
        OSError: It cannot be written; `filename` is `path`.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())  # else after a power cut the name may stand for an empty file
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.filename in (str(aside), aside):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Writes a JSON file, whole or not at all."""
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(content, indent=2) + "\n")
    return path


@cache  # Hydra resolves `hydra.run.dir` more than once
def unique_folder(fresh: str) -> str:
    """The folder of a new run, made; another name where a run that started in the same second has it.

    Raises:
        OSError: It cannot be made.
    """
    Path(fresh).parent.mkdir(parents=True, exist_ok=True)
    folder, number = fresh, 1
    while True:
        try:
            Path(folder).mkdir()
            return folder
        except FileExistsError:
            number += 1
            folder = f"{fresh}_{number}"


def check_place(path: Path, named: str) -> None:
    """Tries whether something could be written, and makes nothing.

    Args:
        path: A file or folder that may not be there yet.
        named: The word of the command line that names it, for the message.

    Raises:
        ValueError: It could not.
    """
    above = path
    while not os.path.lexists(above) and above != above.parent:
        above = above.parent
    if above == path and path.is_file():
        above = path.parent
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise ValueError(f"{named}: {above} cannot be written to ({error.strerror})") from None


def error_message(error: Exception) -> str:
    """An error's message; of what the system says of a file without the number: `results.csv: Permission denied`."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def one_line(error: BaseException) -> str:
    """The message of a library's error as one short line; its type where it has none."""
    message = textwrap.shorten(str(error), 300)
    return message if message and not isinstance(error, LookupError) else f"{type(error).__name__} {message}".strip()


def sha256(path: Path) -> str:
    """The hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def user_cache() -> Path:
    """The user's folder for what can be made or fetched again; not made."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fer_lightning"


def sync_folder(folder: Path) -> None:
    """Makes a rename last through a power cut, where folders can be synchronised at all."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
