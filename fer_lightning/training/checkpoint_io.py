"""Checkpoints: written whole or not at all, read as data alone."""

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
from fer_lightning.run_folder import best_checkpoint

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk is full, the quota is used up, or the file would be larger than is allowed."""


def checkpoint_of(path: Path) -> Path:
    """A checkpoint itself, or the best one of a run's folder."""
    return best_checkpoint(path) if path.is_dir() else path


def existing_checkpoint(path: Path) -> Path:
    """`checkpoint_of`, where it is there.

    Raises:
        FileNotFoundError: It is not; of a folder of runs the message names one of them.
    """
    checkpoint = checkpoint_of(path)
    if checkpoint.is_file():
        return checkpoint
    if not path.is_dir():
        raise FileNotFoundError(f"checkpoint={path}: there is no such file or folder")
    runs = sorted(run for run in path.glob("*") if best_checkpoint(run).exists())
    way = f"; it holds {len(runs)} of them: give one, as {runs[0]}" if runs else ""
    raise FileNotFoundError(f"checkpoint={path} is no trained run: it has no checkpoints/best.ckpt{way}")


def read_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """A checkpoint of this project; no code in the file runs.

    Args:
        path: A `best.ckpt` or `last.ckpt`.
        mmap: Leave the tensors on the disk until they are used.

    Raises:
        ValueError: It is none; the message is the reason.
    """
    saved = read_torch_file(path, mmap=mmap)
    if fault := _fault(saved):
        raise ValueError(f"it {fault}")
    checkpoint: dict[str, Any] = saved
    return checkpoint


def _fault(saved: Any) -> str | None:
    """The fault of a damaged checkpoint, or None."""
    given = saved.get("hyper_parameters") if isinstance(saved, dict) else None
    if not isinstance(given, dict):
        return "has no hyper_parameters"
    for key in ("model", "loss", "optimizer", "scheduler", "evaluation"):
        if not isinstance(given.get(key), dict):
            return f"has no settings of {key}"
    classes = given.get("classes")
    if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        return "has no class names"
    origin = given.get("provenance") or {}
    if not isinstance(origin, dict) or not isinstance(typed := origin.get("overrides", []), list):
        return "does not say how it was trained"
    told = (*typed, *(origin.get(key, "") for key in ("data", "data_fingerprint", "protocol")))
    if not all(isinstance(word, str) for word in told):
        return "does not say what it was trained on"
    tensors, history = saved.get("state_dict"), saved.get("history")
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        return "has no weights"
    if not isinstance(history, list) or not all(isinstance(row, dict) and "epoch" in row for row in history):
        return "has no history"
    return None


class DurableCheckpointIO(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints, but a kill or a power cut never leaves half a file.

    Lightning writes aside and renames too; it does not synchronise, so that after a power cut the new name may stand
    for an empty file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes the file; under `path` lies the one before until the new one is safe on the disk.

        Raises:
            OSError: It cannot be written; what lay under `path` still does.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.tmp")  # one writer a run: what a killed one left is overwritten
        try:
            with aside.open("wb") as file:
                try:
                    torch.save(checkpoint, file)
                except RuntimeError as error:  # torch's writer fails a second time when it closes, and says that
                    first = error.__context__  # a full disk, or a signal to end
                    raise first if isinstance(first, (OSError, SystemExit, KeyboardInterrupt)) else error from None
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
