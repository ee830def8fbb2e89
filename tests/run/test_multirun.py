"""The ranking at the end of a multirun."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fer_lightning.run.multirun import ranking
from fer_lightning.run.resume import RunState


def finished(folder: Path, objective: float | tuple[float, float] | None, *overrides: str) -> None:
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(list(overrides)), folder / ".hydra" / "overrides.yaml")
    RunState({}, objective).write(folder)


def test_runs_are_ranked_by_the_objective_with_the_overrides_in_which_they_differ(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    finished(tmp_path / "grid" / "0", 0.25, "model=vgg", "optimizer.lr=0.1")
    finished(tmp_path / "grid" / "1", (0.75, 2.0), "model=vgg", "optimizer.lr=0.01")
    finished(tmp_path / "grid" / "2", None, "model=vgg", "optimizer.lr=1")  # stopped
    finished(tmp_path / "grid" / "3", float("nan"), "model=vgg", "optimizer.lr=2")
    _, title, *rows = ranking(Path("grid"), "val/accuracy", "max").splitlines()
    assert title.startswith("Runs by val/accuracy, best first.")
    assert rows == [
        "  0.7500  optimizer.lr=0.01  grid/1",
        "  0.2500  optimizer.lr=0.1   grid/0",
        "     nan  optimizer.lr=2     grid/3",
    ]


@pytest.mark.parametrize(("mode", "best"), [("max", "a"), ("min", "b")])
def test_the_mode_decides_which_value_is_best(tmp_path: Path, mode: str, best: str) -> None:
    finished(tmp_path / "a", 0.5)
    finished(tmp_path / "b", 0.25)
    assert ranking(tmp_path, "val/loss", mode).splitlines()[2].endswith(f"/{best}")
