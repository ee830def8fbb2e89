"""Protocols of one data set: FER2013's own parts, Kaggle's folders, k folds, a fraction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fer_lightning.data.arrays import DataError, FaceArrays
from fer_lightning.data.protocols.split import Indices, Split, first_copies, make_split, named


def official(faces: FaceArrays) -> Split:
    """FER2013's own split: trained on Training, chosen on PublicTest, measured on PrivateTest.

    Raises:
        DataError: One of the three parts is empty.
    """
    return make_split(faces, "official", *_official_parts(faces), first_copies(faces))


def kaggle(faces: FaceArrays, val_fraction: float = 0.1, seed: int = 0) -> Split:
    """The two folders of the Kaggle copy: `test` is PublicTest and PrivateTest, `val` is taken from Training.

    Of each class, `val_fraction` of the pictures (rounded down) go to `val`; byte-identical pictures go
    together, so that none is both trained and validated on.

    Args:
        faces: The data set.
        val_fraction: Above 0 and below 1.
        seed: Draws the validation pictures; it is not the training's seed, so that runs stay comparable.

    Raises:
        ValueError: val_fraction lies outside its range.
        DataError: A part is empty.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"protocol.val_fraction must lie between 0 and 1, got {val_fraction}")
    pool = _part(faces, "Training")
    copies = first_copies(faces)
    in_val = _places(faces.labels[pool], copies[pool], seed) >= 1 - val_fraction
    test = _part(faces, "PublicTest", "PrivateTest")
    name = named(f"kaggle(val_fraction={val_fraction:g})", seed)
    return make_split(faces, name, pool[~in_val], pool[in_val], test, copies)


def kfold(faces: FaceArrays, folds: int = 5, fold: int = 0, seed: int = 0) -> Split:
    """Stratified cross-validation over Training and PublicTest; `test` is PrivateTest in every fold.

    PrivateTest stays out of the folds, so that a number measured on it compares with the official protocol's.
    Byte-identical pictures lie in the same fold. A class of fewer pictures than folds is missing from some.

    Args:
        faces: The data set.
        folds: Number of folds, 2 or more.
        fold: Which one validates, from 0; the others train.
        seed: Draws the folds; the same for all folds of one cross-validation.

    Raises:
        ValueError: folds or fold lies outside its range.
        DataError: A part is empty.
    """
    if folds < 2:
        raise ValueError(f"protocol.folds must be 2 or more, got {folds}")
    if not 0 <= fold < folds:
        raise ValueError(f"protocol.fold must lie between 0 and {folds - 1}, got {fold} (protocol.folds={folds})")
    pool = _part(faces, "Training", "PublicTest")
    copies = first_copies(faces)
    in_val = np.floor(_places(faces.labels[pool], copies[pool], seed) * folds) == fold
    name = named(f"kfold(fold={fold} of {folds})", seed)
    return make_split(faces, name, pool[~in_val], pool[in_val], _part(faces, "PrivateTest"), copies)


def subset(faces: FaceArrays, fraction: float = 0.1, seed: int = 0) -> Split:
    """A stratified share of each official part, for a quick look; its numbers compare with nothing else.

    Of each class, `fraction` of the pictures (rounded up) stay, so no class gets lost. With the same seed, a
    smaller subset lies within a larger.

    Args:
        faces: The data set.
        fraction: Above 0, at most 1.
        seed: Draws the pictures.

    Raises:
        ValueError: fraction lies outside its range.
        DataError: One of the three official parts is empty.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"protocol.fraction must be above 0 and at most 1, got {fraction}")
    train, val, test = (part[_places(faces.labels[part], part, seed) < fraction] for part in _official_parts(faces))
    return make_split(faces, named(f"subset({fraction:g})", seed), train, val, test, first_copies(faces))


def _part(faces: FaceArrays, *usages: str) -> Indices:
    return np.flatnonzero(np.isin(faces.usage, usages))


def _official_parts(faces: FaceArrays) -> tuple[Indices, Indices, Indices]:
    train, val, test = (_part(faces, usage) for usage in ("Training", "PublicTest", "PrivateTest"))
    if len(train) and len(val) + len(test) and not (len(val) and len(test)):
        missing = "test part (PrivateTest)" if len(val) else "validation part (PublicTest)"
        raise DataError(
            f"{faces.name} has no {missing}: use protocol=kaggle, "
            "which takes the validation part from Training and tests on all the rest"
        )
    return train, val, test


def _places(labels: Indices, groups: Indices, seed: int) -> NDArray[np.float64]:
    """Lines up the pictures of each class at random and says where each stands: 0 is first, towards 1 last.

    All pictures between two places are then a stratified sample. Pictures of one group stand at one place, in
    the class of the group's first.

    Args:
        labels: (N,).
        groups: (N,), equal for pictures that belong together.
        seed: Draws the order.

    Returns:
        (N,) in [0, 1).
    """
    _, first, group_of, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    classes = labels[first]
    order = np.lexsort((np.random.default_rng(seed).random(len(first)), classes))
    before = np.empty(len(first), dtype=np.int64)  # how many pictures stand before, all classes in a row
    before[order] = np.cumsum(sizes[order]) - sizes[order]
    totals = np.bincount(classes, weights=sizes)
    places = (before - (np.cumsum(totals) - totals)[classes]) / totals[classes]
    return np.asarray(places[group_of], dtype=np.float64)
