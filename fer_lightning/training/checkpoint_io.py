"""Checkpoints that are whole or not there: written aside, synchronised, renamed."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from fer_lightning.data.cache import sync_folder

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk is full, the quota is used up, or the file would be larger than is allowed."""


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
                    raise error.__context__ if isinstance(error.__context__, OSError) else error from None
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
