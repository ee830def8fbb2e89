"""The FER+ protocol: FER2013's images with eight classes by the votes of ten annotators (Barsoum et al. 2016)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fer_lightning.data.arrays import DataError, FaceArrays, content_fingerprint
from fer_lightning.data.protocols.split import Split
from fer_lightning.data.protocols.standard import official
from fer_lightning.labels import FERPLUS_EMOTIONS

RULES = ("majority", "soft", "multi_target")


def distributions(votes: NDArray[np.float32], rule: str) -> NDArray[np.float32]:
    """Label distributions from FER+ votes by one of its authors' rules; single votes are ignored.

    - `majority`: the emotion with more than half of the votes.
    - `soft`: the emotions with the most votes, until they have 75% of the votes or are three, in proportion to the
      votes; emotions with equal votes are added together, and those after `unknown` or `not a face` are omitted. No
      label if they have half of the votes or less, or are more than three.
    - `multi_target`: the emotions with 30% of the votes or more, in proportion to the votes. No label if the
      columns with 30% have half of the votes or less together, or if `unknown` or `not a face` has the most.

    These are the rules of the authors' code, github.com/microsoft/FERPlus (src/ferplus.py).

    Args:
        votes: (N, 10) counts in the order of `labels.FERPLUS_COLUMNS`.
        rule: One of `RULES`.

    Returns:
        (N, 8) float32 in the order of `labels.FERPLUS_EMOTIONS`; a row sums to 1, or is all zero if the rule drops
        the image.

    Raises:
        ValueError: There is no such rule.
    """
    if rule not in RULES:
        raise ValueError(f"protocol.rule is {rule!r}; it must be one of {', '.join(RULES)}")
    counts = np.where(votes > 1, votes, 0).astype(np.float64)
    total = counts.sum(axis=1)
    emotions = len(FERPLUS_EMOTIONS)
    kept = np.zeros_like(counts)
    if rule == "majority":
        rows = np.flatnonzero(counts.max(axis=1) > 0.5 * total)
        top = counts[rows].argmax(axis=1)
        kept[rows, top] = 1
    elif rule == "soft":
        remaining = counts.copy()
        taken = np.zeros(len(counts), dtype=np.int64)
        active = total > 0
        for _ in range(3):
            most = remaining.max(axis=1, keepdims=True)
            take = (remaining == most) & (most > 0) & active[:, None]
            kept[:, :emotions] += np.where(take, counts, 0)[:, :emotions]
            remaining[take] = 0
            taken += take[:, :emotions].sum(axis=1)
            active &= (kept.sum(axis=1) < 0.75 * total) & (taken < 3) & ~take[:, emotions:].any(axis=1)
        kept[(kept.sum(axis=1) <= 0.5 * total) | (taken > 3)] = 0
    else:
        kept = np.where(counts >= 0.3 * total[:, None], counts, 0)
        kept[kept.sum(axis=1) <= 0.5 * total] = 0
    kept[kept.argmax(axis=1) >= emotions] = 0
    kept = kept[:, :emotions]
    fractions: NDArray[np.float32] = (kept / np.maximum(kept.sum(axis=1, keepdims=True), 1)).astype(np.float32)
    return fractions


def fer_plus(faces: FaceArrays, rule: str = "majority", contempt: bool = True) -> Split:
    """Return the official parts with FER+ labels: training labels by `rule`, validation and test labels by majority.

    An image dropped by its rule is in no part. The label of an image is the emotion with the most votes; with `soft`
    and `multi_target` the distributions of the training images are the `targets` of the data set.

    Args:
        faces: FER2013 with votes.
        rule: Rule for the training images: `majority`, `soft` or `multi_target` (`distributions`).
        contempt: Whether contempt is a class; without it there are FER2013's seven classes, in FER+'s order.

    Raises:
        ValueError: There is no such rule.
        DataError: The data set has no votes, or a part is empty.
    """
    if faces.votes is None:
        raise DataError(
            f"protocol=fer_plus needs FER+ votes and {faces.name} has none; give data.votes_path=fer2013new.csv"
        )
    chosen = distributions(faces.votes, "majority")
    training = faces.usage == "Training"
    chosen[training] = distributions(faces.votes[training], rule)
    classes = FERPLUS_EMOTIONS if contempt else FERPLUS_EMOTIONS[:-1]
    kept = np.flatnonzero((chosen.sum(axis=1) > 0) & (chosen.argmax(axis=1) < len(classes)))
    targets = chosen[kept, : len(classes)]
    targets /= targets.sum(axis=1, keepdims=True)
    images, labels, usage = faces.images[kept], targets.argmax(axis=1), faces.usage[kept]
    relabelled = replace(
        faces,
        images=images,
        labels=labels,
        usage=usage,
        classes=classes,
        fingerprint=content_fingerprint(images, labels, usage, classes),
        names=faces.names[kept],
        votes=faces.votes[kept],
        targets=None if rule == "majority" else targets,
    )
    name = f"fer_plus({rule}{'' if contempt else ', without contempt'})"
    return replace(official(relabelled), name=name, faces=relabelled)
