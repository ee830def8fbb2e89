"""Predicts a part of the split and scores it and its subsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.datamodule import FERDataModule
from fer_lightning.data.protocols.split import Split
from fer_lightning.training.metrics import Predictions, Scores, full_scores
from fer_lightning.training.module import FERModule


def predict_part(
    trainer: pl.Trainer, module: FERModule, datamodule: FERDataModule, evaluation: Mapping[str, Any], part: str
) -> Predictions:
    """Predict a part of the data.

    Args:
        trainer: Determines device and precision.
        module: The trained module.
        datamodule: The data.
        evaluation: conf/eval: the test-time views and how they are averaged.
        part: Name of a part of the split.
    """
    module.set_evaluation(evaluation)
    datamodule.measured_part = part
    trainer.test(module, datamodule=datamodule, verbose=False)
    assert module.test_predictions is not None
    return module.test_predictions


def score_part(
    predictions: Predictions, part: str, split: Split, classes: Sequence[str], resamples: int, seed: int
) -> dict[str, Scores]:
    """Return the scores of a part from its predictions, and of its subsets in the split (`{part}_...`), by name."""
    scores = {}
    for name, index in split.indices.items():
        if name == part or name.startswith(f"{part}_"):
            selected = predictions.part(torch.from_numpy(index))
            if len(selected.labels):
                scores[name] = full_scores(selected, classes, resamples, seed)
    return scores


def is_kaggle_test(split: Split, faces: FaceArrays) -> bool:
    """Whether val and test are the whole PublicTest and PrivateTest with their own labels: Kaggle's test images."""
    return split.name == "official" and all(
        np.array_equal(np.sort(split.indices[part]), np.flatnonzero(faces.usage == usage))
        for part, usage in (("val", "PublicTest"), ("test", "PrivateTest"))
    )


def loggable_scores(scores: Scores) -> dict[str, float]:
    """Return the scores of one part as a flat dict for loggers: all scalars, and F1 of each class as `f1_happy`."""
    single = {k: v for k, v in scores.items() if isinstance(v, float)}
    return single | {f"f1_{name}": f1 for name, f1 in scores["per_class_f1"].items()}
