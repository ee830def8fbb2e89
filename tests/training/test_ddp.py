"""Two processes (DDP over gloo) compared with one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.processes import run_train, start_process
from helpers.runs import TINY, TINY_TRACKED
from helpers.tracking import client_of, tracked_runs

from fer_lightning.config import to_container
from fer_lightning.data.datamodule import EpochSampler
from fer_lightning.reporting import records
from fer_lightning.run.data import prepare_data
from fer_lightning.run.trainer import build_trainer
from fer_lightning.training.evaluation import predict_part, score_part
from fer_lightning.training.losses import CrossEntropyLoss
from fer_lightning.training.metrics import epoch_scores
from fer_lightning.training.module import load_module


@pytest.mark.parametrize("count", [1, 7, 32, 33, 100])
@pytest.mark.parametrize("world", [2, 3])
def test_processes_predict_every_image_of_a_part_once(count: int, world: int) -> None:
    index = np.arange(count) * 2
    single = [request.positions for request in EpochSampler(index, 16)]
    by_rank = [[r.positions for r in EpochSampler(index, 16, rank=rank, world_size=world)] for rank in range(world)]
    for rank, batches in enumerate(by_rank):
        assert len(batches) == len(EpochSampler(index, 16, rank=rank, world_size=world)) >= 1
        assert all(batch in single for batch in batches)
    assert sorted({position for batches in by_rank for batch in batches for position in batch}) == index.tolist()
    extra = sum(len(batches) for batches in by_rank) - len(single)
    assert extra == max(0, world - len(single))  # only a process without a batch repeats the last one


def test_processes_split_every_training_batch() -> None:
    index = np.arange(50)
    single = list(EpochSampler(index, 16, seed=1, shuffle=True))
    by_rank = [list(EpochSampler(index, 16, seed=1, shuffle=True, rank=rank, world_size=2)) for rank in range(2)]
    assert len(single) == len(by_rank[0]) == len(by_rank[1]) == 3
    for whole, first, second in zip(single, *by_rank, strict=True):
        assert sorted(first.positions + second.positions) == sorted(whole.positions)
        assert len(first.positions) == len(second.positions) == 8
        assert first.seed != second.seed


LOGITS = torch.linspace(-2, 2, 16).view(8, 2)
LABELS = torch.tensor([0, 0, 0, 0, 0, 0, 1, 0])


def weighted_gradient(folder: Path, rank: int) -> None:
    """Saves the gradient of one process's half of the batch; the rare class is only in the first half."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    logits = LOGITS[rank::2].clone().requires_grad_()
    CrossEntropyLoss([90, 10], "balanced")(logits, LABELS[rank::2]).backward()
    torch.save(logits.grad, folder / f"{rank}.pt")


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_weighted_gradients_of_two_processes_average_to_that_of_the_whole_batch(tmp_path: Path) -> None:
    jobs = [start_process(weighted_gradient, tmp_path, rank) for rank in range(2)]
    for job in jobs:
        job.join(120)
    whole = LOGITS.clone().requires_grad_()
    CrossEntropyLoss([90, 10], "balanced")(whole, LABELS).backward()
    halves = [torch.load(tmp_path / f"{rank}.pt") / 2 for rank in range(2)]  # DDP takes the mean of the gradients
    torch.testing.assert_close(torch.stack(halves, dim=1).flatten(0, 1), whole.grad)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_two_processes_get_the_scores_of_one(composed, tmp_path: Path) -> None:
    options = [*TINY_TRACKED, "data.count=330", "eval=flip"]  # 33 test images in batches of 16, 16 and 1
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.batch_size=16"]
    done = run_train(*options, *ddp, f"paths.mlruns_dir={tmp_path}/mlruns", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Results in") == 1
    assert "Initializing distributed" not in done.stdout + done.stderr
    run = tmp_path / "run"
    record = json.loads((run / "record.json").read_text())
    client = client_of(tmp_path / "mlruns")
    [tracked] = tracked_runs(client)
    assert tracked.data.metrics["test/accuracy"] == record["test"]["accuracy"]
    assert len(client.get_metric_history(tracked.info.run_id, "val/loss")) == 1

    config = composed(*options, "trainer.batch_size=16")
    module = load_module(run / "checkpoints" / "best.ckpt")
    datamodule = prepare_data(config)
    trainer = build_trainer(config, tmp_path / "one", module.network, logger=False)
    evaluation = to_container(config.eval)
    predictions = predict_part(trainer, module, datamodule, evaluation, "test")
    scores = score_part(predictions, "test", datamodule.split, module.classes, evaluation["bootstrap"], config.seed)
    assert scores["test"]["n"] == len(datamodule.split.indices["test"]) == record["test"]["n"]
    assert records.scores_by_part(scores) == {part: record[part] for part in scores}
    # the logits as validation takes them
    single_view = to_container(composed(*options, "eval=plain", "eval.average=logits").eval)
    val = epoch_scores(predict_part(trainer, module, datamodule, single_view, "val"), module.classes)
    assert {name: module.history[-1][f"val/{name}"] for name in val} == val


def test_a_multirun_with_several_processes_is_refused(tmp_path: Path) -> None:
    done = run_train(*TINY, "-m", "seed=0,1", "trainer=ddp", cwd=tmp_path)
    assert done.returncode != 0
    assert "trainer=ddp does not work in a multirun" in done.stderr
    assert "Traceback" not in done.stderr
