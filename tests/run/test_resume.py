"""Runs that are killed or stopped, and resumed."""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, TINY, start_process
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from mlflow import MlflowClient
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from fer_lightning.data.protocols.standard import official
from fer_lightning.data.sources.synthetic import draw_faces
from fer_lightning.files import write_json
from fer_lightning.labels import FERPLUS_COLUMNS, FERPLUS_POSITIONS
from fer_lightning.run import resume
from fer_lightning.run.job import Job
from fer_lightning.run.resolvers import register_resolvers
from fer_lightning.run.resume import StartPoint
from fer_lightning.run.train import train
from fer_lightning.training.checkpoint_io import DurableCheckpointIO
from fer_lightning.training.module import FERModule

TRACKED = [option for option in TINY if option != "tracking=none"]
MANY_EPOCHS = ["trainer.max_epochs=6", "callbacks=ema", "callbacks.ema.update_starting_at_step=1", "model.dropout=0.5"]


def saved(run: Path, name: str = "last") -> dict:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_same_result(one: Path, other: Path) -> None:
    for name in ("best", "last"):
        a, b = saved(one, name), saved(other, name)
        assert a["history"] == b["history"]
        assert a["state_dict"].keys() == b["state_dict"].keys()
        assert all(torch.equal(value, b["state_dict"][key]) for key, value in a["state_dict"].items())
    left, right = (json.loads((run / "record.json").read_text()) for run in (one, other))
    for part in ("val", "test", "best_epoch", "epochs"):
        assert left[part] == right[part]


def points(store: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Every point of every metric, by run id and metric."""
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("fer_lightning").experiment_id])
    return {
        run.info.run_id: {
            name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        for run in runs
    }


def train_in_new_process(config: DictConfig, hydra: DictConfig | None) -> float:
    """Calls `train` in a process that Hydra did not start."""
    register_resolvers()
    HydraConfig.instance().cfg = hydra
    return train(config)


def test_a_run_killed_three_times_has_the_result_of_an_uninterrupted_one(composed, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = [*TRACKED, *MANY_EPOCHS, "augmentation=cutmix"]
    started = time.monotonic()
    train(composed(*options, f"paths.output_dir={whole}", f"paths.mlruns_dir={tmp_path / 'mlruns_whole'}"))
    duration = time.monotonic() - started
    config = composed(*options, f"paths.output_dir={killed}", "resume=auto")
    generator = random.Random(0)
    for _ in range(3):
        child = start_process(train_in_new_process, config, HydraConfig.instance().cfg)
        time.sleep(duration * generator.uniform(0.2, 0.8))
        assert child.exitcode in (None, 0)  # it trains, or has finished
        child.kill()
        child.join()
    train(config)
    assert_same_result(whole, killed)
    assert not list(killed.rglob("*.tmp"))
    [uninterrupted], [resumed] = points(tmp_path / "mlruns_whole").values(), points(tmp_path / "mlruns").values()
    assert resumed == uninterrupted  # one run id, each point once


def test_a_finished_run_is_not_trained_again(composed, tmp_path: Path, capsys) -> None:
    config = composed(*TINY, "resume=auto")
    first = train(config)
    assert "starting a new run" in " ".join(capsys.readouterr().out.split())
    written = (tmp_path / "run" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    assert train(config) == first
    assert "nothing is left to do" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == written


class StopError(Exception):
    pass


def stop_after(epochs: int, config, monkeypatch, hook: str = "on_train_epoch_start") -> None:
    original = getattr(FERModule, hook)

    def stop(self: FERModule, *args) -> None:
        if self.current_epoch == epochs:
            raise StopError
        original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(FERModule, hook, stop)
        with pytest.raises(StopError):
            train(config)


def test_csv_and_training_time_continue(composed, tmp_path: Path, monkeypatch) -> None:
    options = [*TRACKED, "tracking=csv", "trainer.max_epochs=3", "resume=auto"]
    stop_after(1, composed(*options), monkeypatch)
    before = saved(tmp_path / "run")["callbacks"]["TrainingProgress"]["seconds"]
    train(composed(*options))
    table = pd.read_csv(tmp_path / "run" / "csv" / "metrics.csv").dropna(subset="train/loss")
    assert table["step"].tolist() == [1, 2, 3]
    assert saved(tmp_path / "run")["callbacks"]["TrainingProgress"]["seconds"] > before > 0


def test_an_early_stopped_run_stays_stopped(composed, tmp_path: Path, monkeypatch) -> None:
    options = [
        *TINY, "trainer.max_epochs=8", "callbacks=early_stopping", "callbacks.early_stopping.patience=1",
        "optimizer.lr=1e-9", "resume=auto",
    ]  # fmt: skip

    def fail(*_: object) -> None:
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(FERModule, "on_test_epoch_end", fail)
        with pytest.raises(StopError):
            train(composed(*options))
    epochs = len(saved(tmp_path / "run")["history"])
    assert epochs < 8
    train(composed(*options))
    assert len(saved(tmp_path / "run")["history"]) == epochs


def test_changed_settings_in_the_same_folder_are_named(composed, tmp_path: Path) -> None:
    train(composed(*TINY))
    with pytest.raises(CompactHydraException, match=r"optimizer\.lr 0\.002 \(now 0\.1\)"):
        train(composed(*TINY, "optimizer.lr=0.1", "resume=auto"))


def test_changed_data_are_refused(composed, tmp_path: Path, monkeypatch) -> None:
    options = [*TINY, "trainer.max_epochs=2", "protocol=kaggle"]
    stop_after(1, composed(*options), monkeypatch)
    monkeypatch.setattr("fer_lightning.data.sources.synthetic.content_fingerprint", lambda *_: "0" * 64)
    with pytest.raises(CompactHydraException, match="the data have changed since"):
        train(composed(*options, "resume=auto"))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(
        CompactHydraException,
        match=r"another version of synthetic .* may have been trained or selected on images of val",
    ):
        train(composed(*options, f"resume={last}"))


def test_changed_votes_are_refused_if_they_are_the_targets(composed, tmp_path: Path, monkeypatch) -> None:
    for targets, refused in (("votes", True), ("labels", False)):
        options = [*TINY, "trainer.max_epochs=2", f"data.targets={targets}", f"paths.output_dir={tmp_path / targets}"]
        stop_after(1, composed(*options), monkeypatch)
        with monkeypatch.context() as patch:
            patch.setattr("fer_lightning.data.sources.synthetic._simulate_votes", lambda labels, rng: votes_for(labels))
            with pytest.raises(CompactHydraException, match="the data have changed") if refused else nullcontext():
                train(composed(*options, "resume=auto"))


def votes_for(labels: np.ndarray) -> np.ndarray:
    """Ten votes for each label, none for another emotion."""
    votes = np.zeros((len(labels), len(FERPLUS_COLUMNS)), np.float32)
    votes[np.arange(len(labels)), np.array(FERPLUS_POSITIONS)[labels]] = 10
    return votes


def test_a_leaky_run_is_resumed_only_under_its_own_protocol(composed, tmp_path: Path, monkeypatch) -> None:
    options = [*TINY, "trainer.max_epochs=2"]
    stop_after(1, composed(*options, "protocol=leaky_selected"), monkeypatch)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(CompactHydraException, match="under leaky_selected, which leaks"):
        train(composed(*options, f"resume={last}", f"paths.output_dir={tmp_path / 'other'}"))
    train(composed(*options, "protocol=leaky_selected", "resume=auto"))
    assert len(saved(tmp_path / "run")["history"]) == 2


def test_a_finished_run_on_other_data_is_refused(composed, monkeypatch) -> None:
    train(composed(*TINY))
    monkeypatch.setattr("fer_lightning.data.sources.synthetic.content_fingerprint", lambda *_: "0" * 64)
    with pytest.raises(CompactHydraException, match="the data have changed since"):
        train(composed(*TINY, "resume=auto"))


def test_the_best_epoch_on_other_data_is_ignored(composed, tmp_path: Path, monkeypatch) -> None:
    train(composed(*TINY))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = saved(tmp_path / "run")
    [state] = (s for k, s in content["callbacks"].items() if k.startswith("CheckpointThatMoves") and s["best_k_models"])
    state["best_k_models"] = dict.fromkeys(state["best_k_models"], torch.tensor(1.0))
    state["best_model_score"] = torch.tensor(1.0)
    torch.save(content, path)
    monkeypatch.setattr("fer_lightning.data.sources.synthetic.content_fingerprint", lambda *_: "0" * 64)
    train(composed(*TINY, "trainer.max_epochs=2", f"resume={path}"))
    assert saved(tmp_path / "run", "best")["history"][-1]["epoch"] == 2


def test_a_finished_run_has_no_best_epoch_on_other_data(composed, tmp_path: Path) -> None:
    train(composed(*TINY, f"paths.output_dir={tmp_path}/finished"))
    last = tmp_path / "finished" / "checkpoints" / "last.ckpt"
    with pytest.raises(CompactHydraException, match=r"all of its 1 epochs are trained.*trainer\.max_epochs=2 or more"):
        train(composed(*TINY, "data.count=220", f"resume={last}", f"paths.output_dir={tmp_path}/other"))


def test_a_checkpoint_continues_in_a_new_folder(composed, tmp_path: Path) -> None:
    unchanged = [*TINY, "optimizer.lr=1e-12"]
    train(composed(*unchanged))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    train(composed(*unchanged, "trainer.max_epochs=2", f"resume={path}", f"paths.output_dir={tmp_path}/new"))
    assert (tmp_path / "new" / "checkpoints" / "best.ckpt").exists()  # though no later epoch is better


def test_a_moving_average_is_not_resumed_as_trained_weights(composed, tmp_path: Path) -> None:
    train(composed(*TINY, "callbacks=ema", "callbacks.ema.update_starting_at_step=1"))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(
        CompactHydraException, match="also holds a moving average of the trained weights: add callbacks"
    ):
        train(composed(*TINY, "trainer.max_epochs=2", f"resume={last}", f"paths.output_dir={tmp_path / 'other'}"))


def test_a_plateau_schedule_forgets_its_best_value_on_other_data(composed, tmp_path: Path) -> None:
    plateau = [*TINY, "scheduler=plateau", "scheduler.patience=0", "scheduler.monitor=val/accuracy"]
    train(composed(*plateau))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    state["lr_schedulers"][0] |= {"best": 2.0, "num_bad_epochs": 0}  # better than any accuracy
    torch.save(state, last)
    resumed = ["trainer.max_epochs=2", f"resume={last}"]
    train(composed(*plateau, *resumed, f"paths.output_dir={tmp_path / 'same'}"))
    train(composed(*plateau, *resumed, "data.count=220", f"paths.output_dir={tmp_path / 'other'}"))
    rates = [saved(tmp_path / name)["optimizer_states"][0]["param_groups"][0]["lr"] for name in ("same", "other")]
    assert rates[0] < rates[1]


@pytest.mark.parametrize("batch_size", [8, 64])
def test_a_schedule_continues_at_its_epoch_with_another_batch_size(composed, tmp_path: Path, batch_size: int) -> None:
    options = [*TINY, "scheduler=cosine", "scheduler.final_fraction=0", "scheduler.warmup_epochs=0"]
    train(composed(*options, "trainer.max_epochs=1", f"paths.output_dir={tmp_path / 'first'}"))
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    changed = ["trainer.max_epochs=4", f"trainer.batch_size={batch_size}"]
    train(composed(*options, *changed, f"resume={last}", f"paths.output_dir={tmp_path / 'resumed'}"))
    train(composed(*options, *changed, f"paths.output_dir={tmp_path / 'whole'}"))
    resumed, whole = ([row["lr"] for row in saved(tmp_path / name)["history"][1:]] for name in ("resumed", "whole"))
    assert resumed == pytest.approx(whole)


def test_a_row_of_the_results_has_one_recipe(composed, tmp_path: Path) -> None:
    train(composed(*TINY))
    folder = tmp_path / "run"
    options = [*TINY, f"resume={folder}/checkpoints/last.ckpt", "paths.results_dir=results"]
    assert StartPoint.find(composed(*options), folder, Console()).path is not None
    with pytest.raises(ValueError, match=r"model\.dropout .* \(now 0\.4\).* must be of one recipe"):
        StartPoint.find(composed(*options, "model.dropout=0.4"), folder, Console())


def test_a_row_of_the_results_has_one_data_set(composed, tmp_path: Path) -> None:
    train(composed(*TINY))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    faces = draw_faces(220, image_size=24)
    for options in ([], ["paths.results_dir=results"]):
        config = composed(*TINY, f"resume={last}", *options)
        with pytest.raises(ValueError, match="must be of one data set") if options else nullcontext():
            StartPoint.read(last).check_data(config, faces, official(faces), Console())


def test_class_weights_follow_the_current_sampler(composed, tmp_path: Path) -> None:
    train(composed(*TINY, "loss=weighted_cross_entropy"))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert saved(tmp_path / "run")["state_dict"]["loss.weight"].max() > 1
    resumed = ["trainer.max_epochs=2", f"resume={last}", f"paths.output_dir={tmp_path / 'resumed'}"]
    train(composed(*TINY, "loss=weighted_cross_entropy", *resumed, "data.sampler=balanced"))
    assert saved(tmp_path / "resumed")["state_dict"]["loss.weight"].tolist() == [1.0] * 7


def test_a_run_without_a_checkpoint_restarts_from_the_given_checkpoint() -> None:
    job = Job({}, ("seed=1", "resume=/backup/last.ckpt"), None, run_dir=("hydra.run.dir=here",))
    assert (
        job.resume_command(has_checkpoint=False) == "python train.py seed=1 resume=/backup/last.ckpt hydra.run.dir=here"
    )
    assert job.resume_command(has_checkpoint=True) == "python train.py seed=1 hydra.run.dir=here resume=auto"


def test_commands_keep_what_chose_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "my" / "experiment").mkdir(parents=True)
    (tmp_path / "my" / "mine.yaml").write_text("defaults: [config, _self_]\nseed: 7\n")
    (tmp_path / "my" / "experiment" / "own.yaml").write_text("# @package _global_\n")
    arguments = ["--config-dir=my", "--config-name=mine", *TINY, "experiment=own"]
    program = [sys.executable, str(ROOT / "train.py")]
    done = subprocess.run([*program, *arguments, "hydra.run.dir=run"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert (record["seed"], record["command"]) == (7, shlex.join(["python", "train.py", *arguments]))
    provenance = saved(tmp_path / "run")["hyper_parameters"]["provenance"]
    assert provenance["config_sources"] == ["--config-dir=my", "--config-name=mine"]
    job = Job({}, ("seed=1",), None, sources=("--config-dir=my",))
    assert job.resume_command(has_checkpoint=True) == "python train.py --config-dir=my seed=1 resume=auto"


def test_fewer_epochs_than_trained_are_refused_without_changes(composed, tmp_path: Path) -> None:
    train(composed(*TINY, "trainer.max_epochs=2"))
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(CompactHydraException, match=r"trained for 2 epochs: trainer\.max_epochs=1 must be 2 or more"):
        train(composed(*TINY, f"resume={last}"))
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == files


def test_workers_draw_the_epoch_of_a_resumed_run(composed, tmp_path: Path, monkeypatch) -> None:
    options = [*TINY, "trainer.max_epochs=2", "augmentation=standard", "data.workers=1"]
    train(composed(*options, f"paths.output_dir={tmp_path / 'whole'}"))
    stop_after(1, composed(*options), monkeypatch)
    train(composed(*options, "resume=auto"))
    assert_same_result(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("model.width=16", r"model differs in width 32 \(now 16\)"),
        ("model=sequential_cnn", "model differs in _target_"),
        ("optimizer=sgd", r"trained with optimizer torch\.optim\.AdamW; it cannot continue with torch\.optim\.SGD"),
        (
            "optimizer.lr=1e-5",
            r"optimizer differs in lr .* \(now 1e-05\); a checkpoint continues with its own settings",
        ),
        ("loss=cross_entropy", r"loss differs in class_weights balanced \(now none\)"),
        ("loss=focal", "loss differs in _target_"),
        ("model.mean=0.25", r"model differs in mean 0\.5 \(now 0\.25\); a checkpoint continues with its own settings"),
        ("scheduler=plateau", "trained with scheduler"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused_before_data_are_read(
    composed, tmp_path_factory, monkeypatch, changed: str, named: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "trained"
    if not folder.exists():
        train(composed(*TINY, f"paths.output_dir={folder}"))
    monkeypatch.setattr("fer_lightning.run.train.prepare_data", lambda _: pytest.fail("data were read"))
    with pytest.raises(CompactHydraException, match=named):
        train(composed(*TINY, f"resume={folder}/checkpoints/last.ckpt", changed))


def test_a_checkpoint_of_another_class_order_is_refused(composed, tmp_path: Path) -> None:
    train(composed(*TINY))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = saved(tmp_path / "run")
    content["hyper_parameters"]["classes"].reverse()
    torch.save(content, path)
    with pytest.raises(CompactHydraException, match="has the classes neutral, surprise"):
        train(composed(*TINY, f"resume={path}"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CompactHydraException, match="not a checkpoint that a run can continue from"):
        train(composed(*TINY, f"resume={path}"))


def test_a_checkpoint_of_another_protocol_is_refused(composed, tmp_path: Path) -> None:
    train(composed(*TINY))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(
        CompactHydraException, match=r"on synthetic under official, which trains on .* of val under kfold"
    ):
        train(composed(*TINY, f"resume={path}", "protocol=kfold"))


def test_the_folder_of_the_newest_run_with_these_settings_is_found(composed, tmp_path: Path) -> None:
    register_resolvers()
    config = composed(*TINY)
    names = ("2026-01-01/10-00-00_a", "2026-01-02/10-00-00_b", "2026-01-02/11-00-00_other")
    for age, name in enumerate(names):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        state = resume.RunState(resume.settings(composed(*TINY, "seed=1") if "other" in name else config))
        state.write(folder)
        os.utime(folder / resume.STATE, (age, age))
    fresh = str(tmp_path / "2026-01-03" / "09-00-00_c")
    assert resume.run_folder(fresh, composed(*TINY)) == fresh
    assert resume.run_folder(fresh, composed(*TINY, "resume=auto")) == str(tmp_path / names[1])
    assert resume.run_folder(fresh, composed(*TINY, "data.resident=false", "tracking=csv", "resume=auto")) != fresh
    state = resume.RunState.read(tmp_path / names[1])
    resume.RunState(state.settings, objective=0.5).write(tmp_path / names[1])
    os.utime(tmp_path / names[1] / resume.STATE, (1, 1))
    assert resume.run_folder(fresh, composed(*TINY, "resume=auto")) == str(tmp_path / names[1]), "a finished run too"
    assert resume.run_folder(fresh, composed(*TINY, "optimizer=adam", "resume=auto")) == fresh
    path = tmp_path / names[0] / "checkpoints" / "last.ckpt"
    assert resume.run_folder(fresh, composed(*TINY, f"resume={path}")) == str(tmp_path / names[0])
    (tmp_path / names[1] / resume.STATE).write_text("half a fi")
    assert resume.run_folder(fresh, composed(*TINY, "resume=auto")) == str(tmp_path / names[0])


def test_the_location_of_the_data_is_not_a_setting(composed, tmp_path: Path) -> None:
    here, there = (
        resume.settings(composed("data=fer2013", f"data.path={place}/fer2013.csv", f"data.votes_path={place}/new.csv"))
        for place in ("here", "there")
    )
    assert here == there
    other = resume.settings(composed("data=fer2013", "data.path=here/fer2013.csv", "data.targets=votes"))
    assert resume.differences(here, other) == "data.targets labels (now votes)"


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_run_of_any_model_is_found_again(composed, tmp_path: Path, path: Path) -> None:
    settings = resume.settings(composed(f"model={path.stem}", "++model.name=resnet10t"))
    resume.RunState(settings).write(tmp_path)
    assert resume.RunState.read(tmp_path).settings == settings


def test_options_with_equal_keys_are_different_settings() -> None:
    adam, radam = ({"optimizer": {"_target_": name, "lr": 0.1}} for name in ("torch.optim.Adam", "torch.optim.RAdam"))
    assert resume.differences(adam, radam) == "optimizer._target_ torch.optim.Adam (now torch.optim.RAdam)"


def test_two_processes_cannot_use_one_folder(composed, tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / ".lock"),
        pytest.raises(CompactHydraException, match="another process is training"),
    ):
        train(composed(*TINY))


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


def test_a_file_is_synchronised_with_a_writable_handle(tmp_path: Path, monkeypatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    modes: list[int] = []
    monkeypatch.setattr("os.fsync", lambda handle: modes.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE))
    write_json(tmp_path / "record.json", {})
    assert modes[0] == os.O_RDWR  # Windows requires it


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
        assert len(saved(disk / "run")["history"]) == 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)


SINGLE_RUN = ["hydra.run.dir=run"]
MULTIRUN = ["-m", "optimizer.lr=1e-3,1e-4", "hydra.sweep.dir=run"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
@pytest.mark.parametrize(("kind", "folder"), [(SINGLE_RUN, "run"), (MULTIRUN, "run/0")])
def test_a_run_stopped_by_a_signal_prints_the_command_to_continue(
    tmp_path: Path, kind: list[str], folder: str, number: int, status: int
) -> None:
    overrides = [*TRACKED, "trainer.max_epochs=500", "resume=auto", *kind]
    command = [sys.executable, str(ROOT / "train.py"), *overrides, f"paths.mlruns_dir={tmp_path}/mlruns"]
    child = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / folder / "checkpoints" / "last.ckpt").exists():
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.02)
    child.send_signal(number)
    lines = child.communicate(timeout=300)[1].strip().splitlines()
    assert child.returncode == status
    assert len(lines) == 2, lines
    assert lines[0].startswith("Stopped by")
    assert "last.ckpt" in lines[0]
    assert lines[1].startswith("To resume: python train.py")
    assert set(shlex.split(lines[1])) >= {"resume=auto", *kind}
    client = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("fer_lightning").experiment_id])
    assert {run.info.status for run in runs} == {"KILLED"}  # in a multirun the parent too


def test_sigterm_while_data_are_read_also_requeues(composed, tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.setattr("fer_lightning.run.train.prepare_data", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        train(composed(*TINY))
    assert caught.value.code == 75
    assert "before the end of its first epoch" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is handler


def test_the_command_line_resumes_in_the_same_folder(tmp_path: Path) -> None:
    def run_train(*overrides: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "train.py"), *TINY, "trainer.max_epochs=2", *overrides]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert run_train().returncode == 0
    [folder] = tmp_path.glob("outputs/*/*")
    state = resume.RunState.read(folder)
    assert state is not None
    resume.RunState(state.settings).write(folder)  # as if it had not finished
    history = saved(folder)["history"]
    resumed = run_train("resume=auto")
    assert resumed.returncode == 0, resumed.stderr
    assert f"continues after epoch 2 from {folder.relative_to(tmp_path)}" in resumed.stdout
    assert [*tmp_path.glob("outputs/*/*")] == [folder]
    assert saved(folder)["history"] == history
    assert OmegaConf.load(folder / "config.yaml").resume == "auto"
