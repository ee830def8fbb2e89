"""Data leaks of the literature as protocols, to measure how much each raises accuracy. Their scores are not results.

Each has as many validation and test images as the official protocol, so that only the leak differs; if it adds images,
the fraction of training images stays the same and their number grows. `test_deduplicated` removes only exact copies,
not the modified copies of `leaky_augmented`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fer_lightning.data.arrays import FaceArrays, content_fingerprint
from fer_lightning.data.augmentation.batched import BatchedAugmentation
from fer_lightning.data.protocols.split import Indices, Split, first_occurrences, make_split, name_with_seed
from fer_lightning.data.protocols.standard import official

CHANGES = BatchedAugmentation(flip=0.5, rotation=10.0, brightness=0.1, contrast=0.1)
"""Modifications of a stored copy: horizontal flip half of the time, small rotation, brightness and contrast."""


def leaky_pooled(faces: FaceArrays, seed: int = 0) -> Split:
    """All parts pooled and split at random, so that copies of one image occur in several parts.

    Args:
        faces: The data set.
        seed: Seed of the split, separate from the training seed.

    Raises:
        DataError: One of the three official parts is empty.
    """
    return _random_split(faces, faces, "leaky_pooled", seed)


def leaky_oversampled(faces: FaceArrays, seed: int = 0) -> Split:
    """Classes oversampled with exact copies to the size of the largest, pooled, and only then split at random.

    The parts are therefore balanced, and most test images are also training images.

    Args:
        faces: The data set.
        seed: Seed of the copies and the split.

    Raises:
        DataError: One of the three official parts is empty.
    """
    return _random_split(faces, _oversampled(faces, seed), "leaky_oversampled", seed)


def leaky_augmented(faces: FaceArrays, copies: int = 2, seed: int = 0) -> Split:
    """Store modified copies of every image, pool all, and only then split at random.

    Test images are then also training images, flipped, rotated or with other brightness and contrast.

    Args:
        faces: The data set.
        copies: Modified copies of each image, 1 or more (`CHANGES`).
        seed: Seed of the modifications and the split.

    Raises:
        DataError: One of the three official parts is empty.
        ValueError: copies is less than 1.
    """
    enlarged = _with_modified_copies(faces, np.arange(len(faces)), copies, seed)
    return _random_split(faces, enlarged, f"leaky_augmented(copies={copies})", seed)


def leaky_selected(faces: FaceArrays) -> Split:
    """Return the official parts, but the best epoch is selected on the test part: `val` is `test`.

    Raises:
        DataError: One of the three official parts is empty.
    """
    return _select_on_test(official(faces), "leaky_selected")


def leaky_all(faces: FaceArrays, copies: int = 1, seed: int = 0) -> Split:
    """All leaks together, with the best epoch selected on the test part.

    Classes are oversampled, modified copies of every image stored, all images pooled and split at random.

    Args:
        faces: The data set.
        copies: Modified copies of each image, also of the exact copies, 1 or more.
        seed: Seed of the copies, their modifications and the split.

    Raises:
        DataError: One of the three official parts is empty.
        ValueError: copies is less than 1.
    """
    balanced = _oversampled(faces, seed)
    enlarged = _with_modified_copies(balanced, np.arange(len(balanced)), copies, seed)
    split = _random_split(faces, enlarged, f"leaky_all(copies={copies})", seed)
    return _select_on_test(split, split.name)


def stored_copies(faces: FaceArrays, copies: int = 2, seed: int = 0) -> Split:
    """Return the official parts, with modified copies of the training images only: `leaky_augmented` without the leak.

    Args:
        faces: The data set.
        copies: Modified copies of each training image, 1 or more (`CHANGES`).
        seed: Seed of the modifications.

    Raises:
        DataError: One of the three official parts is empty.
        ValueError: copies is less than 1.
    """
    enlarged = _with_modified_copies(faces, official(faces).indices["train"], copies, seed)
    return replace(official(enlarged), name=name_with_seed(f"stored_copies(copies={copies})", seed), faces=enlarged)


def _random_split(faces: FaceArrays, enlarged: FaceArrays, name: str, seed: int) -> Split:
    """Random split of `enlarged`: val and test of the official sizes, train scaled with the size of the data set."""
    parts = official(faces).indices
    train, val, test = (len(parts[part]) for part in ("train", "val", "test"))
    order = np.random.default_rng(seed).permutation(len(enlarged))
    cuts = np.cumsum([val, test, train * len(enlarged) // len(faces)])
    val_part, test_part, train_part = (np.sort(part) for part in np.split(order, cuts)[:3])
    split = make_split(
        enlarged, name_with_seed(name, seed), train_part, val_part, test_part, first_occurrences(enlarged)
    )
    return replace(split, faces=enlarged)


def _select_on_test(split: Split, name: str) -> Split:
    return replace(split, name=name, indices=split.indices | {"val": split.indices["test"]})


def _oversampled(faces: FaceArrays, seed: int) -> FaceArrays:
    """Append exact copies of the smaller classes, so that all classes are as large as the largest."""
    random = np.random.default_rng([seed, 1])
    counts = np.bincount(faces.labels, minlength=len(faces.classes))
    extra = np.concatenate(
        [
            random.choice(np.flatnonzero(faces.labels == label), counts.max() - count)
            for label, count in enumerate(counts)
            if count
        ]
    )
    return _append_copies(faces, extra, "copy", faces.images[extra])


def _with_modified_copies(faces: FaceArrays, positions: Indices, copies: int, seed: int) -> FaceArrays:
    if copies < 1:
        raise ValueError(f"protocol.copies must be 1 or more, got {copies}")
    generator = torch.Generator().manual_seed(seed)
    repeated = np.tile(positions, copies)
    modified = np.empty((len(repeated), *faces.images.shape[1:]), dtype=np.uint8)
    for start in range(0, len(repeated), 4096):  # in chunks: as float32 they take four times the memory
        chunk = torch.from_numpy(faces.images[repeated[start : start + 4096]])
        batch = (chunk.unsqueeze(1) if chunk.ndim == 3 else chunk.permute(0, 3, 1, 2)) / 255.0
        new = (CHANGES(batch, generator) * 255).round().to(torch.uint8)
        modified[start : start + 4096] = (new.squeeze(1) if chunk.ndim == 3 else new.permute(0, 2, 3, 1)).numpy()
    return _append_copies(faces, repeated, "modified copy", modified)


def _append_copies(faces: FaceArrays, positions: Indices, kind: str, images: NDArray[np.uint8]) -> FaceArrays:
    """Append images to the data set; labels, usage, names and votes are those of the images at `positions`."""
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
