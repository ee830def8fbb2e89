"""Failures of a training and their messages."""

import os
from pathlib import Path

import pytest
import torch
from conftest import TINY
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from fer_lightning.run.train import train
from fer_lightning.training.errors import explanation
from fer_lightning.training.losses import FocalLoss
from fer_lightning.training.module import SKIPPED_IN_A_ROW, FERModule

CONFIG = OmegaConf.create(
    {"trainer": {"batch_size": 64}, "data": {"workers": 4}, "paths": {"output_dir": "outputs/run"}}
)


def diverge(monkeypatch, *steps: int, value: float = float("nan")) -> None:
    """Makes the loss of these batches (counted from 0 over the epochs, 5 in each) NaN or infinite."""
    compute_logits, forward = FERModule._logits, FocalLoss.forward
    step, networks = -1, []

    def logits_with_spy(self: FERModule, batch: dict, views: object = None) -> torch.Tensor:
        networks[:] = [self.network]
        return compute_logits(self, batch, views)

    def forward_with_fault(self: FocalLoss, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        nonlocal step
        step += 1
        loss = forward(self, logits, target)
        if step not in steps:
            return loss
        next(networks[0].buffers()).add_(1)
        return loss * value

    monkeypatch.setattr(FERModule, "_logits", logits_with_spy)
    monkeypatch.setattr(FocalLoss, "forward", forward_with_fault)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(composed, tmp_path: Path, monkeypatch, value) -> None:
    diverge(monkeypatch, 7, value=value)
    with pytest.raises(CompactHydraException) as caught:
        train(composed(*TINY, "trainer.max_epochs=3"))
    assert f"The loss is {value} at step 8 (epoch 2, batch 3 of 5)" in str(caught.value)
    assert "optimizer.lr (now" in str(caught.value)
    assert "\n" not in str(caught.value)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(saved["history"]) == 1


@pytest.mark.parametrize("every", [1, 2])
def test_non_finite_weights_of_an_epochs_last_update_are_not_saved(composed, tmp_path, monkeypatch, every) -> None:
    def break_weights(self: FERModule, outputs: object, batch: object, batch_idx: int) -> None:
        if (self.current_epoch, batch_idx) == (2, 4):
            next(self.network.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(FERModule, "on_train_batch_end", break_weights)
    with pytest.raises(CompactHydraException, match=r"update of epoch 3 made weights .* A lower optimizer\.lr"):
        train(composed(*TINY, "trainer.max_epochs=4", f"trainer.check_val_every_n_epoch={every}"))
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(saved["history"]) == 2
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


def test_a_check_of_several_losses_finds_the_first_that_is_not_finite(composed, tmp_path: Path, monkeypatch) -> None:
    """As on a GPU, where the losses of several steps are checked together."""
    diverge(monkeypatch, 2, 3)
    check = FERModule._check_losses
    monkeypatch.setattr(
        FERModule, "_check_losses", lambda self, batch: check(self, batch) if len(self._losses) == 5 else None
    )
    with pytest.raises(CompactHydraException, match=r"at step 3 \(epoch 1, batch 3 of 5\)"):
        train(composed(*TINY))


def test_skip_ignores_the_batch_and_counts_it(composed, tmp_path: Path, monkeypatch) -> None:
    diverge(monkeypatch, 1, 2, 6)
    skipped: list[torch.Tensor] = []
    step = FERModule.training_step

    def spy(self: FERModule, batch: dict, batch_idx: int) -> torch.Tensor | None:
        weights = [value.clone() for value in self.network.state_dict().values()]
        loss = step(self, batch, batch_idx)
        if loss is None:
            assert all(map(torch.equal, weights, self.network.state_dict().values()))
            skipped.append(loss)
        return loss

    monkeypatch.setattr(FERModule, "training_step", spy)
    train(composed(*TINY, "trainer.max_epochs=2", "trainer.on_nan=skip"))
    history = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["history"]
    assert [row["train/skipped_batches"] for row in history] == [2, 1]
    assert len(skipped) == 3
    assert all(row["train/loss"] < 10 for row in history)


def test_skip_stops_after_too_many_batches_in_a_row(composed, tmp_path: Path, monkeypatch) -> None:
    diverge(monkeypatch, *range(1, 100))
    with pytest.raises(CompactHydraException, match=f"{SKIPPED_IN_A_ROW} batches in a row were skipped"):
        train(composed(*TINY, "trainer.batch_size=8", "trainer.on_nan=skip"))


def test_an_epoch_of_skipped_batches_ends_the_run(composed, monkeypatch) -> None:
    diverge(monkeypatch, *range(5))
    with pytest.raises(CompactHydraException, match="all batches of the epoch were skipped"):
        train(composed(*TINY, "trainer.on_nan=skip"))


def test_batches_of_one_image_are_refused(composed) -> None:
    with pytest.raises(CompactHydraException, match=r"trainer\.batch_size must be 2 or more"):
        train(composed(*TINY, "trainer.batch_size=1"))


def test_a_limit_below_one_batch_is_refused_in_one_sentence(composed) -> None:
    with pytest.raises(CompactHydraException, match=r"limit_val_batches"):
        train(composed(*TINY, "trainer.limit_val_batches=0.01"))


def test_out_of_memory_suggests_half_the_batch(composed, monkeypatch) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(FERModule, "training_step", no_memory)
    with pytest.raises(CompactHydraException, match=r"trainer\.batch_size=32: try trainer\.batch_size=16"):
        train(composed(*TINY))


def test_out_of_memory_with_all_images_on_the_gpu_suggests_to_stream_them() -> None:
    config = OmegaConf.merge(CONFIG, {"data": {"resident": True}})
    sentence = explanation(torch.OutOfMemoryError("CUDA out of memory."), config)
    assert sentence is not None
    assert "whole data set: try data.resident=false, or try trainer.batch_size=32" in sentence


def test_too_large_a_tensor_is_out_of_memory_on_a_cpu() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    sentence = explanation(caught.value, CONFIG)
    assert sentence is not None
    assert "in main memory" in sentence
    assert "trainer.batch_size=32" in sentence


class KilledWorker(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        os._exit(9)


def test_a_killed_worker_is_named() -> None:
    with pytest.raises(RuntimeError) as caught:
        next(iter(DataLoader(KilledWorker(), num_workers=1)))
    sentence = explanation(caught.value, CONFIG)
    assert sentence is not None
    assert "A process that prepares batches was killed (DataLoader worker" in sentence
    assert "data.workers=2 (now 4)" in sentence
    assert "\n" not in sentence


def test_an_unknown_error_keeps_its_traceback() -> None:
    assert explanation(RuntimeError("a bug"), CONFIG) is None


def test_a_missing_compiler_is_one_sentence() -> None:
    from torch._inductor.exc import InvalidCxxCompiler

    sentence = explanation(InvalidCxxCompiler(), CONFIG)
    assert sentence is not None
    assert sentence.startswith("trainer.compile=true needs a C++ compiler")
    assert "\n" not in sentence
