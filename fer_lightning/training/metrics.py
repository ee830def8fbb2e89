"""Scores of predictions; every score of the package is computed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
)
from torchmetrics.utilities import dim_zero_cat

from fer_lightning.training.reliability import reliability

Scores = dict[str, Any]

EPOCH_SCORES = ("loss", "accuracy", "balanced_accuracy", "macro_f1", "top2_accuracy", "ece")
"""The scores of every epoch, in addition to the F1 of each class."""

MAX_DRAWS_IN_MEMORY = 2**22
"""Bootstrap draws in memory at a time: a thousand resamples of a large test part would take gigabytes."""


@dataclass(frozen=True)
class Predictions:
    """Predictions for a set of images, in the order of the data set, each image once.

    Attributes:
        index: int64 (N,), positions in the data set.
        logits: float32 (N, C); the logarithms where probabilities were averaged (test-time augmentation).
        labels: int64 (N,).
    """

    index: Tensor
    logits: Tensor
    labels: Tensor

    @property
    def probabilities(self) -> Tensor:
        """float32 (N, C), each row sums to 1."""
        return self.logits.softmax(dim=1)

    @classmethod
    def concatenate(cls, *parts: Predictions) -> Predictions:
        """Return the predictions of all parts, which share no image, in the order of the data set."""
        index = torch.cat([part.index for part in parts])
        order = index.argsort()
        logits, labels = torch.cat([part.logits for part in parts]), torch.cat([part.labels for part in parts])
        return cls(index[order], logits[order], labels[order])

    def part(self, index: Tensor) -> Predictions:
        """Return the predictions of the images whose positions are in `index`."""
        mask = torch.isin(self.index, index)
        return Predictions(self.index[mask], self.logits[mask], self.labels[mask])


class PredictionStore(Metric):
    """Collects the predictions of an epoch, gathers them across processes and drops duplicates of images."""

    index: list[Tensor]
    logits: list[Tensor]
    labels: list[Tensor]

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for state in ("index", "logits", "labels"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, index: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: positions (B,), logits (B, C), labels (B,)."""
        self.index.append(index)
        self.logits.append(logits.float())
        self.labels.append(labels)

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Positions, logits and labels of all processes, unsorted."""
        return dim_zero_cat(self.index), dim_zero_cat(self.logits), dim_zero_cat(self.labels)

    def collect(self) -> Predictions:
        """All predictions since the last call, sorted by position; resets the store."""
        index, logits, labels = self.compute()
        self.reset()
        index, logits, labels = index.cpu().view(-1), logits.cpu(), labels.cpu().view(-1)
        order = index.argsort(stable=True)
        first = torch.ones_like(index, dtype=torch.bool)
        first[1:] = index[order][1:] != index[order][:-1]
        order = order[first]
        return Predictions(index[order], logits[order].view(len(order), -1), labels[order])


def confusion(predictions: Predictions) -> Tensor:
    """Confusion matrix int64 (C, C): rows are the true classes, columns the predicted ones."""
    classes = predictions.logits.shape[1]
    return multiclass_confusion_matrix(predictions.logits.argmax(dim=1), predictions.labels, classes)


def scores_from_confusion(matrix: Tensor) -> dict[str, Tensor]:
    """Return the scores of confusion matrices (..., C, C), as scikit-learn defines them with zero_division=0.

    Macro F1 is the mean over the classes that occur among labels or predictions, balanced accuracy the mean over those
    that occur among the labels.
    """
    matrix = matrix.double()
    correct = matrix.diagonal(dim1=-2, dim2=-1)
    support, predicted = matrix.sum(-1), matrix.sum(-2)
    f1 = 2 * correct / (support + predicted).clamp(min=1)
    recall = correct / support.clamp(min=1)
    occurs = support + predicted > 0
    return {
        "accuracy": correct.sum(-1) / support.sum(-1).clamp(min=1),
        "balanced_accuracy": recall.sum(-1) / (support > 0).sum(-1).clamp(min=1),
        "macro_f1": f1.sum(-1) / occurs.sum(-1).clamp(min=1),
        "f1": f1,
        "recall": recall,
        "precision": correct / predicted.clamp(min=1),
        "support": support,
    }


def epoch_scores(predictions: Predictions, classes: Sequence[str]) -> dict[str, float]:
    """Return the scores logged after each epoch: `EPOCH_SCORES`, and the F1 of each class as `f1_{class}`.

    The loss is cross entropy without class weights and label smoothing, whatever the loss of the training, so that runs
    are comparable.

    Args:
        predictions: N >= 1 predictions over C classes.
        classes: The C class names.

    Returns:
        Fractions in [0, 1], except `loss` in nats.
    """
    logits, labels = predictions.logits, predictions.labels
    count = len(classes)
    by_name = scores_from_confusion(confusion(predictions))
    scores = {
        "loss": F.cross_entropy(logits, labels).item(),
        "accuracy": by_name["accuracy"].item(),
        "balanced_accuracy": by_name["balanced_accuracy"].item(),
        "macro_f1": by_name["macro_f1"].item(),
        "top2_accuracy": multiclass_accuracy(logits, labels, count, top_k=min(2, count), average="micro").item(),
        "ece": reliability(predictions.probabilities, labels).ece,
    }
    return scores | {f"f1_{name}": value for name, value in zip(classes, by_name["f1"].tolist(), strict=True)}


def _multinomial_counts(frequencies: Tensor, resamples: int, n: int, generator: torch.Generator) -> Tensor:
    """Return the counts of each cell in `n` draws by frequency, int64 (resamples, cells)."""
    cells = torch.multinomial(frequencies, resamples * n, replacement=True, generator=generator)
    offsets = torch.arange(resamples).repeat_interleave(n) * len(frequencies)
    return torch.bincount(cells + offsets, minlength=resamples * len(frequencies)).view(resamples, -1)


def full_scores(predictions: Predictions, classes: Sequence[str], resamples: int = 1000, seed: int = 0) -> Scores:
    """Return the scores of an evaluation, with 95% bootstrap percentile intervals (Efron 1979) over the images.

    Args:
        predictions: N >= 1 predictions over C classes.
        classes: The C class names.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        The scores of `epoch_scores` without the `f1_*`, with `n`, `accuracy_interval`, `macro_f1_interval`,
        `per_class` (precision, recall, f1, support of each class), `per_class_f1` and the `confusion_matrix`.
    """
    scores: Scores = {"n": len(predictions.labels)}
    scores |= {k: v for k, v in epoch_scores(predictions, classes).items() if not k.startswith("f1_")}
    matrix = confusion(predictions)
    # These scores depend only on true and predicted class, so a resample of images is a multinomial draw over the
    # cells of the confusion matrix.
    n = int(matrix.sum())
    generator = torch.Generator().manual_seed(seed)
    frequencies = matrix.flatten().double()
    at_once = max(1, MAX_DRAWS_IN_MEMORY // n)
    resampled = torch.cat(
        [
            _multinomial_counts(frequencies, min(at_once, resamples - start), n, generator)
            for start in range(0, resamples, at_once)
        ]
    ).view(-1, *matrix.shape)
    bootstrap = scores_from_confusion(resampled)
    for name in ("accuracy", "macro_f1"):
        bounds = torch.quantile(bootstrap[name], torch.tensor([0.025, 0.975], dtype=torch.float64))
        scores[f"{name}_interval"] = bounds.tolist()
    table = scores_from_confusion(matrix)
    scores["per_class"] = {
        name: {
            "precision": table["precision"][i].item(),
            "recall": table["recall"][i].item(),
            "f1": table["f1"][i].item(),
            "support": int(table["support"][i]),
        }
        for i, name in enumerate(classes)
    }
    scores["per_class_f1"] = {name: row["f1"] for name, row in scores["per_class"].items()}
    scores["confusion_matrix"] = matrix.tolist()
    return scores
