"""Class names and their order, defined only here."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

EMOTIONS: Final = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""FER2013's seven classes; the index is the code in the `emotion` column of `fer2013.csv`."""

USAGES: Final = ("Training", "PublicTest", "PrivateTest")
"""FER2013's three parts as named in the `Usage` column: training, validation, test."""

FERPLUS_COLUMNS: Final = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
    "unknown",
    "NF",
)
"""The vote columns of FER+ (`fer2013new.csv`) in order; NF means 'not a face' (Barsoum et al. 2016)."""

FERPLUS_EMOTIONS: Final = FERPLUS_COLUMNS[:8]
"""FER+'s eight classes; the index is the label under protocol=fer_plus. The order differs from FER2013's."""

FERPLUS_NAMES: Final = {
    "angry": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happiness",
    "sad": "sadness",
    "surprise": "surprise",
    "neutral": "neutral",
}
"""The FER+ column that corresponds to each FER2013 class; contempt has no counterpart."""

FERPLUS_POSITIONS: Final = tuple(FERPLUS_COLUMNS.index(FERPLUS_NAMES[emotion]) for emotion in EMOTIONS)
"""The index in `FERPLUS_COLUMNS` of each of `EMOTIONS`."""


def soft_targets(votes: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Convert FER+ votes to a distribution over FER2013's seven classes.

    Votes for contempt, unknown and 'not a face' are dropped and the rest is normalised. An image without votes for
    the seven classes gets its FER2013 label as a one-hot row.

    Args:
        votes: (N, 10) counts in the order of `FERPLUS_COLUMNS`.
        labels: (N,) FER2013 codes.

    Returns:
        (N, 7) float32, each row sums to 1, in the order of `EMOTIONS`.
    """
    seven = votes[:, FERPLUS_POSITIONS].astype(np.float32)
    total = seven.sum(axis=1, keepdims=True)
    one_hot = np.eye(len(EMOTIONS), dtype=np.float32)[labels]
    return np.where(total > 0, seven / np.maximum(total, 1), one_hot).astype(np.float32)
