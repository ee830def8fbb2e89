"""FaceArrays: what every data source returns and everything after it reads."""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_CHUNK: Final = 4096  # pictures


class DataError(ValueError):
    """A data file is not what it should be; the message names the file, the place in it and the way out."""


@dataclass(frozen=True)
class FaceArrays:
    """A set of labelled faces, in memory or memory-mapped.

    Attributes:
        images: uint8, (N, H, W) gray or (N, H, W, 3) RGB.
        labels: int64 (N,), positions in `classes`.
        usage: (N,) strings: Training, PublicTest or PrivateTest (`labels.USAGES`).
        classes: Class names; their position is the label.
        name: What the set is called in logs and results, for example `fer2013`.
        fingerprint: sha256 of the content (`content_fingerprint`), hexadecimal.
        names: (N,) UTF-8 bytes that tell a person where each picture is: `row 17` or `train/happy/3.jpg`.
        votes: float32 (N, 10), FER+ counts in the order of `labels.FERPLUS_COLUMNS`, or None.
        skipped: One sentence for each picture that could not be read and was left out.
        targets: float32 (N, C), what training learns in place of the labels where a protocol says so; rows sum to 1.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    usage: NDArray[np.str_]
    classes: tuple[str, ...]
    name: str
    fingerprint: str
    names: NDArray[np.bytes_]
    votes: NDArray[np.float32] | None = None
    skipped: tuple[str, ...] = ()
    targets: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        count = len(self.images)
        if self.images.dtype != np.uint8 or self.images.ndim not in (3, 4):
            raise ValueError(
                f"images must be uint8 (N, H, W) or (N, H, W, 3), got {self.images.dtype} {self.images.shape}"
            )
        for field in ("labels", "usage", "names", "votes", "targets"):
            values = getattr(self, field)
            if values is not None and len(values) != count:
                raise ValueError(f"{field} has {len(values)} rows, images has {count}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        """1 for gray, 3 for RGB."""
        return 1 if self.images.ndim == 3 else 3

    @property
    def is_synthetic(self) -> bool:
        """Whether the faces were drawn by the program."""
        return self.name == "synthetic"


def gather(images: NDArray[np.uint8], positions: Sequence[int]) -> NDArray[np.uint8]:
    """A copy of some pictures, of which nothing else stays in this process's memory.

    Of a memory map they are asked for at once before the first is touched. Touched one by one, each would wait for the
    disk, which would read hundreds of kilobytes around it.

    Args:
        images: As it was opened, not a view of it.
        positions: In any order.
    """
    mapped: object = images.base
    if isinstance(images, np.memmap) and isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_WILLNEED"):
        first, size = images.offset % mmap.ALLOCATIONGRANULARITY, math.prod(images.shape[1:])
        for position in positions:
            start = first + position * size
            page = start - start % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, page, start + size - page)
    pictures = np.take(np.asarray(images), positions, axis=0)
    release(images)
    return pictures


def release(images: NDArray[np.uint8]) -> None:
    """Lets go of what was read of a memory map, so that the process does not grow by it; the system may keep it cached.

    Args:
        images: As it was opened, not a view of it. An array in memory is left alone.
    """
    mapped: object = images.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") and not images.flags.writeable:
        mapped.madvise(mmap.MADV_DONTNEED)


def in_chunks(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Consecutive chunks of a set, each let go of before the next, so that no more is ever held of a memory map."""
    for start in range(0, len(images), _CHUNK):
        yield np.asarray(images[start : start + _CHUNK])
        release(images)


def content_fingerprint(
    images: NDArray[np.uint8], labels: NDArray[np.int64], usage: NDArray[np.str_], classes: tuple[str, ...]
) -> str:
    """sha256 over shape, pixels, labels, usage and class names; equal content gives the same value anywhere."""
    digest = hashlib.sha256(repr((images.shape, classes)).encode())
    for chunk in in_chunks(images):
        digest.update(np.ascontiguousarray(chunk).data)
    digest.update(labels.astype("<i8").tobytes())
    for start in range(0, len(usage), _CHUNK):
        digest.update(b"\n" * bool(start) + "\n".join(usage[start : start + _CHUNK].tolist()).encode())
    return digest.hexdigest()
