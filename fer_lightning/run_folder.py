"""Names of the files in a run's folder, which evaluations and ensembles write too, and paths of its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Final

CHECKPOINTS: Final = "checkpoints"
BEST: Final = f"{CHECKPOINTS}/best.ckpt"
LAST: Final = f"{CHECKPOINTS}/last.ckpt"

RECORD: Final = "record.json"
CONFIG: Final = "config.yaml"
PREDICTIONS: Final = "predictions.parquet"
HISTORY: Final = "history.csv"
SCORES_TEXT: Final = "classification_report.txt"
SCORES_JSON: Final = "classification_report.json"

CONFUSION_MATRIX: Final = "confusion_matrix.png"
PER_CLASS_F1: Final = "per_class_f1.png"
TRAINING_CURVES: Final = "training_curves.png"
SAMPLE_PREDICTIONS: Final = "sample_predictions.png"
CONFIDENTLY_WRONG: Final = "confidently_wrong.png"


def best_checkpoint(run: Path) -> Path:
    """Return the checkpoint of the best epoch of a run."""
    return run / BEST


def last_checkpoint(run: Path) -> Path:
    """Return the checkpoint of the last epoch of a run, from which it resumes."""
    return run / LAST


def in_run_folder(checkpoint: Path) -> bool:
    """Whether a checkpoint is where a run writes it: in `checkpoints/` of the run's folder."""
    return checkpoint.parent.name == CHECKPOINTS


def run_of(checkpoint: Path) -> Path:
    """Return the folder of the run that wrote a checkpoint."""
    return checkpoint.parents[1] if in_run_folder(checkpoint) else checkpoint.parent
