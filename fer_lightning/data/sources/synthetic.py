"""Synthetic faces: a generated data set for trying out the program without data, not for results.

It has FER2013's classes with their frequencies, and simulated FER+ votes; `synthetic_face` draws the images.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from fer_lightning.data.arrays import FaceArrays, content_fingerprint
from fer_lightning.data.sources.cache import read_cached
from fer_lightning.data.sources.synthetic_face import Face
from fer_lightning.files import sha256
from fer_lightning.labels import EMOTIONS, FERPLUS_COLUMNS, FERPLUS_POSITIONS, USAGES

FREQUENCIES: Final = {
    "angry": 3995,
    "disgust": 436,
    "fear": 4097,
    "happy": 7215,
    "sad": 4830,
    "surprise": 3171,
    "neutral": 4965,
}
"""Images of each class in FER2013's Training part; the synthetic data set has the same proportions."""

SMALLEST_SIZE: Final = 24
"""Minimum pixels a side at which expressions are recognisable."""

LARGEST_SET: Final = 2**30
"""Maximum bytes of the images in memory."""

_MIN_CACHED_IMAGES: Final = 1000  # they take two seconds on one core
_IMAGES_PER_PROCESS: Final = 1000  # a process takes a quarter of a second to start
_USAGE_FRACTIONS: Final = (0.8, 0.1, 0.1)  # in the order of USAGES


def synthetic_faces(count: int = 4000, seed: int = 0, image_size: int = 48) -> FaceArrays:
    """Return the data set of `draw_faces`; data sets that take seconds to draw are cached in the user's cache folder.

    Raises:
        ValueError: `count`, `seed` or `image_size` is too small.
    """
    if count < _MIN_CACHED_IMAGES:
        return draw_faces(count, seed, image_size)

    def draw(file: BinaryIO) -> FaceArrays:
        faces = draw_faces(count, seed, image_size)
        np.save(file, faces.images)
        return faces

    environment = {"numpy": np.__version__, "opencv": cv2.__version__, "machine": platform.machine()}
    code = [sha256(Path(__file__).with_name(f"{name}.py")) for name in ("synthetic_face", "synthetic_expressions")]
    options = {"count": count, "seed": seed, "image_size": image_size, "code": code, **environment}
    faces = read_cached(Path(__file__), options, draw, beside=False)
    return replace(faces, votes=_simulate_votes(faces.labels, np.random.default_rng((seed, count))))


def draw_faces(count: int = 4000, seed: int = 0, image_size: int = 48) -> FaceArrays:
    """Draw synthetic faces with FER2013's seven expressions and their frequencies.

    Person, pose, light, blur, noise and the strength of the expression are random. The same arguments give the same
    bytes with the same versions of NumPy and OpenCV on the same processor architecture.

    Args:
        count: Number of images: 80% Training, 10% PublicTest, 10% PrivateTest, every class in each of them.
        seed: Random seed, 0 or more.
        image_size: Pixels a side.

    Returns:
        The data set named `synthetic`: images uint8 (count, image_size, image_size), gray.

    Raises:
        ValueError: `count`, `seed` or `image_size` is too small, or the images take too much memory.
    """
    if image_size < SMALLEST_SIZE:
        raise ValueError(
            f"data.image_size={image_size} is too small to draw an expression; use {SMALLEST_SIZE} or more"
        )
    if count * image_size**2 > LARGEST_SET:
        raise ValueError(
            f"data.count={count} faces of {image_size} x {image_size} pixels would take "
            f"{count * image_size**2 / 2**30:.1f} GiB of memory; the limit is {LARGEST_SET // 2**30} GiB"
        )
    if seed < 0:
        raise ValueError(f"data.seed={seed} is negative; use 0 or more")
    labels, usage = _sample_labels(count, np.random.default_rng(seed))
    images = _draw_in_parallel(labels, seed, image_size)
    return FaceArrays(
        images=images,
        labels=labels,
        usage=usage,
        classes=EMOTIONS,
        name="synthetic",
        fingerprint=content_fingerprint(images, labels, usage, EMOTIONS),
        names=np.array([f"synthetic {position}" for position in range(count)], np.bytes_),
        votes=_simulate_votes(labels, np.random.default_rng((seed, count))),
    )


def _draw_in_parallel(labels: NDArray[np.int64], seed: int, image_size: int) -> NDArray[np.uint8]:
    """Draw the images of the labels; each depends only on (seed, position), whichever process draws it."""
    processes = max(1, min(8, os.cpu_count() or 1, len(labels) // _IMAGES_PER_PROCESS))
    ranges = list(pairwise(len(labels) * i // processes for i in range(processes + 1)))
    code = f"import sys; from {__name__} import _draw_to_stdout; _draw_to_stdout(*map(int, sys.argv[1:]))"
    python_path = os.pathsep.join([str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])])
    workers = {
        span: subprocess.Popen(
            [sys.executable, "-c", code, *map(str, (len(labels), seed, image_size, *span))],
            env={**os.environ, "PYTHONPATH": python_path},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for span in ranges[1:]
    }
    parts = [_draw_range(labels, seed, image_size, *ranges[0])]
    for span, worker in workers.items():
        images = np.frombuffer(worker.communicate()[0], np.uint8)
        if worker.returncode:  # a failed process is replaced by drawing in this one
            images = _draw_range(labels, seed, image_size, *span)
        parts.append(images.reshape(-1, image_size, image_size))
    return np.concatenate(parts)


def _draw_range(labels: NDArray[np.int64], seed: int, image_size: int, start: int, stop: int) -> NDArray[np.uint8]:
    """Draw the images from `start` up to but excluding `stop`."""
    images = np.empty((stop - start, image_size, image_size), np.uint8)
    for position in range(start, stop):
        face = Face(np.random.default_rng((seed, position)), image_size)
        images[position - start] = face.draw(EMOTIONS[labels[position]])
    return images


def _draw_to_stdout(count: int, seed: int, image_size: int, start: int, stop: int) -> None:
    """Write the images from `start` to `stop` to standard output."""
    labels, _ = _sample_labels(count, np.random.default_rng(seed))
    sys.stdout.buffer.write(_draw_range(labels, seed, image_size, start, stop).data)


def _simulate_votes(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
    """Votes (count, 10) of ten simulated FER+ annotators, for the label with probability 0.8, else for neutral."""
    columns = np.array(FERPLUS_POSITIONS)
    correct = rng.binomial(10, 0.8, len(labels))
    votes = np.zeros((len(labels), len(FERPLUS_COLUMNS)), np.float32)
    np.add.at(votes, (np.arange(len(labels)), columns[labels]), correct)
    votes[:, FERPLUS_COLUMNS.index("neutral")] += 10 - correct
    return votes


def _sample_labels(count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Shuffled labels and usages (count,), with FER2013's proportions and every class in each usage."""
    minimum = math.ceil(len(EMOTIONS) / min(_USAGE_FRACTIONS))
    if count < minimum:
        raise ValueError(f"data.count={count} is too few for every class in every usage; use {minimum} or more")
    sizes = [round(fraction * count) for fraction in _USAGE_FRACTIONS]
    sizes[0] += count - sum(sizes)
    frequencies = np.array([FREQUENCIES[emotion] for emotion in EMOTIONS]) / sum(FREQUENCIES.values())
    rows = []
    for usage, size in zip(USAGES, sizes, strict=True):
        quota = np.maximum(1, np.floor(frequencies * size).astype(int))
        while quota.sum() != size:  # add where most is missing, remove where most is surplus
            missing = frequencies * size - quota
            if quota.sum() < size:
                quota[missing.argmax()] += 1
            else:
                quota[np.where(quota > 1, missing, np.inf).argmin()] -= 1
        rows += [(label, usage) for label, times in enumerate(quota) for _ in range(times)]
    order = rng.permutation(count)
    labels, usages = zip(*rows, strict=True)
    return np.array(labels, np.int64)[order], np.array(usages)[order]
