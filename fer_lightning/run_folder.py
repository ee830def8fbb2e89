"""Where the checkpoints of a run lie in its folder."""

from __future__ import annotations

from pathlib import Path


def best_checkpoint(run: Path) -> Path:
    """The checkpoint of a run's best epoch."""
    return run / "checkpoints" / "best.ckpt"


def last_checkpoint(run: Path) -> Path:
    """The checkpoint of a run's last epoch, which a resumed run goes on from."""
    return run / "checkpoints" / "last.ckpt"


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that left a checkpoint."""
    return checkpoint.parents[1] if checkpoint.parent.name == "checkpoints" else checkpoint.parent
