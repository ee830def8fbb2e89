"""Small data sets in memory."""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fer_lightning.data.arrays import FaceArrays, content_fingerprint
from fer_lightning.data.sources import synthetic
from fer_lightning.labels import EMOTIONS

draw_faces_cached = functools.cache(synthetic.draw_faces)
"""For tests that read the same synthetic faces many times."""


def face_arrays(
    images: ArrayLike,
    labels: ArrayLike,
    usage: ArrayLike,
    *,
    classes: Sequence[str] = EMOTIONS,
    name: str = "by_hand",
    names: ArrayLike | None = None,
    votes: np.ndarray | None = None,
) -> FaceArrays:
    """A data set with the fingerprint of its content; its images are named `row 1`, `row 2`, ... by default."""
    images, labels, usage = np.asarray(images, np.uint8), np.asarray(labels, np.int64), np.asarray(usage, np.str_)
    if names is None:
        names = [f"row {number}" for number in range(1, len(images) + 1)]
    fingerprint = content_fingerprint(images, labels, usage, tuple(classes))
    return FaceArrays(images, labels, usage, tuple(classes), name, fingerprint, np.asarray(names, np.bytes_), votes)
