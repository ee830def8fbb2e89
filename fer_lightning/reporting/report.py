"""Files of an evaluation: tables of predictions and scores, and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyarrow import parquet

from fer_lightning.data.arrays import FaceArrays
from fer_lightning.files import one_line, write_json
from fer_lightning.reporting import figures
from fer_lightning.run_folder import (
    CONFIDENTLY_WRONG,
    CONFUSION_MATRIX,
    HISTORY,
    PER_CLASS_F1,
    PREDICTIONS,
    SAMPLE_PREDICTIONS,
    SCORES_JSON,
    SCORES_TEXT,
    TRAINING_CURVES,
)
from fer_lightning.training.metrics import Predictions, Scores

GRID = 24
"""Number of images in a grid."""

MAX_ROWS, MAX_CLASSES = 10_000_000, 24
"""Limits of a table of predictions; the bootstrap of a comparison grows with the cube of the number of classes."""


def predictions_table(faces: FaceArrays, predictions: Predictions) -> pd.DataFrame:
    """Create a table with one row per image: its origin, label, prediction, and the probability of each class."""
    probabilities = predictions.probabilities.numpy()
    index = predictions.index.numpy()
    predicted = probabilities.argmax(axis=1)
    labels = predictions.labels.numpy()
    names = np.asarray(faces.classes)
    table = pd.DataFrame(
        {
            "index": index,
            "image": [name.decode() for name in faces.names[index]],
            "usage": faces.usage[index],
            "label": names[labels],
            "predicted": names[predicted],
            "confidence": probabilities.max(axis=1),
            "correct": predicted == labels,
        }
    )
    for position, name in enumerate(faces.classes):
        table[f"p_{name}"] = probabilities[:, position]
    return table


def read_predictions(folder: Path) -> pd.DataFrame:
    """Read the table that `write_report` wrote to a folder, sorted by `index`.

    Raises:
        ValueError: The file is damaged or another table.
    """
    path = folder / PREDICTIONS
    try:
        metadata = parquet.read_metadata(path)
        names = [name for name in metadata.schema.names if name.startswith("p_")]
        if metadata.num_rows > MAX_ROWS or not 2 <= len(set(names)) == len(names) <= MAX_CLASSES:
            raise ValueError(f"{metadata.num_rows:,} rows, {len(names)} classes")
        table = pd.read_parquet(path, columns=["index", "label", "predicted", *names])
        kinds = {name: table[name].dtype.kind for name in ("index", *names)}
        if kinds != {"index": "i", **dict.fromkeys(names, "f")} or (table["index"] < 0).any():
            raise ValueError("unexpected columns")
        if unknown := {*table["label"], *table["predicted"]} - {name.removeprefix("p_") for name in names}:
            raise ValueError(f"no probability of {next(iter(unknown))!r}")
    except Exception as error:  # pyarrow and pandas raise arbitrary errors on damaged files
        raise ValueError(f"{path} is not a table of predictions ({one_line(error)})") from None
    return table.sort_values("index")


def classification_report(scores: Scores) -> str:
    """Format precision, recall, F1 and support of each class as plain text."""
    per_class: Mapping[str, Mapping[str, float]] = scores["per_class"]
    width = max(len(name) for name in per_class)
    lines = [f"{'':{width}}  precision  recall      f1  support"]
    for name, row in per_class.items():
        lines.append(
            f"{name:{width}}  {row['precision']:9.4f}  {row['recall']:6.4f}  {row['f1']:6.4f}  {row['support']:7d}"
        )
    low, high = scores["accuracy_interval"]
    lines += [
        "",
        f"accuracy          {scores['accuracy']:.4f}  (95% interval {low:.4f} to {high:.4f}, n = {scores['n']})",
        f"macro F1          {scores['macro_f1']:.4f}",
        f"balanced accuracy {scores['balanced_accuracy']:.4f}",
        f"top-2 accuracy    {scores['top2_accuracy']:.4f}",
        f"calibration error {scores['ece']:.2%}  (ECE, 15 bins)",
    ]
    return "\n".join(lines) + "\n"


def write_report(
    folder: Path,
    faces: FaceArrays,
    predictions: Predictions,
    scores: Mapping[str, Scores],
    history: Sequence[Mapping[str, float]] = (),
    best_epoch: int | None = None,
    protocol: str = "",
) -> None:
    """Write the tables and figures of one evaluation.

    Args:
        folder: Output folder; created if missing.
        faces: The data set.
        predictions: Predictions on the evaluated part.
        scores: Scores by part, the whole part first (`test`, then `test_deduplicated`).
        history: One row per epoch (`FERModule.history`); without it, no training curves are plotted.
        best_epoch: The evaluated epoch, counted from 1.
        protocol: Name of the protocol, for the titles.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part, whole = next(iter(scores.items()))
    write_json(folder / SCORES_JSON, scores)
    what = ", ".join(filter(None, (faces.name, protocol)))
    text = "\n".join(f"{what}, {name}\n\n{classification_report(s)}" for name, s in scores.items())
    (folder / SCORES_TEXT).write_text(text, "utf-8")
    table = predictions_table(faces, predictions)
    table.to_parquet(folder / PREDICTIONS, index=False)
    title = f"{what}, {part}: accuracy {whole['accuracy']:.1%}, macro F1 {whole['macro_f1']:.1%}"
    matrix = np.asarray(whole["confusion_matrix"])
    figures.save(figures.confusion_matrix(matrix, faces.classes, title=title), folder / CONFUSION_MATRIX)
    support = {name: row["support"] for name, row in whole["per_class"].items()}
    figures.save(figures.per_class_f1(whole["per_class_f1"], support, whole["macro_f1"]), folder / PER_CLASS_F1)
    shuffled = table.sample(min(GRID, len(table)), random_state=0)
    _save_grid(folder / SAMPLE_PREDICTIONS, faces, shuffled, f"Random sample of {part}")
    wrong = table[~table["correct"]].nlargest(GRID, "confidence")
    if len(wrong):
        _save_grid(folder / CONFIDENTLY_WRONG, faces, wrong, f"Most confident errors of {part}")
    if history:
        pd.DataFrame(history).to_csv(folder / HISTORY, index=False)
        figures.save(figures.training_curves(history, best_epoch), folder / TRAINING_CURVES)


def _save_grid(path: Path, faces: FaceArrays, rows: pd.DataFrame, title: str) -> None:
    titles = [
        f"{label} \N{RIGHTWARDS ARROW} {predicted}\n{confidence:.0%}"
        for label, predicted, confidence in zip(rows["label"], rows["predicted"], rows["confidence"], strict=True)
    ]
    images: Any = np.asarray(faces.images[rows["index"].to_numpy()])
    figures.save(figures.image_grid(images, titles, rows["correct"].tolist(), title), path)
