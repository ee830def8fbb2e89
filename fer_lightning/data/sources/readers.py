"""Readers of FER2013 in all its formats and of any image folder, as FaceArrays."""

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
from fer_lightning.data.sources.cache import read_cached
from fer_lightning.data.sources.chunks import Chunk, assemble, ordered_map
from fer_lightning.data.sources.fer2013_csv import read_csv
from fer_lightning.data.sources.image_folder import (
    ImageTree,
    convert_image,
    find_image_tree,
    folder_reader,
    is_image_path,
    read_images,
    zip_reader,
)
from fer_lightning.data.sources.locate import CSV_NAMES, find_fer2013, has_split_folders, walk
from fer_lightning.labels import EMOTIONS, FERPLUS_COLUMNS

if TYPE_CHECKING:
    from _typeshed import SupportsRead

__all__ = ["find_fer2013", "read_faces", "read_fer2013"]

_LISTED_PROBLEMS: Final = 5  # in an error message
_MAX_UNPACKED: Final = 1 << 29  # bytes that any archive may unpack to; FER2013's csv has 300 million
_MAX_RATIO: Final = 20  # times its size that a larger archive may unpack to; FER2013's csv has 4
_MAX_TAR_HEADER: Final = 1 << 20  # bytes; extended headers are read into memory at once


class _LimitedStream(io.RawIOBase):
    """The unpacked stream of the archive `source`, limited in size to protect from archive bombs."""

    def __init__(self, stream: SupportsRead[bytes], source: Path) -> None:
        self._stream, self._source = stream, source
        self._limit = self._left = max(_MAX_UNPACKED, _MAX_RATIO * source.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise DataError(f"{self._source} unpacks to over {self._limit:,} bytes; do not trust this file")
        buffer[: len(data)] = data
        return len(data)


class _CheckedTarInfo(tarfile.TarInfo):
    """A tar member whose extended headers are limited in size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _EXTENDED_HEADERS and member.size > _MAX_TAR_HEADER:
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        return member


_EXTENDED_HEADERS: Final = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class _OpenSource(NamedTuple):
    """An opened source: its chunks, classes and default name."""

    chunks: Iterator[Chunk]
    classes: tuple[str, ...]
    name: str


def read_fer2013(
    path: str | Path | None = None,
    data_folder: str | Path = "data",
    votes_path: str | Path | None = None,
    on_error: str = "stop",
) -> FaceArrays:
    """Read FER2013 from a path or, by default, from a data folder.

    Args:
        path: The csv, an archive of it, or Kaggle's image folders or their zip (`read_faces`).
        data_folder: The folder to search if no path is given (`find_fer2013`).
        votes_path: FER+'s `fer2013new.csv`, or None.
        on_error: `stop` or `skip`, see `read_faces`.

    Raises:
        DataError: FER2013 is not found, the classes are others, or `read_faces` raises it.
    """
    found = find_fer2013(data_folder) if path is None else find_fer2013(path) or Path(path)
    if found is None:
        raise DataError(
            f"FER2013 not found in {Path(os.path.expanduser(data_folder)).absolute()}; put fer2013.csv or Kaggle's "
            "archive.zip there, or set data.path to it. data=synthetic needs no data set"
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
    """Read a data set of faces; the format is detected from content and names.

    - The csv of the FER2013 challenge, plain, as .gz or .xz, or in a zip or tar archive.
    - Images as `split/class/image`, in a folder or a zip. The usage comes from file names as in Kaggle's FER2013
      (`PublicTest_1.jpg`), else from the split folder: train is Training, val is PublicTest, test is PrivateTest.
      Folders that denote FER2013's seven classes (`Anger`, `happiness`) get its class names.
    - A folder without split folders that contains one of these under a usual name.

    Archives are read in place, without extracting them. After the first read a memory-mapped cache is opened.

    Args:
        path: File or folder.
        votes_path: FER+'s `fer2013new.csv`, joined to the csv by row, or None.
        on_error: How to handle invalid images: `stop` raises an error that lists them, `skip` omits them and lists them
            in `FaceArrays.skipped`. A damaged archive or a missing column always raises an error.
        image_size: Pixels a side to resize all images to; None keeps their size, which must then be the same.
        channels: 1 converts all images to gray, 3 to RGB, None keeps them.
        name: Name of the data set; by default `fer2013`, `fer2013_kaggle` for Kaggle's JPEGs, else the folder's name.
        cache: Whether to read and write the cache.

    Raises:
        DataError: The data is invalid; the message names the file and the position in it.
        ValueError: An argument has an invalid value.
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
            with _as_data_errors(source):
                chunks, classes, default_name = _open(source, stack, image_size, channels)
            # Wraps only the chunks: an error of `assemble` in writing `file` is not a data error.
            checked_chunks = _with_data_errors(chunks, source)
            return assemble(checked_chunks, file, source=source.name, classes=classes, name=default_name)

    with _as_data_errors(source):
        if source.is_dir() and not has_split_folders(source):
            source = find_fer2013(source) or source
        options = {"image_size": image_size, "channels": channels}
        faces = read_cached(source, options, read) if cache else read(io.BytesIO())
    if faces.skipped and on_error == "stop":
        more = len(faces.skipped) - _LISTED_PROBLEMS
        listed = [*faces.skipped[:_LISTED_PROBLEMS], *([f"and {more:,} more"] if more > 0 else [])]
        raise DataError(
            f"{source}: {len(faces.skipped):,} of {len(faces) + len(faces.skipped):,} images cannot be used:"
            + "".join(f"\n  {line}" for line in listed)
            + "\nRepair them, or set data.on_error=skip to skip them"
        )
    if votes_path is not None:
        faces = replace(faces, votes=_join_votes(faces, Path(os.path.expanduser(votes_path)), source))
    return replace(faces, name=name) if name else faces


@contextmanager
def _as_data_errors(source: Path) -> Iterator[None]:
    """Convert the exceptions of reading a file to a DataError that names it."""
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
    ) as error:  # the last two: an encrypted zip, an unsupported compression method
        raise DataError(f"{source} cannot be read ({error})") from error


def _with_data_errors(chunks: Iterator[Chunk], source: Path) -> Iterator[Chunk]:
    with _as_data_errors(source):
        yield from chunks


def _open(source: Path, stack: ExitStack, image_size: int | None, channels: int | None) -> _OpenSource:
    """Detect the format of a source and open it; its files are closed with `stack`."""
    if source.is_dir():
        tree = find_image_tree((name for name, _ in walk(source)), str(source))
        chunks = read_images(tree, folder_reader(source), image_size=image_size, channels=channels)
        return _OpenSource(chunks, tree.classes, _default_name(tree, source.absolute().name))
    raw = stack.enter_context(source.open("rb"))
    start = raw.peek(6)
    if not start:
        raise DataError(f"{source} is empty")
    if start.startswith(b"PK"):
        archive = stack.enter_context(zipfile.ZipFile(raw))
        members = [member.filename for member in archive.infolist() if not member.filename.endswith("/")]
        for path in members:
            _check_member_path(path, source)
        csv_member = _csv_member(members)
        if csv_member is None:
            tree = find_image_tree(members, str(source))
            chunks = read_images(tree, zip_reader(archive), image_size=image_size, channels=channels)
            return _OpenSource(chunks, tree.classes, _default_name(tree, source.stem))
        member = io.BufferedReader(_LimitedStream(stack.enter_context(archive.open(csv_member)), source))
        chunks = read_csv(member, f"{source}/{csv_member}")
    else:
        stream = raw
        if start.startswith(b"\x1f\x8b"):
            stream = io.BufferedReader(_LimitedStream(stack.enter_context(gzip.GzipFile(fileobj=raw)), source))
        elif start.startswith(b"\xfd7zXZ\0"):
            stream = io.BufferedReader(_LimitedStream(stack.enter_context(lzma.LZMAFile(raw)), source))  # noqa: SIM115
        is_tar = stream.peek(512)[257:262] == b"ustar"
        chunks = _read_tar(stream, source) if is_tar else read_csv(stream, str(source))
    if image_size is not None or channels == 3:
        chunks = ordered_map(lambda chunk: _convert_chunk(chunk, image_size, channels), chunks)
    return _OpenSource(chunks, EMOTIONS, "fer2013")


def _default_name(tree: ImageTree, name: str) -> str:
    if tree.official and tree.classes == EMOTIONS:
        return "fer2013_kaggle"
    return "folder_synthetic" if name == "synthetic" else name  # `synthetic` is the generated data set


def _csv_member(members: list[str]) -> str | None:
    """Return the challenge's csv by name, in order of preference, or the only csv of an archive without images."""
    for name in CSV_NAMES:
        for member in members:
            if PurePosixPath(member).name.lower() == name:
                return member
    others = [member for member in members if member.lower().endswith(".csv")]
    return others[0] if len(others) == 1 and not any(map(is_image_path, members)) else None


def _read_tar(stream: BinaryIO, source: Path) -> Iterator[Chunk]:
    """Stream the csv of a tar archive, then read to the end of the archive, so that its checksum is verified."""
    found = False
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_CheckedTarInfo) as archive:
        for member in archive:
            _check_member_path(member.name, source)
            content = archive.extractfile(member) if _csv_member([member.name]) and not found else None
            if content is not None:
                found = True
                yield from read_csv(cast(BinaryIO, content), f"{source}/{member.name}")
    while stream.read(1 << 20):
        pass
    if not found:
        raise DataError(f"{source} contains no {' or '.join(CSV_NAMES)}; extract it and set data.path to the folder")


def _check_member_path(member: str, source: Path) -> None:
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        raise DataError(f"{source}: the path {member!r} points outside of the archive; do not trust this file")


def _convert_chunk(chunk: Chunk, image_size: int | None, channels: int | None) -> Chunk:
    images = [convert_image(Image.fromarray(image), image_size, channels) for image in chunk.images]
    return replace(chunk, images=np.stack(images)) if images else chunk


def _join_votes(faces: FaceArrays, path: Path, source: Path) -> NDArray[np.float32]:
    """FER+ votes of each image, (N, 10), joined by row: the numbers in `Image name` do not match the rows."""
    if not faces.names[0].startswith(b"row "):
        raise DataError(f"{path}: votes can only be joined to FER2013's csv, by row; {source} is not that csv")
    with _as_data_errors(path):
        usage, votes = _read_votes(path)
    rows = len(faces) + len(faces.skipped)  # every row of the csv is in one of the two
    if len(votes) != rows:
        raise DataError(f"{path} has {len(votes):,} rows and {source} has {rows:,}; they must list the same images")
    row_of = np.array([int(name[4:]) for name in faces.names.tolist()]) - 1
    differing = np.flatnonzero(usage[row_of] != faces.usage)
    if len(differing):
        at = differing[0]
        raise DataError(
            f"{path}: row {row_of[at] + 1} is {str(usage[row_of[at]])!r}, but {faces.usage[at]} in {source}; "
            "both must list the same images in the same order"
        )
    joined: NDArray[np.float32] = votes[row_of]
    return joined


def _read_votes(path: Path) -> tuple[NDArray[np.str_], NDArray[np.float32]]:
    """Read usage (N,) and votes (N, 10) of FER+'s csv."""
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
