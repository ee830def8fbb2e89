"""Near-duplicate detection: copies of one photograph with other crop, scale, brightness or compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from fer_lightning.data.protocols.split import Indices

THRESHOLD: Final = 0.97
"""Minimum correlation after alignment of two near duplicates.

Chosen by visual inspection of random pairs of FER2013: of 64 from 0.970 to 0.975, none showed another moment or
person; of 42 from 0.96 to 0.97, three did; of 22 from 0.955 to 0.96, nine.
"""

FLOOR: Final = 0.94
"""Minimum correlation of the returned pairs, so that pairs below the threshold can be inspected."""

SIDE: Final = 48  # pixels a side at which images are compared
_THUMBNAIL_SIDE: Final = 12  # pixels a side at which candidates are searched
_CROPS: Final = ((3, 3), (3, 0), (3, 6), (0, 3), (6, 3))  # left and top of the 42-pixel crops
_CANDIDATE_COSINE: Final = 0.65  # minimum for alignment; 0.6 doubles the run time on FER2013 and finds 6% more
_BLOCK: Final = 1024  # rows of a block of cosines: 140 MB for 35,000 images
_FULL_MASK: Final = np.full((SIDE, SIDE), 255, np.uint8)
_ECC_CRITERIA: Final = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of near duplicates, each once, by descending correlation.

    Attributes:
        pairs: int64 (P, 2), positions, the smaller first.
        correlation: float32 (P,), Pearson correlation after alignment, from `FLOOR` to 1.
        mirrored: bool (P,), whether one image is a mirrored copy of the other.
    """

    pairs: Indices
    correlation: NDArray[np.float32]
    mirrored: NDArray[np.bool_]

    def above(self, threshold: float) -> NearDuplicates:
        """Return the pairs whose correlation is at least a threshold."""
        chosen = self.correlation >= threshold
        return NearDuplicates(self.pairs[chosen], self.correlation[chosen], self.mirrored[chosen])


def find_near_duplicates(images: NDArray[np.uint8], positions: Indices) -> NearDuplicates:
    """Find near duplicates: candidates by whitened thumbnails, each then aligned by an affine map.

    Thumbnails of different faces correlate at 0.8 and more. Whitening removes what is common to all faces, so that a
    duplicate stands out among millions of pairs. Whole images are compared with whole, with mirrored ones and with five
    crops of 7/8 of a side, since duplicates mostly differ in how tightly the face was cropped. The alignment maximises
    the enhanced correlation coefficient (Evangelidis and Psarakis 2008), which is invariant to brightness and contrast.

    Recall is below 1. Of artificially modified copies of 200 FER2013 images among 4,000, it finds 99% of the darker,
    compressed, mirrored or cropped wider by a tenth, 86% cropped tighter by 15%, 92% shifted by (2, -1) pixels and 58%
    shifted by (3, 2). In the whole data set, lower cosines and more crops led to 8,978 pairs, of which this finds 7,789
    (none of them mirrored).

    Args:
        images: uint8 (N, H, W) or (N, H, W, 3).
        positions: Images to compare, ascending; without exact copies and constant images (undefined correlation).

    Returns:
        Pairs with a correlation of `FLOOR` or more. It takes about a minute and 0.6 GiB for 35,000 images on one core.
    """
    gray = _gray_images(images, positions)
    if len(gray) < 2:
        return NearDuplicates(np.empty((0, 2), np.int64), np.empty(0, np.float32), np.empty(0, np.bool_))
    thumbnails = _thumbnails(gray)
    whitening = _fit_whitening(thumbnails)
    whole = _whiten(thumbnails, whitening)
    crops = [_whiten(_thumbnails(gray[:, y : y + 42, x : x + 42]), whitening) for x, y in _CROPS]
    mirror = _whiten(
        thumbnails.reshape(-1, _THUMBNAIL_SIDE, _THUMBNAIL_SIDE)[:, :, ::-1].reshape(len(thumbnails), -1), whitening
    )
    unmirrored = np.unique(np.concatenate([_candidate_pairs(queries, whole) for queries in (whole, *crops)]), axis=0)
    mirrored = np.unique(_candidate_pairs(mirror, whole), axis=0)
    pairs = np.concatenate([unmirrored, mirrored])
    is_mirrored = np.arange(len(pairs)) >= len(unmirrored)
    correlation = np.array(
        [
            _aligned_correlation(gray[i], gray[j][:, ::-1] if flip else gray[j])
            for (i, j), flip in zip(pairs, is_mirrored, strict=True)
        ],
        dtype=np.float32,
    )
    found = np.flatnonzero(correlation >= FLOOR)
    found = found[np.argsort(-correlation[found], kind="stable")]
    # A symmetric face matches with and without mirroring: keep the better match.
    _, first = np.unique(pairs[found], axis=0, return_index=True)
    found = found[np.sort(first)]
    return NearDuplicates(positions[pairs[found]], correlation[found], is_mirrored[found])


def _gray_images(images: NDArray[np.uint8], positions: Indices) -> NDArray[np.uint8]:
    """Return the images at the given positions in gray, resized: uint8 (M, SIDE, SIDE)."""
    gray = np.empty((len(positions), SIDE, SIDE), np.uint8)
    for row, position in enumerate(positions):
        image = np.asarray(images[position])
        if image.ndim == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        gray[row] = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return gray


def _thumbnails(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Downscaled images, (M, _THUMBNAIL_SIDE^2), each row of mean 0 and norm 1."""
    thumbnails = np.empty((len(gray), _THUMBNAIL_SIDE * _THUMBNAIL_SIDE), np.float32)
    for row, image in enumerate(gray):
        thumbnails[row] = cv2.resize(
            np.ascontiguousarray(image), (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA
        ).ravel()
    return _normalise_rows(thumbnails - thumbnails.mean(axis=1, keepdims=True))


def _fit_whitening(thumbnails: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and whitening matrix; a fraction of the largest variance is added to all, so that noise is not amplified.

    The fraction grows as images get fewer: otherwise whitening would make the images of a small set all dissimilar.
    """
    mean = thumbnails.mean(axis=0)
    variances, axes = np.linalg.eigh((thumbnails - mean).T @ (thumbnails - mean) / len(thumbnails))
    regularisation = 0.03 + thumbnails.shape[1] / len(thumbnails)
    scale = np.sqrt(np.maximum(variances, 0) + regularisation * max(float(variances[-1]), 1e-12))
    return mean, np.asarray(axes / scale, np.float32)


def _whiten(
    thumbnails: NDArray[np.float32], whitening: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> NDArray[np.float32]:
    mean, matrix = whitening
    return _normalise_rows(np.asarray((thumbnails - mean) @ matrix, np.float32))


def _normalise_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)


def _candidate_pairs(queries: NDArray[np.float32], whole: NDArray[np.float32]) -> Indices:
    """Pairs i < j in which the query of one image is close to the whole other image, (P, 2)."""
    found = [np.empty((0, 2), np.int64)]
    for start in range(0, len(queries), _BLOCK):
        near = np.argwhere(queries[start : start + _BLOCK] @ whole.T > _CANDIDATE_COSINE)
        near[:, 0] += start
        found.append(np.sort(near[near[:, 0] != near[:, 1]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _aligned_correlation(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Correlation of slightly blurred images after affine alignment; -1 if the alignment diverges."""
    start = np.eye(2, 3, dtype=np.float32)
    first, second = (np.ascontiguousarray(image) for image in (first, second))
    try:
        return float(cv2.findTransformECC(first, second, start, cv2.MOTION_AFFINE, _ECC_CRITERIA, _FULL_MASK, 5)[0])
    except cv2.error:
        return -1.0
