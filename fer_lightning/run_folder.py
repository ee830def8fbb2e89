"""Paths of the checkpoints in a run folder."""

from __future__ import annotations

from pathlib import Path


def best_checkpoint(run: Path) -> Path:
    """Return the checkpoint of the best epoch of a run."""
    return run / "checkpoints" / "best.ckpt"


def last_checkpoint(run: Path) -> Path:
    """Return the checkpoint of the last epoch of a run, from which it resumes."""
    return run / "checkpoints" / "last.ckpt"


def run_of(checkpoint: Path) -> Path:
    """Return the folder of the run that wrote a checkpoint."""
    return checkpoint.parents[1] if checkpoint.parent.name == "checkpoints" else checkpoint.parent
