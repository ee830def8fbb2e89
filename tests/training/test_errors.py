"""Failures of a training and their messages."""

import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from helpers.processes import start_python, wait_for
from helpers.runs import TINY, TINY_TRACKED, load_checkpoint
from helpers.tracking import client_of, tracked_runs
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from fer_lightning.config import ROOT
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
    saved = load_checkpoint(tmp_path / "run")
    assert len(saved["history"]) == 1


@pytest.mark.parametrize("every", [1, 2])
def test_non_finite_weights_of_an_epochs_last_update_are_not_saved(composed, tmp_path, monkeypatch, every) -> None:
    def break_weights(self: FERModule, outputs: object, batch: object, batch_idx: int) -> None:
        if (self.current_epoch, batch_idx) == (2, 4):
            next(self.network.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(FERModule, "on_train_batch_end", break_weights)
    with pytest.raises(CompactHydraException, match=r"update of epoch 3 made weights .* A lower optimizer\.lr"):
        train(composed(*TINY, "trainer.max_epochs=4", f"trainer.check_val_every_n_epoch={every}"))
    saved = load_checkpoint(tmp_path / "run")
    assert len(saved["history"]) == 2
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


def test_a_check_of_several_losses_finds_the_first_that_is_not_finite(composed, monkeypatch) -> None:
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
    history = load_checkpoint(tmp_path / "run")["history"]
    assert [row["train/skipped_batches"] for row in history] == [2, 1]
    assert len(skipped) == 3
    assert all(row["train/loss"] < 10 for row in history)


def test_skip_stops_after_too_many_batches_in_a_row(composed, monkeypatch) -> None:
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


SINGLE_RUN = ["hydra.run.dir=run"]
MULTIRUN = ["-m", "optimizer.lr=1e-3,1e-4", "hydra.sweep.dir=run"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
@pytest.mark.parametrize(("kind", "folder"), [(SINGLE_RUN, "run"), (MULTIRUN, "run/0")])
def test_a_run_stopped_by_a_signal_prints_the_command_to_continue(
    tmp_path: Path, kind: list[str], folder: str, number: int, status: int
) -> None:
    overrides = [*TINY_TRACKED, "trainer.max_epochs=500", "resume=auto", *kind]
    command = [str(ROOT / "train.py"), *overrides, f"paths.mlruns_dir={tmp_path}/mlruns"]
    child = start_python(*command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for((tmp_path / folder / "checkpoints" / "last.ckpt").exists, child)
    child.send_signal(number)
    lines = child.communicate(timeout=300)[1].strip().splitlines()
    assert child.returncode == status
    assert len(lines) == 2, lines
    assert lines[0].startswith("Stopped by")
    assert "last.ckpt" in lines[0]
    assert lines[1].startswith("To resume: python train.py")
    assert set(shlex.split(lines[1])) >= {"resume=auto", *kind}
    assert {run.info.status for run in tracked_runs(client_of(tmp_path / "mlruns"))} == {
        "KILLED"
    }  # in a multirun the parent too


def test_sigterm_while_data_are_read_also_requeues(composed, monkeypatch, capfd) -> None:
    monkeypatch.setattr("fer_lightning.run.train.prepare_data", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        train(composed(*TINY))
    assert caught.value.code == 75
    assert "before the end of its first epoch" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_full_disk_is_one_line_and_the_run_resumes_when_there_is_space(composed, tmp_path: Path) -> None:
    """Uses a small tmpfs as disk, which only root may mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", str(disk)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        config = composed(*TINY, "trainer.max_epochs=2", f"paths.output_dir={disk / 'run'}", "resume=auto")
        with pytest.raises(CompactHydraException) as caught:
            train(config)
        message = str(caught.value)
        assert message.startswith("No space left on device")
        assert "resume=auto" in message
        assert "\n" not in message
        for path in (disk / "run" / "checkpoints").glob("*.ckpt"):
            torch.load(path, weights_only=True)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        train(config)
        assert len(load_checkpoint(disk / "run")["history"]) == 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)
