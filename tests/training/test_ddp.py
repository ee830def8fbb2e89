"""Two processes (DDP over gloo) against one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, elsewhere
from mlflow import MlflowClient

from fer_lightning.config import plain
from fer_lightning.data.datamodule import EpochSampler
from fer_lightning.reporting import records
from fer_lightning.run.data import prepare_data
from fer_lightning.run.trainer import build_trainer
from fer_lightning.training.evaluation import predict_part, score_part
from fer_lightning.training.losses import CrossEntropyLoss
from fer_lightning.training.metrics import epoch_scores
from fer_lightning.training.module import load_module

TRACKED = [option for option in TINY if option != "tracking=none"]


@pytest.mark.parametrize("count", [1, 7, 32, 33, 100])
@pytest.mark.parametrize("world", [2, 3])
def test_processes_see_every_picture_of_a_part_once(count: int, world: int) -> None:
    index = np.arange(count) * 2
    alone = [draw.positions for draw in EpochSampler(index, 16)]
    shares = [[d.positions for d in EpochSampler(index, 16, rank=rank, world_size=world)] for rank in range(world)]
    for rank, share in enumerate(shares):
        assert len(share) == len(EpochSampler(index, 16, rank=rank, world_size=world)) >= 1
        assert all(batch in alone for batch in share)
    assert sorted({position for share in shares for batch in share for position in batch}) == index.tolist()
    extra = sum(len(share) for share in shares) - len(alone)
    assert extra == max(0, world - len(alone))  # only who has nothing to do looks at the last batch again


def test_processes_share_every_training_batch() -> None:
    index = np.arange(50)
    alone = list(EpochSampler(index, 16, seed=1, shuffle=True))
    shares = [list(EpochSampler(index, 16, seed=1, shuffle=True, rank=rank, world_size=2)) for rank in range(2)]
    assert len(alone) == len(shares[0]) == len(shares[1]) == 3
    for whole, first, second in zip(alone, *shares, strict=True):
        assert sorted(first.positions + second.positions) == sorted(whole.positions)
        assert len(first.positions) == len(second.positions) == 8
        assert first.seed != second.seed


LOGITS = torch.linspace(-2, 2, 16).view(8, 2)
LABELS = torch.tensor([0, 0, 0, 0, 0, 0, 1, 0])


def weighted_gradient(folder: Path, rank: int) -> None:
    """Saves the gradient of one process's half of the batch; the rare class is in the first half alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    logits = LOGITS[rank::2].clone().requires_grad_()
    CrossEntropyLoss([90, 10], "balanced")(logits, LABELS[rank::2]).backward()
    torch.save(logits.grad, folder / f"{rank}.pt")


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_class_weights_of_two_processes_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    jobs = [elsewhere(weighted_gradient, tmp_path, rank) for rank in range(2)]
    for job in jobs:
        job.join(120)
    whole = LOGITS.clone().requires_grad_()
    CrossEntropyLoss([90, 10], "balanced")(whole, LABELS).backward()
    halves = [torch.load(tmp_path / f"{rank}.pt") / 2 for rank in range(2)]  # DDP takes the mean of the gradients
    torch.testing.assert_close(torch.stack(halves, dim=1).flatten(0, 1), whole.grad)


def typed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, str(ROOT / "train.py"), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_two_processes_measure_as_one_does(composed, tmp_path: Path) -> None:
    options = [*TRACKED, "data.count=330", "eval=flip"]  # 33 pictures to measure: 16, 16 and 1
    several = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.batch_size=16"]
    done = typed(tmp_path, *options, *several, f"paths.mlruns_dir={tmp_path}/mlruns", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Results in") == 1
    assert "Initializing distributed" not in done.stdout + done.stderr
    run = tmp_path / "run"
    record = json.loads((run / "record.json").read_text())
    client = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    [tracked] = client.search_runs([client.get_experiment_by_name("fer_lightning").experiment_id])
    assert tracked.data.metrics["test/accuracy"] == record["test"]["accuracy"]
    assert len(client.get_metric_history(tracked.info.run_id, "val/loss")) == 1

    config = composed(*options, "trainer.batch_size=16")
    module = load_module(run / "checkpoints" / "best.ckpt")
    datamodule = prepare_data(config)
    trainer = build_trainer(config, tmp_path / "one", module.network, logger=False)
    evaluation = plain(config.eval)
    predictions = predict_part(trainer, module, datamodule, evaluation, "test")
    scores = score_part(predictions, "test", datamodule.split, module.classes, evaluation["bootstrap"], config.seed)
    assert scores["test"]["n"] == len(datamodule.split.indices["test"]) == record["test"]["n"]
    assert {part: records.recorded_scores(row) for part, row in scores.items()} == {
        part: record[part] for part in scores
    }
    plainly = plain(composed(*options, "eval=plain", "eval.average=logits").eval)  # the logits as validation takes them
    val = epoch_scores(predict_part(trainer, module, datamodule, plainly, "val"), module.classes)
    assert {name: module.history[-1][f"val/{name}"] for name in val} == val


def test_a_multirun_with_several_processes_is_refused(tmp_path: Path) -> None:
    done = typed(tmp_path, *TINY, "-m", "seed=0,1", "trainer=ddp")
    assert done.returncode != 0
    assert "trainer=ddp does not work in a multirun" in done.stderr
    assert "Traceback" not in done.stderr
