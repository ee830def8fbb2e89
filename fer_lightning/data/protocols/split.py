"""Split: the training, validation and test parts of a data set, and the name of their protocol."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fer_lightning.data.arrays import DataError, FaceArrays, in_chunks

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """A split of a data set.

    Attributes:
        name: Protocol name, reported with every score, for example `kfold(fold=0 of 5)`.
        indices: Ascending positions in the FaceArrays, int64: `train`, `val` and `test`, which are disjoint,
            and `test_deduplicated`, the part of `test` whose exact pixels occur in neither `train` nor `val`. Only a
            leaky protocol may have overlapping parts; its name starts with `leaky_`.
        faces: The data set that the positions refer to, if the protocol creates new images or labels; None if it is
            the data set passed to the protocol.
    """

    name: str
    indices: dict[str, Indices]
    faces: FaceArrays | None = None

    @property
    def is_leaky(self) -> bool:
        """Whether test data leaks into training or model selection (`protocols/leaky.py`): scores are not results."""
        return is_leaky(self.name)


def is_leaky(protocol: str) -> bool:
    """Whether the protocol of this name is leaky."""
    return protocol.startswith("leaky_")


def name_with_seed(name: str, seed: int) -> str:
    """Return a protocol name with the seed of its random draws if that is not 0: `subset(0.1, seed=1)`."""
    return name if seed == 0 else f"{name.removesuffix(')')}{', ' if name.endswith(')') else '('}seed={seed})"


def first_occurrences(faces: FaceArrays) -> Indices:
    """For each image the position of the first image with the same pixels, (N,); exact copies have equal values."""
    images = (np.ascontiguousarray(image).data for chunk in in_chunks(faces.images) for image in chunk)
    digests = np.fromiter((hashlib.sha256(image).digest() for image in images), "S32", len(faces))
    _, first, group_of = np.unique(digests, return_index=True, return_inverse=True)
    return np.asarray(first[group_of], dtype=np.int64)


def make_split(faces: FaceArrays, name: str, train: Indices, val: Indices, test: Indices, copies: Indices) -> Split:
    """Create a split from three non-empty parts and add the deduplicated test part.

    Args:
        faces: The data set.
        name: Name of the protocol.
        train: Training positions, ascending.
        val: Validation positions, ascending.
        test: Test positions, ascending.
        copies: `first_occurrences(faces)`.

    Raises:
        DataError: A part is empty.
    """
    for part, indices, remedy in (
        ("training", train, "it needs images marked Training (a train/ folder)"),
        ("test", test, "mark some images PrivateTest (a test/ folder)"),
        ("validation", val, "use more images or a larger fraction"),
    ):
        if not len(indices):
            raise DataError(f"{faces.name} has no {part} images under protocol {name}: {remedy}")
    unseen = ~np.isin(copies[test], copies[np.concatenate([train, val])])
    return Split(name, {"train": train, "val": val, "test": test, "test_deduplicated": test[unseen]})
