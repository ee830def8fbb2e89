"""Shortcuts of the literature as protocols, to measure what each adds to an accuracy. No number of theirs is a result.

Each keeps the official protocol's numbers of validation and test pictures, so that only the leak differs; where it
stores pictures anew, the share of training pictures stays the same and their number grows. `test_deduplicated` finds
exact copies alone: to the changed copies of `leaky_augmented` it is blind.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fer_lightning.data.arrays import FaceArrays, content_fingerprint
from fer_lightning.data.augmentation.batched import BatchedAugmentation
from fer_lightning.data.protocols.split import Indices, Split, first_copies, make_split, named
from fer_lightning.data.protocols.standard import official

CHANGES = BatchedAugmentation(flip=0.5, rotation=10.0, brightness=0.1, contrast=0.1)
"""What a stored copy differs by from its picture: mirrored half of the time, turned a little, its light changed."""


def leaky_pooled(faces: FaceArrays, seed: int = 0) -> Split:
    """All parts pooled and split at random, so that a picture and its copies fall on both sides.

    Args:
        faces: The data set.
        seed: Draws the split; it is not the training's seed.

    Raises:
        DataError: One of the three official parts is empty.
    """
    return _at_random(faces, faces, "leaky_pooled", seed)


def leaky_oversampled(faces: FaceArrays, seed: int = 0) -> Split:
    """Rare classes filled up with exact copies to the size of the largest, all pooled, and only then split at random.

    The parts are therefore balanced, and what is tested has mostly been trained on.

    Args:
        faces: The data set.
        seed: Draws the copies and the split.

    Raises:
        DataError: One of the three official parts is empty.
    """
    return _at_random(faces, _filled_up(faces, seed), "leaky_oversampled", seed)


def leaky_augmented(faces: FaceArrays, copies: int = 2, seed: int = 0) -> Split:
    """Changed copies of every picture stored, all pooled, and only then split at random.

    What is tested has then been trained on, mirrored, turned or in another light.

    Args:
        faces: The data set.
        copies: Changed copies of each picture, 1 or more (`CHANGES`).
        seed: Draws the changes and the split.

    Raises:
        DataError: One of the three official parts is empty.
        ValueError: copies is less than 1.
    """
    grown = _with_changed_copies(faces, np.arange(len(faces)), copies, seed)
    return _at_random(faces, grown, f"leaky_augmented(copies={copies})", seed)


def leaky_selected(faces: FaceArrays) -> Split:
    """The official parts, but the epoch is chosen on the test part: `val` is `test`.

    Raises:
        DataError: One of the three official parts is empty.
    """
    return _chosen_on_test(official(faces), "leaky_selected")


def leaky_all(faces: FaceArrays, copies: int = 1, seed: int = 0) -> Split:
    """All of them together, the epoch chosen on the test part.

    Rare classes are filled up, changed copies of every picture stored, all is pooled and split at random.

    Args:
        faces: The data set.
        copies: Changed copies of each picture, exact copies included, 1 or more.
        seed: Draws the copies, their changes and the split.

    Raises:
        DataError: One of the three official parts is empty.
        ValueError: copies is less than 1.
    """
    filled = _filled_up(faces, seed)
    grown = _with_changed_copies(filled, np.arange(len(filled)), copies, seed)
    split = _at_random(faces, grown, f"leaky_all(copies={copies})", seed)
    return _chosen_on_test(split, split.name)


def stored_copies(faces: FaceArrays, copies: int = 2, seed: int = 0) -> Split:
    """The official parts, with changed copies of the training pictures alone: `leaky_augmented` without its leak.

    Args:
        faces: The data set.
        copies: Changed copies of each training picture, 1 or more (`CHANGES`).
        seed: Draws the changes.

    Raises:
        DataError: One of the three official parts is empty.
        ValueError: copies is less than 1.
    """
    grown = _with_changed_copies(faces, official(faces).indices["train"], copies, seed)
    return replace(official(grown), name=named(f"stored_copies(copies={copies})", seed), faces=grown)


def _at_random(faces: FaceArrays, grown: FaceArrays, name: str, seed: int) -> Split:
    """Cuts `grown` at random into parts of the official sizes, the training part in proportion to its growth."""
    parts = official(faces).indices
    train, val, test = (len(parts[part]) for part in ("train", "val", "test"))
    order = np.random.default_rng(seed).permutation(len(grown))
    cuts = np.cumsum([val, test, train * len(grown) // len(faces)])
    chosen, measured, trained = (np.sort(part) for part in np.split(order, cuts)[:3])
    split = make_split(grown, named(name, seed), trained, chosen, measured, first_copies(grown))
    return replace(split, faces=grown)


def _chosen_on_test(split: Split, name: str) -> Split:
    return replace(split, name=name, indices=split.indices | {"val": split.indices["test"]})


def _filled_up(faces: FaceArrays, seed: int) -> FaceArrays:
    """The data set with exact copies of the rare classes behind, so that all classes are as large as the largest."""
    random = np.random.default_rng([seed, 1])
    counts = np.bincount(faces.labels, minlength=len(faces.classes))
    drawn = np.concatenate(
        [
            random.choice(np.flatnonzero(faces.labels == label), counts.max() - count)
            for label, count in enumerate(counts)
            if count
        ]
    )
    return _stored(faces, drawn, "copy", faces.images[drawn])


def _with_changed_copies(faces: FaceArrays, positions: Indices, copies: int, seed: int) -> FaceArrays:
    if copies < 1:
        raise ValueError(f"protocol.copies must be 1 or more, got {copies}")
    generator = torch.Generator().manual_seed(seed)
    repeated = np.tile(positions, copies)
    changed = np.empty((len(repeated), *faces.images.shape[1:]), dtype=np.uint8)
    for start in range(0, len(repeated), 4096):  # in pieces: as floats they take four times the memory and more
        some = torch.from_numpy(faces.images[repeated[start : start + 4096]])
        batch = (some.unsqueeze(1) if some.ndim == 3 else some.permute(0, 3, 1, 2)) / 255.0
        new = (CHANGES(batch, generator) * 255).round().to(torch.uint8)
        changed[start : start + 4096] = (new.squeeze(1) if some.ndim == 3 else new.permute(0, 2, 3, 1)).numpy()
    return _stored(faces, repeated, "changed copy", changed)


def _stored(faces: FaceArrays, positions: Indices, kind: str, images: NDArray[np.uint8]) -> FaceArrays:
    """The data set with pictures added behind, which take all but their pixels from those at `positions`."""
    all_images = np.concatenate([faces.images, images])
    labels = np.concatenate([faces.labels, faces.labels[positions]])
    usage = np.concatenate([faces.usage, faces.usage[positions]])
    return replace(
        faces,
        images=all_images,
        labels=labels,
        usage=usage,
        fingerprint=content_fingerprint(all_images, labels, usage, faces.classes),
        names=np.concatenate([faces.names, np.char.add(faces.names[positions], f", {kind}".encode())]),
        votes=None if faces.votes is None else np.concatenate([faces.votes, faces.votes[positions]]),
    )
