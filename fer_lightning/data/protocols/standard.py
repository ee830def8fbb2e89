"""Standard protocols: official parts, Kaggle's folders, k-fold cross-validation, subset."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fer_lightning.data.arrays import DataError, FaceArrays
from fer_lightning.data.protocols.split import Indices, Split, first_occurrences, make_split, name_with_seed


def official(faces: FaceArrays) -> Split:
    """FER2013's official split: training on Training, selection on PublicTest, test on PrivateTest.

    Raises:
        DataError: One of the three parts is empty.
    """
    return make_split(faces, "official", *_official_parts(faces), first_occurrences(faces))


def kaggle(faces: FaceArrays, val_fraction: float = 0.1, seed: int = 0) -> Split:
    """Return the two folders of the Kaggle copy: `test` is PublicTest and PrivateTest, `val` is taken from Training.

    Of each class, `val_fraction` of the images (rounded down) go to `val`; byte-identical images stay together, so
    that none is in both `train` and `val`.

    Args:
        faces: The data set.
        val_fraction: Above 0 and below 1.
        seed: Seed of the random selection of validation images, separate from the training seed, so that runs remain
            comparable.

    Raises:
        ValueError: val_fraction is outside its range.
        DataError: A part is empty.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"protocol.val_fraction must lie between 0 and 1, got {val_fraction}")
    pool = _positions(faces, "Training")
    copies = first_occurrences(faces)
    in_val = _stratified_ranks(faces.labels[pool], copies[pool], seed) >= 1 - val_fraction
    test = _positions(faces, "PublicTest", "PrivateTest")
    name = name_with_seed(f"kaggle(val_fraction={val_fraction:g})", seed)
    return make_split(faces, name, pool[~in_val], pool[in_val], test, copies)


def kfold(faces: FaceArrays, folds: int = 5, fold: int = 0, seed: int = 0) -> Split:
    """Stratified cross-validation over Training and PublicTest; `test` is PrivateTest in every fold.

    PrivateTest is excluded from the folds, so that its scores are comparable with the official protocol. Byte-identical
    images are in the same fold. A class with fewer images than folds is missing from some folds.

    Args:
        faces: The data set.
        folds: Number of folds, 2 or more.
        fold: Index of the validation fold, from 0; the others are for training.
        seed: Seed of the random folds; the same for all folds of one cross-validation.

    Raises:
        ValueError: folds or fold is outside its range.
        DataError: A part is empty.
    """
    if folds < 2:
        raise ValueError(f"protocol.folds must be 2 or more, got {folds}")
    if not 0 <= fold < folds:
        raise ValueError(f"protocol.fold must lie between 0 and {folds - 1}, got {fold} (protocol.folds={folds})")
    pool = _positions(faces, "Training", "PublicTest")
    copies = first_occurrences(faces)
    in_val = np.floor(_stratified_ranks(faces.labels[pool], copies[pool], seed) * folds) == fold
    name = name_with_seed(f"kfold(fold={fold} of {folds})", seed)
    return make_split(faces, name, pool[~in_val], pool[in_val], _positions(faces, "PrivateTest"), copies)


def subset(faces: FaceArrays, fraction: float = 0.1, seed: int = 0) -> Split:
    """Return a stratified fraction of each official part, for quick experiments; its scores compare with no others.

    Of each class, `fraction` of the images (rounded up) are used, so no class is lost. With the same seed, a smaller
    subset is contained in a larger one.

    Args:
        faces: The data set.
        fraction: Above 0, at most 1.
        seed: Seed of the random selection.

    Raises:
        ValueError: fraction is outside its range.
        DataError: One of the three official parts is empty.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"protocol.fraction must be above 0 and at most 1, got {fraction}")
    train, val, test = (
        part[_stratified_ranks(faces.labels[part], part, seed) < fraction] for part in _official_parts(faces)
    )
    return make_split(faces, name_with_seed(f"subset({fraction:g})", seed), train, val, test, first_occurrences(faces))


def _positions(faces: FaceArrays, *usages: str) -> Indices:
    return np.flatnonzero(np.isin(faces.usage, usages))


def _official_parts(faces: FaceArrays) -> tuple[Indices, Indices, Indices]:
    train, val, test = (_positions(faces, usage) for usage in ("Training", "PublicTest", "PrivateTest"))
    if len(train) and len(val) + len(test) and not (len(val) and len(test)):
        missing = "test part (PrivateTest)" if len(val) else "validation part (PublicTest)"
        raise DataError(
            f"{faces.name} has no {missing}: use protocol=kaggle, "
            "which takes the validation part from Training and tests on all other images"
        )
    return train, val, test


def _stratified_ranks(labels: Indices, groups: Indices, seed: int) -> NDArray[np.float64]:
    """Random rank of each image within its class, scaled to [0, 1).

    The images with ranks in any interval are a stratified sample. Images of one group have the same rank, in the class
    of the group's first image.

    Args:
        labels: (N,).
        groups: (N,), equal for images that belong together.
        seed: Seed of the order.

    Returns:
        (N,) in [0, 1).
    """
    _, first, group_of, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    classes = labels[first]
    order = np.lexsort((np.random.default_rng(seed).random(len(first)), classes))
    preceding = np.empty(len(first), dtype=np.int64)  # number of images before, over all classes in order
    preceding[order] = np.cumsum(sizes[order]) - sizes[order]
    totals = np.bincount(classes, weights=sizes)
    ranks = (preceding - (np.cumsum(totals) - totals)[classes]) / totals[classes]
    return np.asarray(ranks[group_of], dtype=np.float64)
