"""FER+ as a protocol of its own: FER2013's pictures with the eight classes ten taggers saw (Barsoum et al. 2016)."""

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
    """Label distributions from FER+ votes by one of its authors' rules; single votes never count.

    - `majority`: the emotion with more than half of the votes.
    - `soft`: the emotions with the most votes, until they hold 75% of the votes or are three, in proportion to them;
      those of equal votes come together, and what comes after `unknown` or `not a face` is left out. Nothing if they
      hold half of the votes or less, or are more than three.
    - `multi_target`: the emotions with 30% of the votes or more, in proportion to them. Nothing if what has 30% holds
      half of the votes or less, or if `unknown` or `not a face` has the most of it.

    These are the rules of the authors' code, github.com/microsoft/FERPlus (src/ferplus.py).

    Args:
        votes: (N, 10) counts in the order of `labels.FERPLUS_COLUMNS`.
        rule: One of `RULES`.

    Returns:
        (N, 8) float32 in the order of `labels.FERPLUS_EMOTIONS`; a row sums to 1, or is all zero where the rule drops
        the picture.

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
        left = counts.copy()
        taken = np.zeros(len(counts), dtype=np.int64)
        going = total > 0
        for _ in range(3):
            most = left.max(axis=1, keepdims=True)
            take = (left == most) & (most > 0) & going[:, None]
            kept[:, :emotions] += np.where(take, counts, 0)[:, :emotions]
            left[take] = 0
            taken += take[:, :emotions].sum(axis=1)
            going &= (kept.sum(axis=1) < 0.75 * total) & (taken < 3) & ~take[:, emotions:].any(axis=1)
        kept[(kept.sum(axis=1) <= 0.5 * total) | (taken > 3)] = 0
    else:
        kept = np.where(counts >= 0.3 * total[:, None], counts, 0)
        kept[kept.sum(axis=1) <= 0.5 * total] = 0
    kept[kept.argmax(axis=1) >= emotions] = 0
    kept = kept[:, :emotions]
    shares: NDArray[np.float32] = (kept / np.maximum(kept.sum(axis=1, keepdims=True), 1)).astype(np.float32)
    return shares


def fer_plus(faces: FaceArrays, rule: str = "majority", contempt: bool = True) -> Split:
    """The official parts with FER+'s labels: training by any of its rules, validation and test by majority.

    A picture that its rule drops is in no part. The label of a picture is the emotion with the most votes; under
    `soft` and `multi_target` the training pictures' distributions are the data set's `targets`.

    Args:
        faces: FER2013 with votes.
        rule: For the training pictures: `majority`, `soft` or `multi_target` (`distributions`).
        contempt: Whether contempt is a class; without it there are the seven of FER2013, in FER+'s order.

    Raises:
        ValueError: There is no such rule.
        DataError: The data set has no votes, or a part comes out empty.
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
