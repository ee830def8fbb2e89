"""The folder of a run belongs to one process and one run."""

from pathlib import Path

import pytest
from filelock import FileLock
from helpers.runs import TINY, contents_of
from hydra.errors import CompactHydraException
from pytorch_lightning.utilities import rank_zero_only

from fer_lightning.run.train import train


def test_two_processes_cannot_use_one_folder(composed, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / ".lock"),
        pytest.raises(CompactHydraException, match="another process is training"),
    ):
        train(composed(*TINY))


def test_a_run_is_not_overwritten(composed, tmp_path: Path) -> None:
    train(composed(*TINY))
    files = contents_of(tmp_path / "run")
    with pytest.raises(CompactHydraException, match=r"run holds another run, with optimizer\.lr 0\.0\d+ \(now 0\.5\)"):
        train(composed(*TINY, "optimizer.lr=0.5"))
    with pytest.raises(CompactHydraException, match="run already holds this run: add resume=auto"):
        train(composed(*TINY))
    (tmp_path / "run" / ".resume.json").write_text("")
    with pytest.raises(CompactHydraException, match="run holds another run: give this run another folder"):
        train(composed(*TINY))
    (tmp_path / "run" / ".resume.json").write_bytes(files[tmp_path / "run" / ".resume.json"])
    assert contents_of(tmp_path / "run") == files


def test_every_process_refuses_to_overwrite_a_run(composed, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with pytest.raises(CompactHydraException, match="holds another run: give this run another folder"):
        train(composed(*TINY, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"))
