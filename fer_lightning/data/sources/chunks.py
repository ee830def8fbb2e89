"""Chunks of a data set: parallel reading in order, and assembly to FaceArrays."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from fer_lightning.data.arrays import DataError, FaceArrays, content_fingerprint

MAX_PROBLEMS: Final = 100_000
"""Maximum number of skipped images; a file with more is not in the expected format."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Chunk:
    """Consecutive images of a source.

    Attributes:
        images: uint8 (n, H, W) gray or (n, H, W, 3) RGB; n may be 0.
        labels: int64 (n,).
        usage: (n,) strings of `labels.USAGES`.
        names: (n,) UTF-8 bytes, the position of each image in its source.
        problems: `position: problem` for each image of this chunk that cannot be used.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    usage: NDArray[np.str_]
    names: NDArray[np.bytes_]
    problems: tuple[str, ...] = ()


def ordered_map(
    work: Callable[[_Item], _Result], items: Iterable[_Item], threads: int | None = None
) -> Iterator[_Result]:
    """`map` over threads in order; by default one thread per core, at most 8. It reads as many items ahead."""
    workers = threads or min(8, os.cpu_count() or 1)
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def check_same_shape(name: bytes, image: NDArray[np.uint8], other_name: bytes, other: NDArray[np.uint8]) -> None:
    """Raise DataError, with the setting to change, if two images differ in size or channels."""
    first, second = name.decode(), other_name.decode()
    if image.ndim != other.ndim:
        gray, colour = (first, second) if image.ndim == 2 else (second, first)
        raise DataError(f"{gray} is grayscale and {colour} is in colour; set data.channels to 1 or 3 (data=folder)")
    if image.shape != other.shape:
        sizes = [f"{which.shape[1]}x{which.shape[0]}" for which in (image, other)]
        raise DataError(f"{first} is {sizes[0]} pixels and {second} is {sizes[1]}; set data.image_size (data=folder)")


def assemble(
    chunks: Iterable[Chunk], file: BinaryIO, *, source: str, classes: tuple[str, ...], name: str
) -> FaceArrays:
    """Concatenates chunks; the pixels are written to `file` in the .npy format and memory-mapped from it.

    Args:
        chunks: The chunks in order.
        file: Empty, open for reading and writing; with an `io.BytesIO` the pixels stay in memory.
        source: Name of the file in messages.
        classes: Class names.
        name: Name of the data set.

    Raises:
        DataError: No image can be used, or images differ in size or channels.
        OSError: `file` cannot be written.
    """
    columns: list[tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.bytes_]]] = []
    skipped: list[str] = []
    count, shape = 0, (0, 0)
    for chunk in chunks:
        skipped += [f"{source}, {problem}" for problem in chunk.problems]
        if len(skipped) > MAX_PROBLEMS:
            raise DataError(f"{source}: over {MAX_PROBLEMS:,} images cannot be used; the first: {skipped[0]}")
        if not len(chunk.images):
            continue
        if not columns:
            first_name, first = chunk.names[0], chunk.images[0].copy()
            shape = first.shape
            _write_header(file, (0, *shape))
        check_same_shape(first_name, first, chunk.names[0], chunk.images[0])
        file.write(np.ascontiguousarray(chunk.images).data)
        count += len(chunk.images)
        columns.append((chunk.labels, chunk.usage, chunk.names))
    if not columns:
        reason = f"; the first: {skipped[0]}" if skipped else ""
        raise DataError(f"{source} contains no usable image{reason}")
    file.seek(0)
    _write_header(file, (count, *shape))  # same length: .npy headers reserve space for a larger first axis
    start = file.tell()
    file.flush()
    images: NDArray[np.uint8]
    if isinstance(file, io.BytesIO):
        images = np.frombuffer(file.getbuffer(), np.uint8, offset=start).reshape(count, *shape)
    else:
        images = np.memmap(file, np.uint8, "r", start, (count, *shape))
    labels, usage, names = (np.concatenate(column) for column in zip(*columns, strict=True))
    fingerprint = content_fingerprint(images, labels, usage, classes)
    return FaceArrays(images, labels, usage, classes, name, fingerprint, names, skipped=tuple(skipped))


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
