"""Does a training that is killed at random moments and resumed end like an uninterrupted one, bit for bit on a CPU?

SIGKILL is sent at random moments, up to five per training, each time resumed with `resume=auto`. Compared are the
weights, optimizer, EMA and history in last.ckpt, the best epoch's weights, the scores, and every point in MLflow.

    python benchmarks/kills.py --kills 20 --out benchmarks/results/kills.json
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import runpy
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from harness import ROOT, finish, new_parser
from mlflow import MlflowClient

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["fer_lightning.run.train"])
TRAINING = [
    *("data=synthetic", "data.count=400", "data.image_size=24", "model.image_size=24", "model.dropout=0.5"),
    *("augmentation=cutmix", "callbacks=ema", "callbacks.ema.update_starting_at_step=1", "trainer.accelerator=cpu"),
    *("trainer.precision=32-true", "trainer.batch_size=16", "eval.bootstrap=100", "resume=auto"),
]


def run(folder: Path, epochs: int) -> None:
    """Run train.py as a user would."""
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = [str(ROOT / "train.py"), *TRAINING, f"trainer.max_epochs={epochs}"]
    runpy.run_path(sys.argv[0], run_name="__main__")


def start(folder: Path, epochs: int) -> BaseProcess:
    """Start a training in a process that is forked from a server with the imports done and nothing computed.

    Forked from this process, it would wait forever for the threads that PyTorch computed with here.
    """
    process = FORKED.Process(target=run, args=(folder, epochs))
    process.start()
    return process


def wait_until_started(process: BaseProcess, folder: Path, since: float) -> None:
    """Wait until Hydra has created the run's folder, or written to it again."""
    while process.is_alive() and not any(
        p.stat().st_mtime >= since for p in folder.glob("outputs/*/*/.hydra/config.yaml")
    ):
        time.sleep(0.02)


def wait_for_success(process: BaseProcess, folder: Path) -> None:
    process.join()
    if process.exitcode:
        sys.exit((folder / "log.txt").read_text("utf-8")[-3000:])


def read_results(folder: Path) -> tuple[dict, dict, dict, list[tuple]]:
    """Return last.ckpt, the best epoch's weights, the scores, and all points of all MLflow runs."""
    [run] = (path.parent for path in folder.glob("outputs/*/*/record.json"))
    last, best = (torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("last", "best"))
    record = json.loads((run / "record.json").read_text("utf-8"))
    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("fer_lightning").experiment_id])
    assert all(run.info.status == "FINISHED" for run in runs)
    points = [
        (number, name, point.step, point.value)
        for number, run in enumerate(runs)
        for name in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, name)
    ]
    scores = {key: record[key] for key in ("val", "test", "test_deduplicated", "best_epoch", "epochs")}
    state = {key: last[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "history", "global_step")}
    state |= {key: last[key] for key in last if "average" in key or "current_model" in key}
    return state, best["state_dict"], scores, sorted(points)


def identical(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(identical(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(identical, one, other))
    return one == other


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as base:
        uninterrupted = Path(base, "uninterrupted")
        uninterrupted.mkdir()
        since = time.time()
        process = start(uninterrupted, options.epochs)
        wait_until_started(process, uninterrupted, since)
        started = time.monotonic()
        wait_for_success(process, uninterrupted)
        duration = time.monotonic() - started
        expected = read_results(uninterrupted)
        outcomes: Counter[str] = Counter()
        kills: list[dict[str, float | int]] = []
        trainings = 0
        while len(kills) < options.kills:
            folder = Path(base, f"killed{trainings}")
            folder.mkdir()
            trainings += 1
            for _ in range(min(5, options.kills - len(kills))):
                since = time.time()
                process = start(folder, options.epochs)
                wait_until_started(process, folder, since)
                moment = rng.uniform(0, 0.5 * duration)  # so that a training is killed several times
                process.join(moment)
                if not process.is_alive():
                    break
                process.kill()
                process.join()
                saved = list(folder.glob("outputs/*/*/checkpoints/last.ckpt"))
                epochs = len(torch.load(saved[0], weights_only=True)["history"]) if saved else 0
                kills.append({"after_s": round(moment, 2), "whole_epochs": epochs})
                print(f"kill {len(kills)}: after {moment:.1f} s, {epochs} complete epochs saved")
            process = start(folder, options.epochs)
            wait_for_success(process, folder)
            actual = read_results(folder)
            for name, a, b in zip(
                ("last checkpoint", "best weights", "scores", "MLflow points"), expected, actual, strict=True
            ):
                outcomes[f"{name}, identical"] += identical(a, b)
            print(dict(outcomes))
    result = {"trainings": trainings, "kills": kills, "uninterrupted_s": round(duration, 1), **outcomes}
    finish("kills", __doc__, result, options.out)


if __name__ == "__main__":
    main()
