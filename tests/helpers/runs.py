"""Small trainings on synthetic faces and their checkpoints."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

TINY_TRACKED = [
    "data=synthetic",
    "data.count=200",
    "data.image_size=24",
    "model.image_size=24",
    "trainer.max_epochs=1",
    "trainer.batch_size=32",
    "trainer.precision=32-true",
    "eval.bootstrap=20",
]
"""Overrides with which any run takes about a second, and that MLflow tracks."""

TINY = [*TINY_TRACKED, "tracking=none"]
"""The same without tracking, which takes seconds too."""


def load_checkpoint(run: Path, name: str = "last") -> dict[str, Any]:
    """The content of a run's checkpoint `last` or `best`."""
    content: dict[str, Any] = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return content


def contents_of(folder: Path) -> dict[Path, bytes]:
    """The content of every file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def edited_checkpoint(path: Path, copy: Path | None = None) -> Iterator[dict[str, Any]]:
    """Yield the content of a checkpoint and save it afterwards, in its place or as a copy."""
    content = torch.load(path, weights_only=True)
    yield content
    torch.save(content, copy or path)


def assert_same_result(run: Path, other: Path) -> None:
    """Assert that two runs have the same weights, history and scores."""
    for name in ("best", "last"):
        one, two = load_checkpoint(run, name), load_checkpoint(other, name)
        assert one["history"] == two["history"]
        assert one["state_dict"].keys() == two["state_dict"].keys()
        assert all(torch.equal(value, two["state_dict"][key]) for key, value in one["state_dict"].items())
    left, right = (json.loads((folder / "record.json").read_text()) for folder in (run, other))
    for part in ("val", "test", "best_epoch", "epochs"):
        assert left[part] == right[part]


class StopError(Exception):
    """Stops a training."""


@contextmanager
def stopped_after(epochs: int) -> Iterator[None]:
    """Stop the training in this block after some epochs, by an error in the next one."""
    from fer_lightning.training.module import FERModule  # takes seconds, and conftest.py imports this module

    start_epoch = FERModule.on_train_epoch_start

    def stop(self: FERModule) -> None:
        if self.current_epoch == epochs:
            raise StopError
        start_epoch(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FERModule, "on_train_epoch_start", stop)
        with pytest.raises(StopError):
            yield
