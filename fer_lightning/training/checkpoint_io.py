"""Checkpoint files: atomic writes, and reads that execute no code."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from fer_lightning.files import sync_folder
from fer_lightning.models.torch_file import read_torch_file
from fer_lightning.run_folder import BEST, best_checkpoint

DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk is full, the quota is used up, or the file would be larger than is allowed."""


def checkpoint_of(path: Path) -> Path:
    """Return the path itself, or for a run's folder the path of its best checkpoint."""
    return best_checkpoint(path) if path.is_dir() else path


def existing_checkpoint(path: Path) -> Path:
    """Return the path of `checkpoint_of`, which must exist.

    Raises:
        FileNotFoundError: There is no such file; for a folder of runs the message names one of them.
    """
    checkpoint = checkpoint_of(path)
    if checkpoint.is_file():
        return checkpoint
    if not path.is_dir():
        raise FileNotFoundError(f"checkpoint={path}: there is no such file or folder")
    runs = sorted(run for run in path.glob("*") if best_checkpoint(run).exists())
    hint = f"; it contains {len(runs)} runs: give one, for example {runs[0]}" if runs else ""
    raise FileNotFoundError(f"checkpoint={path} is not a trained run: it has no {BEST}{hint}")


def read_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint of this project without executing code in the file.

    Args:
        path: A `best.ckpt` or `last.ckpt`.
        mmap: Leave the tensors on the disk until they are used.

    Raises:
        ValueError: It is not a checkpoint of this project; the message is the reason.
    """
    saved = read_torch_file(path, mmap=mmap)
    if fault := _fault(saved):
        raise ValueError(f"it {fault}")
    checkpoint: dict[str, Any] = saved
    return checkpoint


def _fault(saved: Any) -> str | None:
    """Return the reason why a file is not a valid checkpoint, or None."""
    hyperparameters = saved.get("hyper_parameters") if isinstance(saved, dict) else None
    if not isinstance(hyperparameters, dict):
        return "has no hyper_parameters"
    for key in ("model", "loss", "optimizer", "scheduler", "evaluation"):
        if not isinstance(hyperparameters.get(key), dict):
            return f"has no settings of {key}"
    classes = hyperparameters.get("classes")
    if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        return "has no class names"
    origin = hyperparameters.get("provenance") or {}
    if not isinstance(origin, dict):
        return "does not record how it was trained"
    arguments = origin.get("overrides", []), origin.get("config_sources", [])
    if not all(isinstance(given, list) for given in arguments):
        return "does not record how it was trained"
    texts = (*arguments[0], *arguments[1], *(origin.get(key, "") for key in ("data", "data_fingerprint", "protocol")))
    if not all(isinstance(text, str) for text in texts):
        return "does not record what it was trained on"
    tensors, history = saved.get("state_dict"), saved.get("history")
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        return "has no weights"
    if not isinstance(history, list) or not all(isinstance(row, dict) and "epoch" in row for row in history):
        return "has no history"
    return None


class DurableCheckpointIO(TorchCheckpointIO):
    """Checkpoint plugin whose writes survive a kill or a power cut: a file is either complete or not there.

    Lightning also writes a temporary file and renames it, but without fsync: after a power cut the file of the new name
    may be empty.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the file; `path` keeps the previous one until the new one is synchronised to the disk.

        Raises:
            OSError: It cannot be written; the previous file at `path` is unchanged.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")  # a run has one writer: the rest of a killed one is overwritten
        try:
            with temporary.open("wb") as file:
                try:
                    torch.save(checkpoint, file)
                except RuntimeError as error:  # torch's writer fails again when it closes and hides the first error
                    first = error.__context__  # a full disk, or a signal to stop
                    raise first if isinstance(first, (OSError, SystemExit, KeyboardInterrupt)) else error from None
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
