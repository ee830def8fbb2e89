"""Checkpoint files."""

from pathlib import Path

import pytest
import torch

from fer_lightning.training.checkpoint_io import DurableCheckpointIO


def test_a_failed_write_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "last.ckpt"
    checkpoint_io = DurableCheckpointIO()
    checkpoint_io.save_checkpoint({"epoch": 1}, path)
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", lambda handle: synced.append(handle))
    checkpoint_io.save_checkpoint({"epoch": 2}, path)
    assert len(synced) == 2  # the file before its name, then the folder

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint_io.save_checkpoint({"epoch": 3}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 2}
    assert list(tmp_path.iterdir()) == [path]
