"""Near-duplicate detection: one photograph cropped, scaled, brightened or compressed another time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from fer_lightning.data.protocols.split import Indices

THRESHOLD: Final = 0.97
"""Correlation after alignment from which two pictures count as copies.

Chosen by looking at random pairs of FER2013: of 64 from 0.970 to 0.975, none showed another moment or person; of 42
from 0.96 to 0.97, three did; of 22 from 0.955 to 0.96, nine.
"""

FLOOR: Final = 0.94
"""Pairs from here on are kept, so that a person can see what lies below the threshold."""

SIDE: Final = 48  # pixels a side that pictures are compared at
_CELLS: Final = 12  # pixels a side of the small pictures that candidates are looked for with
_CROPS: Final = ((3, 3), (3, 0), (3, 6), (0, 3), (6, 3))  # left and top of the 42 pixel crops
_CANDIDATE: Final = 0.65  # cosine from which a pair is aligned; 0.6 doubles the work on FER2013 and finds 6% more
_BLOCK: Final = 1024  # rows of a block of cosines: 140 MB against 35,000 pictures
_ALL: Final = np.full((SIDE, SIDE), 255, np.uint8)  # the mask of the pixels that count
_STOP: Final = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)


@dataclass(frozen=True)
class NearCopies:
    """Pairs of near copies, each once, the most alike first.

    Attributes:
        pairs: int64 (P, 2), positions, the smaller first.
        correlation: float32 (P,), Pearson's after alignment, from `FLOOR` to 1.
        mirrored: bool (P,), whether one is the other in the mirror.
    """

    pairs: Indices
    correlation: NDArray[np.float32]
    mirrored: NDArray[np.bool_]

    def above(self, threshold: float) -> NearCopies:
        """Those pairs whose correlation reaches a threshold."""
        chosen = self.correlation >= threshold
        return NearCopies(self.pairs[chosen], self.correlation[chosen], self.mirrored[chosen])


def near_copies(images: NDArray[np.uint8], positions: Indices) -> NearCopies:
    """Finds near copies: candidates by whitened small pictures, each then aligned by an affine map.

    Small pictures of different faces correlate at 0.8 and more. Whitening takes away what all faces share, so that a
    copy stands out among millions of pairs. Whole pictures are compared with whole ones, with mirrored ones and with
    five crops of 7/8 of a side, since copies mostly differ in how tightly a face was cut out. The alignment maximises
    the enhanced correlation coefficient (Evangelidis and Psarakis 2008), to which brightness and contrast do not
    matter.

    Not all are found. Of 200 of FER2013's faces, changed by hand among 4,000, it finds 99% darker, compressed, mirrored
    or cut out wider by a tenth, 86% cut out closer by 15%, 92% shifted by (2, -1) pixels and 58% shifted by (3, 2). In
    the whole set, lower cosines and more crops led to 8,978 pairs, of which this finds 7,789 (none of them mirrored).

    Args:
        images: uint8 (N, H, W) or (N, H, W, 3).
        positions: Those to compare, ascending; without exact copies and flat pictures, which correlate with nothing.

    Returns:
        Pairs with a correlation of `FLOOR` or more. About a minute and 0.6 GiB for 35,000 pictures on one core.
    """
    gray = _gray(images, positions)
    if len(gray) < 2:
        return NearCopies(np.empty((0, 2), np.int64), np.empty(0, np.float32), np.empty(0, np.bool_))
    small = _small(gray)
    whitening = _whitening(small)
    whole = _whitened(small, whitening)
    crops = [_whitened(_small(gray[:, y : y + 42, x : x + 42]), whitening) for x, y in _CROPS]
    mirror = _whitened(small.reshape(-1, _CELLS, _CELLS)[:, :, ::-1].reshape(len(small), -1), whitening)
    plain = np.unique(np.concatenate([_alike(view, whole) for view in (whole, *crops)]), axis=0)
    mirrored = np.unique(_alike(mirror, whole), axis=0)
    pairs = np.concatenate([plain, mirrored])
    is_mirrored = np.arange(len(pairs)) >= len(plain)
    correlation = np.array(
        [
            _aligned(gray[i], gray[j][:, ::-1] if flip else gray[j])
            for (i, j), flip in zip(pairs, is_mirrored, strict=True)
        ],
        dtype=np.float32,
    )
    found = np.flatnonzero(correlation >= FLOOR)
    found = found[np.argsort(-correlation[found], kind="stable")]
    _, first = np.unique(
        pairs[found], axis=0, return_index=True
    )  # a symmetric face is a copy both ways: the better one
    found = found[np.sort(first)]
    return NearCopies(positions[pairs[found]], correlation[found], is_mirrored[found])


def _gray(images: NDArray[np.uint8], positions: Indices) -> NDArray[np.uint8]:
    """(M, SIDE, SIDE) gray."""
    gray = np.empty((len(positions), SIDE, SIDE), np.uint8)
    for row, position in enumerate(positions):
        image = np.asarray(images[position])
        if image.ndim == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        gray[row] = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return gray


def _small(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(M, CELLS^2), each row of mean 0 and norm 1."""
    small = np.empty((len(gray), _CELLS * _CELLS), np.float32)
    for row, image in enumerate(gray):
        small[row] = cv2.resize(np.ascontiguousarray(image), (_CELLS, _CELLS), interpolation=cv2.INTER_AREA).ravel()
    return _unit(small - small.mean(axis=1, keepdims=True))


def _whitening(small: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and whitening matrix; a share of the largest variance is added to all, so that noise is not blown up.

    The fewer the pictures, the more: a handful would else be whitened until no two of them are alike.
    """
    mean = small.mean(axis=0)
    variances, axes = np.linalg.eigh((small - mean).T @ (small - mean) / len(small))
    share = 0.03 + small.shape[1] / len(small)
    scale = np.sqrt(np.maximum(variances, 0) + share * max(float(variances[-1]), 1e-12))
    return mean, np.asarray(axes / scale, np.float32)


def _whitened(
    small: NDArray[np.float32], whitening: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> NDArray[np.float32]:
    mean, matrix = whitening
    return _unit(np.asarray((small - mean) @ matrix, np.float32))


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)


def _alike(queries: NDArray[np.float32], whole: NDArray[np.float32]) -> Indices:
    """(P, 2): pairs i < j such that one's query is near the other's whole picture."""
    found = [np.empty((0, 2), np.int64)]
    for start in range(0, len(queries), _BLOCK):
        near = np.argwhere(queries[start : start + _BLOCK] @ whole.T > _CANDIDATE)
        near[:, 0] += start
        found.append(np.sort(near[near[:, 0] != near[:, 1]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _aligned(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """The correlation that an affine map reaches, slightly blurred; -1 where the search diverges."""
    start = np.eye(2, 3, dtype=np.float32)
    first, second = (np.ascontiguousarray(picture) for picture in (first, second))
    try:
        return float(cv2.findTransformECC(first, second, start, cv2.MOTION_AFFINE, _STOP, _ALL, 5)[0])
    except cv2.error:
        return -1.0
