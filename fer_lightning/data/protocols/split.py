"""Split: which images train, validate and test a network, under the name of their protocol."""

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
        name: What is written beside every number, for example `kfold(fold=0 of 5)`.
        indices: Ascending positions in the FaceArrays, int64: `train`, `val` and `test`, which share no
            position, and `test_deduplicated`, the part of `test` whose exact pixels occur in neither `train`
            nor `val`. Only a leaky protocol may share positions, and must call itself `leaky_...`.
        faces: The data set that the positions are meant for, where the protocol makes pictures or labels anew; None
            where it is the one that was given.
    """

    name: str
    indices: dict[str, Indices]
    faces: FaceArrays | None = None

    @property
    def is_leaky(self) -> bool:
        """Whether the test part leaks into training or selection (`protocols/leaky.py`): its numbers are no results."""
        return is_leaky(self.name)


def is_leaky(protocol: str) -> bool:
    """Whether the protocol of that name is one of those that leak."""
    return protocol.startswith("leaky_")


def parts_as_official(protocol: str) -> bool:
    """Whether it trains on pictures of Training alone, chooses on PublicTest and measures on PrivateTest."""
    return protocol.partition("(")[0] in ("official", "subset", "fer_plus", "stored_copies")


def same_pictures(data: str, other: str) -> bool:
    """Whether two data sets' names stand for the same faces, as FER2013's csv and Kaggle's JPEGs of it do."""
    return data == other or {data, other} == {"fer2013", "fer2013_kaggle"}


def named(name: str, seed: int) -> str:
    """A protocol's name with the seed of its draws, where that is not 0: `subset(0.1, seed=1)`."""
    return name if seed == 0 else f"{name.removesuffix(')')}{', ' if name.endswith(')') else '('}seed={seed})"


def first_copies(faces: FaceArrays) -> Indices:
    """For each picture the position of the first one with exactly its pixels, (N,): equal for copies."""
    images = (np.ascontiguousarray(image).data for chunk in in_chunks(faces.images) for image in chunk)
    digests = np.fromiter((hashlib.sha256(image).digest() for image in images), "S32", len(faces))
    _, first, group_of = np.unique(digests, return_index=True, return_inverse=True)
    return np.asarray(first[group_of], dtype=np.int64)


def make_split(faces: FaceArrays, name: str, train: Indices, val: Indices, test: Indices, copies: Indices) -> Split:
    """A split of three parts, none of them empty, with its deduplicated test part.

    Args:
        faces: The data set.
        name: Of the protocol.
        train: Positions, ascending; `val` and `test` alike.
        val: Positions.
        test: Positions.
        copies: `first_copies(faces)`.

    Raises:
        DataError: A part is empty.
    """
    for part, indices, remedy in (
        ("training", train, "it needs pictures marked Training (a train/ folder)"),
        ("test", test, "mark some pictures PrivateTest (a test/ folder)"),
        ("validation", val, "give it more pictures or a larger share"),
    ):
        if not len(indices):
            raise DataError(f"{faces.name} has no {part} picture under protocol {name}: {remedy}")
    unseen = ~np.isin(copies[test], copies[np.concatenate([train, val])])
    return Split(name, {"train": train, "val": val, "test": test, "test_deduplicated": test[unseen]})
