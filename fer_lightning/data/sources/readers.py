"""FER2013 as people have it, and any folder of pictures, as FaceArrays."""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fer_lightning.data.arrays import DataError, FaceArrays
from fer_lightning.data.sources.cache import cached
from fer_lightning.data.sources.chunks import Chunk, assemble, ordered_map
from fer_lightning.data.sources.fer2013_csv import read_csv
from fer_lightning.data.sources.image_folder import (
    Tree,
    fit,
    folder_reader,
    is_picture,
    picture_tree,
    read_pictures,
    zip_reader,
)
from fer_lightning.data.sources.locate import CSV_NAMES, find_fer2013, has_parts, walk
from fer_lightning.labels import EMOTIONS, FERPLUS_COLUMNS

if TYPE_CHECKING:
    from _typeshed import SupportsRead

__all__ = ["find_fer2013", "read_faces", "read_fer2013"]

_SHOWN: Final = 5  # bad pictures that an error lists
_UNPACKED: Final = 1 << 29  # bytes that any archive may unpack to; FER2013's csv has 300 million
_RATIO: Final = 20  # times its size that a larger archive may unpack to; FER2013's csv has 4
_HEADER: Final = 1 << 20  # bytes of a tar member's name and notes, which are read at once


class _Bounded(io.RawIOBase):
    """A stream of what an archive unpacks to, within bounds; the file behind it is `source`."""

    def __init__(self, stream: SupportsRead[bytes], source: Path) -> None:
        self._stream, self._source = stream, source
        self._limit = self._left = max(_UNPACKED, _RATIO * source.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise DataError(f"{self._source} unpacks to over {self._limit:,} bytes; do not trust this file")
        buffer[: len(data)] = data
        return len(data)


class _Member(tarfile.TarInfo):
    """A member of a tar archive whose header has a size that one can have."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _NOTES and member.size > _HEADER:
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        return member


_NOTES: Final = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class _Reading(NamedTuple):
    """A source that was recognised and opened."""

    chunks: Iterator[Chunk]
    classes: tuple[str, ...]
    name: str


def read_fer2013(
    path: str | Path | None = None,
    data_folder: str | Path = "data",
    votes_path: str | Path | None = None,
    on_error: str = "stop",
) -> FaceArrays:
    """Reads FER2013, found in a data folder unless a path is given.

    Args:
        path: The csv, an archive of it, or Kaggle's picture folders or their zip (`read_faces`).
        data_folder: Where to look without a path (`find_fer2013`).
        votes_path: FER+'s `fer2013new.csv`, or None.
        on_error: `stop` or `skip`, see `read_faces`.

    Raises:
        DataError: There is none, it has other classes, or anything that `read_faces` raises.
    """
    found = find_fer2013(data_folder) if path is None else find_fer2013(path) or Path(path)
    if found is None:
        raise DataError(
            f"no FER2013 in {Path(os.path.expanduser(data_folder)).absolute()}; put fer2013.csv or Kaggle's "
            "archive.zip there, or set data.path to it. data=synthetic trains without any data set"
        )
    faces = read_faces(found, votes_path=votes_path, on_error=on_error)
    if faces.classes != EMOTIONS:
        raise DataError(f"{found} has the classes {', '.join(faces.classes)}, not FER2013's; read it with data=folder")
    return faces


def read_faces(
    path: str | Path,
    *,
    votes_path: str | Path | None = None,
    on_error: str = "stop",
    image_size: int | None = None,
    channels: int | None = None,
    name: str | None = None,
    cache: bool = True,
) -> FaceArrays:
    """Reads a data set of faces; what it is shows from its content and names.

    - The csv of the FER2013 challenge, plain, as .gz or .xz, or in a zip or tar archive.
    - Pictures as `split/class/picture`, in a folder or a zip. File names as in Kaggle's FER2013
      (`PublicTest_1.jpg`) tell the usage, else the split folder does: train is Training, val is PublicTest,
      test is PrivateTest. Folders that mean FER2013's seven classes (`Anger`, `happiness`) get its names.
    - A folder without split folders in which one of these lies under a usual name.

    Archives are read in place, nothing is unpacked. After the first read a memory-mapped cache is opened.

    Args:
        path: File or folder.
        votes_path: FER+'s `fer2013new.csv`, joined to the csv by row, or None.
        on_error: What to do about single bad pictures: `stop` lists them in an error, `skip` leaves them out
            and lists them in `FaceArrays.skipped`. A damaged archive or a missing column always stops.
        image_size: Pixels a side to scale all pictures to; None keeps their size, which must then be one.
        channels: 1 turns all pictures gray, 3 makes them RGB, None keeps them.
        name: Of the set; by itself `fer2013`, `fer2013_kaggle` for Kaggle's JPEGs, else the folder's name.
        cache: Whether to keep and use the cache.

    Raises:
        DataError: The data is not what it should be; the message names file and place.
        ValueError: An argument is not one of its values.
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f"data.on_error is {on_error!r}; it must be 'stop' or 'skip'")
    if channels not in (None, 1, 3):
        raise ValueError(f"data.channels is {channels!r}; it must be 1, 3 or null")
    if image_size is not None and not 1 <= image_size <= 4096:
        raise ValueError(f"data.image_size is {image_size!r}; it must be from 1 to 4096, or null")
    source = Path(os.path.expanduser(path))

    def read(file: BinaryIO) -> FaceArrays:
        with ExitStack() as stack:
            with _named_errors(source):
                chunks, classes, default_name = _open(source, stack, image_size, channels)
            guarded = _guarded(chunks, source)  # not `assemble`: that `file` cannot be written is no fault of the data
            return assemble(guarded, file, source=source.name, classes=classes, name=default_name)

    with _named_errors(source):
        if source.is_dir() and not has_parts(source):
            source = find_fer2013(source) or source
        options = {"image_size": image_size, "channels": channels}
        faces = cached(source, options, read) if cache else read(io.BytesIO())
    if faces.skipped and on_error == "stop":
        more = len(faces.skipped) - _SHOWN
        listed = [*faces.skipped[:_SHOWN], *([f"and {more:,} more"] if more > 0 else [])]
        raise DataError(
            f"{source}: {len(faces.skipped):,} of {len(faces) + len(faces.skipped):,} cannot be used:"
            + "".join(f"\n  {line}" for line in listed)
            + "\nRepair them, or set data.on_error=skip to leave them out"
        )
    if votes_path is not None:
        faces = replace(faces, votes=_votes_of(faces, Path(os.path.expanduser(votes_path)), source))
    return replace(faces, name=name) if name else faces


@contextmanager
def _named_errors(source: Path) -> Iterator[None]:
    """Turns what reading a file can raise into a DataError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{source}: there is no such file or folder") from None
    except PermissionError:
        raise DataError(f"{source}: no permission to read it") from None
    except (
        EOFError,
        csv.Error,
        gzip.BadGzipFile,
        lzma.LZMAError,
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(f"{source} is truncated or damaged ({error}); copy or download it again") from error
    except (
        OSError,
        RuntimeError,
        NotImplementedError,
    ) as error:  # the last two: a zip with a password, a rare method
        raise DataError(f"{source} cannot be read ({error})") from error


def _guarded(chunks: Iterator[Chunk], source: Path) -> Iterator[Chunk]:
    with _named_errors(source):
        yield from chunks


def _open(source: Path, stack: ExitStack, image_size: int | None, channels: int | None) -> _Reading:
    """Recognises a source; the files that it opens are closed with `stack`."""
    if source.is_dir():
        tree = picture_tree((name for name, _ in walk(source)), str(source))
        chunks = read_pictures(tree, folder_reader(source), image_size=image_size, channels=channels)
        return _Reading(chunks, tree.classes, _tree_name(tree, source.absolute().name))
    raw = stack.enter_context(source.open("rb"))
    start = raw.peek(6)
    if not start:
        raise DataError(f"{source} is empty")
    if start.startswith(b"PK"):
        archive = stack.enter_context(zipfile.ZipFile(raw))
        members = [member.filename for member in archive.infolist() if not member.filename.endswith("/")]
        for path in members:
            _check_inside(path, source)
        csv_member = _csv_member(members)
        if csv_member is None:
            tree = picture_tree(members, str(source))
            chunks = read_pictures(tree, zip_reader(archive), image_size=image_size, channels=channels)
            return _Reading(chunks, tree.classes, _tree_name(tree, source.stem))
        member = io.BufferedReader(_Bounded(stack.enter_context(archive.open(csv_member)), source))
        chunks = read_csv(member, f"{source}/{csv_member}")
    else:
        stream = raw
        if start.startswith(b"\x1f\x8b"):
            stream = io.BufferedReader(_Bounded(stack.enter_context(gzip.GzipFile(fileobj=raw)), source))
        elif start.startswith(b"\xfd7zXZ\0"):
            stream = io.BufferedReader(_Bounded(stack.enter_context(lzma.LZMAFile(raw)), source))  # noqa: SIM115
        is_tar = stream.peek(512)[257:262] == b"ustar"
        chunks = _read_tar(stream, source) if is_tar else read_csv(stream, str(source))
    if image_size is not None or channels == 3:
        chunks = ordered_map(lambda chunk: _fitted(chunk, image_size, channels), chunks)
    return _Reading(chunks, EMOTIONS, "fer2013")


def _tree_name(tree: Tree, own: str) -> str:
    if tree.official and tree.classes == EMOTIONS:
        return "fer2013_kaggle"
    return "folder_synthetic" if own == "synthetic" else own  # `synthetic` are drawn faces


def _csv_member(members: list[str]) -> str | None:
    """The challenge's csv by name, best first, or a lone csv in an archive without pictures."""
    for name in CSV_NAMES:
        for member in members:
            if PurePosixPath(member).name.lower() == name:
                return member
    others = [member for member in members if member.lower().endswith(".csv")]
    return others[0] if len(others) == 1 and not any(map(is_picture, members)) else None


def _read_tar(stream: BinaryIO, source: Path) -> Iterator[Chunk]:
    """Reads the csv of a tar archive as it streams by, and on to the end, so that its checksum is checked."""
    found = False
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive:
        for member in archive:
            _check_inside(member.name, source)
            content = archive.extractfile(member) if _csv_member([member.name]) and not found else None
            if content is not None:
                found = True
                yield from read_csv(cast(BinaryIO, content), f"{source}/{member.name}")
    while stream.read(1 << 20):
        pass
    if not found:
        raise DataError(f"{source} has no {' or '.join(CSV_NAMES)} in it; unpack it and set data.path to the folder")


def _check_inside(member: str, source: Path) -> None:
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        raise DataError(f"{source}: the path {member!r} climbs out of the archive; do not trust this file")


def _fitted(chunk: Chunk, image_size: int | None, channels: int | None) -> Chunk:
    images = [fit(Image.fromarray(image), image_size, channels) for image in chunk.images]
    return replace(chunk, images=np.stack(images)) if images else chunk


def _votes_of(faces: FaceArrays, path: Path, source: Path) -> NDArray[np.float32]:
    """FER+ votes of each picture, (N, 10), by row: the numbers in `Image name` drift from the rows."""
    if not faces.names[0].startswith(b"row "):
        raise DataError(f"{path}: votes can only be joined to FER2013's csv, by row; {source} is not that csv")
    with _named_errors(path):
        usage, votes = _read_votes(path)
    rows = len(faces) + len(faces.skipped)  # every row of the csv is in one of them
    if len(votes) != rows:
        raise DataError(f"{path} has {len(votes):,} rows and {source} has {rows:,}; they must list the same pictures")
    kept = np.array([int(name[4:]) for name in faces.names.tolist()]) - 1
    differing = np.flatnonzero(usage[kept] != faces.usage)
    if len(differing):
        at = differing[0]
        raise DataError(
            f"{path}: row {kept[at] + 1} is {str(usage[kept[at]])!r}, but {faces.usage[at]} in {source}; "
            "both must list the same pictures in the same order"
        )
    joined: NDArray[np.float32] = votes[kept]
    return joined


def _read_votes(path: Path) -> tuple[NDArray[np.str_], NDArray[np.float32]]:
    """Usage (N,) and votes (N, 10) of FER+'s csv."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file)
        header = [name.strip().lower() for name in next(rows, [])]
        for needed in ("Usage", *FERPLUS_COLUMNS):
            if needed.lower() not in header:
                raise DataError(
                    f"{path} has no column {needed!r}; FER+'s fer2013new.csv has {', '.join(FERPLUS_COLUMNS)}"
                )
        usage_column = header.index("usage")
        columns = [header.index(name.lower()) for name in FERPLUS_COLUMNS]
        usage: list[str] = []
        votes: list[list[float]] = []
        for row in filter(None, rows):
            if len(row) != len(header):
                raise DataError(f"{path}, row {len(votes) + 1}: {len(row)} columns, the header has {len(header)}")
            counts = [row[column].strip() for column in columns]
            for column, count in zip(FERPLUS_COLUMNS, counts, strict=True):
                if not (count.isascii() and count.isdigit() and len(count) <= 3):
                    raise DataError(f"{path}, row {len(votes) + 1}: {column} is {count[:20]!r}, not a number of votes")
            usage.append(row[usage_column].strip())
            votes.append([float(count) for count in counts])
    return np.array(usage, "U"), np.array(votes, np.float32).reshape(-1, len(FERPLUS_COLUMNS))
