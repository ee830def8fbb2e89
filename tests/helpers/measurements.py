"""Measurements of two classes."""

from pathlib import Path

import numpy as np
import pandas as pd

from fer_lightning.studies.measurement import Measurement

CLASSES = ["no", "yes"]


def measurements_with(labels: np.ndarray, correct: list[np.ndarray], name: str = "A") -> list[Measurement]:
    """Create one measurement of two classes per mask of correctly classified images."""
    measurements = []
    for seed, mask in enumerate(correct):
        predicted = np.where(mask, labels, 1 - labels)
        columns = {"index": np.arange(len(labels))}
        columns |= {
            key: [CLASSES[code] for code in codes] for key, codes in (("label", labels), ("predicted", predicted))
        }
        table = pd.DataFrame(columns | {f"p_{one}": 0.5 for one in CLASSES})
        record = {"data": "faces", "data_fingerprint": "f", "protocol": "official"}
        measurements.append(Measurement(Path(f"{name}_seed{seed}"), record, table))
    return measurements
