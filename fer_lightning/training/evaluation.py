"""Predicts a part of the split and scores it with its subsets."""

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
    """Predicts a part of the data with a net.

    Args:
        trainer: Decides device and precision.
        module: The net.
        datamodule: Its data.
        evaluation: conf/eval: by which views, and how they are averaged.
        part: Of the split.
    """
    module.set_evaluation(evaluation)
    datamodule.measured_part = part
    trainer.test(module, datamodule=datamodule, verbose=False)
    assert module.test_predictions is not None
    return module.test_predictions


def score_part(
    predictions: Predictions, part: str, split: Split, classes: Sequence[str], resamples: int, seed: int
) -> dict[str, Scores]:
    """The scores of a part, whose predictions these are, and of its subsets that the split names."""
    scores = {}
    for name, index in split.indices.items():
        if name == part or name.startswith(f"{part}_"):
            chosen = predictions.part(torch.from_numpy(index))
            if len(chosen.labels):
                scores[name] = full_scores(chosen, classes, resamples, seed)
    return scores


def is_kaggle_test(split: Split, faces: FaceArrays) -> bool:
    """Whether val and test are FER2013's PublicTest and PrivateTest with its own labels: Kaggle's test pictures."""
    return split.name == "official" and all(
        np.array_equal(np.sort(split.indices[part]), np.flatnonzero(faces.usage == usage))
        for part, usage in (("val", "PublicTest"), ("test", "PrivateTest"))
    )


def logged(scores: Scores) -> dict[str, float]:
    """The numbers of one part that a logger gets: all single scores, and F1 of each class as `f1_happy`."""
    single = {k: v for k, v in scores.items() if isinstance(v, float)}
    return single | {f"f1_{name}": f1 for name, f1 in scores["per_class_f1"].items()}
