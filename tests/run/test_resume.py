"""Runs that are killed or stopped, and resumed."""

import os
import signal
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.processes import run_train, start_process
from helpers.runs import (
    TINY,
    TINY_TRACKED,
    StopError,
    assert_same_result,
    contents_of,
    edited_checkpoint,
    load_checkpoint,
    stopped_after,
)
from helpers.tracking import client_of, tracked_runs
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from fer_lightning.config import CONF
from fer_lightning.data.protocols.standard import official
from fer_lightning.data.sources.synthetic import draw_faces
from fer_lightning.labels import FERPLUS_COLUMNS, FERPLUS_POSITIONS
from fer_lightning.run import resume
from fer_lightning.run.resolvers import register_resolvers
from fer_lightning.run.resume import StartPoint, changed_settings
from fer_lightning.run.train import train
from fer_lightning.training.module import FERModule


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests must not change it."""
    register_resolvers()
    folder = tmp_path_factory.mktemp("finished") / "run"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        train(compose("config", [*TINY, f"paths.output_dir={folder}"]))
    return folder


def points(store: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Every point of every metric, by run id and metric."""
    client = client_of(store)
    return {
        run.info.run_id: {
            name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        for run in tracked_runs(client)
    }


KILLED_AFTER = {
    "a batch of epoch 1": (FERModule, "training_step", lambda module, *_: module.current_epoch == 0, 0),
    "the validation of epoch 3": (FERModule, "validation_step", lambda module, *_: module.current_epoch == 2, 2),
    "half a checkpoint of epoch 4": (torch, "save", lambda checkpoint, _: checkpoint["epoch"] == 3, 3),
    "a batch of the test": (FERModule, "test_step", lambda *_: True, 6),
}
"""The function in which a process kills itself, in which call of it, and how many epochs were complete."""


def train_until_killed(moment: str, config: DictConfig, hydra: DictConfig | None) -> None:
    """Train in a process that Hydra did not start."""
    owner, name, is_moment, _ = KILLED_AFTER[moment]
    function = getattr(owner, name)

    def killed(*arguments: object) -> object:
        result = function(*arguments)
        if is_moment(*arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, killed)
    register_resolvers()
    HydraConfig.instance().cfg = hydra
    train(config)


def test_a_run_that_is_killed_again_and_again_has_the_result_of_an_uninterrupted_one(composed, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = [*TINY_TRACKED, "trainer.max_epochs=6", "augmentation=cutmix", "model.dropout=0.5"]
    options += ["callbacks=ema", "callbacks.ema.update_starting_at_step=1"]
    train(composed(*options, f"paths.output_dir={whole}", f"paths.mlruns_dir={tmp_path / 'mlruns_whole'}"))
    config = composed(*options, f"paths.output_dir={killed}", "resume=auto")
    last = killed / "checkpoints" / "last.ckpt"
    for moment, (*_, epochs) in KILLED_AFTER.items():
        child = start_process(train_until_killed, moment, config, HydraConfig.instance().cfg)
        child.join()
        assert child.exitcode == -signal.SIGKILL, moment
        assert (len(load_checkpoint(killed)["history"]) if last.exists() else 0) == epochs, moment
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


def test_csv_and_training_time_continue(composed, tmp_path: Path) -> None:
    options = [*TINY_TRACKED, "tracking=csv", "trainer.max_epochs=3", "resume=auto"]
    with stopped_after(epochs=1):
        train(composed(*options))
    before = load_checkpoint(tmp_path / "run")["callbacks"]["TrainingProgress"]["seconds"]
    train(composed(*options))
    table = pd.read_csv(tmp_path / "run" / "csv" / "metrics.csv").dropna(subset="train/loss")
    assert table["step"].tolist() == [1, 2, 3]
    assert load_checkpoint(tmp_path / "run")["callbacks"]["TrainingProgress"]["seconds"] > before > 0


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
    epochs = len(load_checkpoint(tmp_path / "run")["history"])
    assert epochs < 8
    train(composed(*options))
    assert len(load_checkpoint(tmp_path / "run")["history"]) == epochs


def test_changed_settings_in_the_same_folder_are_named(composed) -> None:
    train(composed(*TINY))
    with pytest.raises(CompactHydraException, match=r"optimizer\.lr 0\.002 \(now 0\.1\)"):
        train(composed(*TINY, "optimizer.lr=0.1", "resume=auto"))


def test_changed_data_are_refused(composed, tmp_path: Path, monkeypatch) -> None:
    options = [*TINY, "trainer.max_epochs=2", "protocol=kaggle"]
    with stopped_after(epochs=1):
        train(composed(*options))
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
        with stopped_after(epochs=1):
            train(composed(*options))
        with monkeypatch.context() as patch:
            patch.setattr("fer_lightning.data.sources.synthetic._simulate_votes", lambda labels, rng: votes_for(labels))
            with pytest.raises(CompactHydraException, match="the data have changed") if refused else nullcontext():
                train(composed(*options, "resume=auto"))


def votes_for(labels: np.ndarray) -> np.ndarray:
    """Ten votes for each label, none for another emotion."""
    votes = np.zeros((len(labels), len(FERPLUS_COLUMNS)), np.float32)
    votes[np.arange(len(labels)), np.array(FERPLUS_POSITIONS)[labels]] = 10
    return votes


def test_a_leaky_run_is_resumed_only_under_its_own_protocol(composed, tmp_path: Path) -> None:
    options = [*TINY, "trainer.max_epochs=2"]
    with stopped_after(epochs=1):
        train(composed(*options, "protocol=leaky_selected"))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(CompactHydraException, match="under leaky_selected, which leaks"):
        train(composed(*options, f"resume={last}", f"paths.output_dir={tmp_path / 'other'}"))
    train(composed(*options, "protocol=leaky_selected", "resume=auto"))
    assert len(load_checkpoint(tmp_path / "run")["history"]) == 2


def test_a_finished_run_on_other_data_is_refused(composed, monkeypatch) -> None:
    train(composed(*TINY))
    monkeypatch.setattr("fer_lightning.data.sources.synthetic.content_fingerprint", lambda *_: "0" * 64)
    with pytest.raises(CompactHydraException, match="the data have changed since"):
        train(composed(*TINY, "resume=auto"))


def test_the_best_epoch_on_other_data_is_ignored(composed, tmp_path: Path, monkeypatch) -> None:
    train(composed(*TINY))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with edited_checkpoint(path) as content:
        [state] = (
            s for k, s in content["callbacks"].items() if k.startswith("CheckpointThatMoves") and s["best_k_models"]
        )
        state["best_k_models"] = dict.fromkeys(state["best_k_models"], torch.tensor(1.0))
        state["best_model_score"] = torch.tensor(1.0)
    monkeypatch.setattr("fer_lightning.data.sources.synthetic.content_fingerprint", lambda *_: "0" * 64)
    train(composed(*TINY, "trainer.max_epochs=2", f"resume={path}"))
    assert load_checkpoint(tmp_path / "run", "best")["history"][-1]["epoch"] == 2


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
    with edited_checkpoint(last) as content:
        content["lr_schedulers"][0] |= {"best": 2.0, "num_bad_epochs": 0}  # better than any accuracy
    resumed = ["trainer.max_epochs=2", f"resume={last}"]
    train(composed(*plateau, *resumed, f"paths.output_dir={tmp_path / 'same'}"))
    train(composed(*plateau, *resumed, "data.count=220", f"paths.output_dir={tmp_path / 'other'}"))
    same, other = (load_checkpoint(tmp_path / name)["optimizer_states"][0] for name in ("same", "other"))
    assert same["param_groups"][0]["lr"] < other["param_groups"][0]["lr"]


@pytest.mark.parametrize("batch_size", [8, 64])
def test_a_schedule_continues_at_its_epoch_with_another_batch_size(composed, tmp_path: Path, batch_size: int) -> None:
    options = [*TINY, "scheduler=cosine", "scheduler.final_fraction=0", "scheduler.warmup_epochs=0"]
    train(composed(*options, "trainer.max_epochs=1", f"paths.output_dir={tmp_path / 'first'}"))
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    changed = ["trainer.max_epochs=4", f"trainer.batch_size={batch_size}"]
    train(composed(*options, *changed, f"resume={last}", f"paths.output_dir={tmp_path / 'resumed'}"))
    train(composed(*options, *changed, f"paths.output_dir={tmp_path / 'whole'}"))
    resumed, whole = (load_checkpoint(tmp_path / name)["history"][1:] for name in ("resumed", "whole"))
    assert [row["lr"] for row in resumed] == pytest.approx([row["lr"] for row in whole])


def test_a_row_of_the_results_has_one_recipe(composed, finished: Path) -> None:
    options = [*TINY, f"resume={finished}/checkpoints/last.ckpt", "paths.results_dir=results"]
    assert StartPoint.find(composed(*options), finished, Console()).path is not None
    with pytest.raises(ValueError, match=r"model\.dropout .* \(now 0\.4\).* must be of one recipe"):
        StartPoint.find(composed(*options, "model.dropout=0.4"), finished, Console())


def test_a_row_of_the_results_has_one_data_set(composed, finished: Path) -> None:
    last = finished / "checkpoints" / "last.ckpt"
    faces = draw_faces(220, image_size=24)
    for options in ([], ["paths.results_dir=results"]):
        config = composed(*TINY, f"resume={last}", *options)
        with pytest.raises(ValueError, match="must be of one data set") if options else nullcontext():
            StartPoint.read(last).check_data(config, faces, official(faces), Console())


def test_class_weights_follow_the_current_sampler(composed, tmp_path: Path) -> None:
    train(composed(*TINY, "loss=weighted_cross_entropy"))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert load_checkpoint(tmp_path / "run")["state_dict"]["loss.weight"].max() > 1
    resumed = ["trainer.max_epochs=2", f"resume={last}", f"paths.output_dir={tmp_path / 'resumed'}"]
    train(composed(*TINY, "loss=weighted_cross_entropy", *resumed, "data.sampler=balanced"))
    assert load_checkpoint(tmp_path / "resumed")["state_dict"]["loss.weight"].tolist() == [1.0] * 7


def test_fewer_epochs_than_trained_are_refused_without_changes(composed, tmp_path: Path) -> None:
    train(composed(*TINY, "trainer.max_epochs=2"))
    files = contents_of(tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(CompactHydraException, match=r"trained for 2 epochs: trainer\.max_epochs=1 must be 2 or more"):
        train(composed(*TINY, f"resume={last}"))
    assert contents_of(tmp_path / "run") == files


def test_workers_draw_the_epoch_of_a_resumed_run(composed, tmp_path: Path) -> None:
    options = [*TINY, "trainer.max_epochs=2", "augmentation=standard", "data.workers=1"]
    train(composed(*options, f"paths.output_dir={tmp_path / 'whole'}"))
    with stopped_after(epochs=1):
        train(composed(*options))
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
    composed, finished: Path, monkeypatch, changed: str, named: str
) -> None:
    monkeypatch.setattr("fer_lightning.run.train.prepare_data", lambda _: pytest.fail("data were read"))
    with pytest.raises(CompactHydraException, match=named):
        train(composed(*TINY, f"resume={finished}/checkpoints/last.ckpt", changed))


def test_a_checkpoint_of_another_class_order_is_refused(composed, tmp_path: Path) -> None:
    train(composed(*TINY))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with edited_checkpoint(path) as content:
        content["hyper_parameters"]["classes"].reverse()
    with pytest.raises(CompactHydraException, match="has the classes neutral, surprise"):
        train(composed(*TINY, f"resume={path}"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CompactHydraException, match="not a checkpoint that a run can continue from"):
        train(composed(*TINY, f"resume={path}"))


def test_a_checkpoint_of_another_protocol_is_refused(composed, finished: Path) -> None:
    path = finished / "checkpoints" / "last.ckpt"
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


def test_the_location_of_the_data_is_not_a_setting(composed) -> None:
    here, there = (
        resume.settings(composed("data=fer2013", f"data.path={place}/fer2013.csv", f"data.votes_path={place}/new.csv"))
        for place in ("here", "there")
    )
    assert here == there
    other = resume.settings(composed("data=fer2013", "data.path=here/fer2013.csv", "data.targets=votes"))
    assert resume.differences(here, other) == "data.targets labels (now votes)"


@pytest.mark.parametrize("path", sorted((CONF / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_run_of_any_model_is_found_again(composed, tmp_path: Path, path: Path) -> None:
    settings = resume.settings(composed(f"model={path.stem}", "++model.name=resnet10t"))
    resume.RunState(settings).write(tmp_path)
    assert resume.RunState.read(tmp_path).settings == settings


def test_options_with_equal_keys_are_different_settings() -> None:
    adam, radam = ({"optimizer": {"_target_": name, "lr": 0.1}} for name in ("torch.optim.Adam", "torch.optim.RAdam"))
    assert resume.differences(adam, radam) == "optimizer._target_ torch.optim.Adam (now torch.optim.RAdam)"


def test_the_command_line_resumes_in_the_same_folder(tmp_path: Path) -> None:
    command = [*TINY, "trainer.max_epochs=2"]
    assert run_train(*command, cwd=tmp_path).returncode == 0
    [folder] = tmp_path.glob("outputs/*/*")
    state = resume.RunState.read(folder)
    assert state is not None
    resume.RunState(state.settings).write(folder)  # as if it had not finished
    history = load_checkpoint(folder)["history"]
    resumed = run_train(*command, "resume=auto", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert f"continues after epoch 2 from {folder.relative_to(tmp_path)}" in resumed.stdout
    assert [*tmp_path.glob("outputs/*/*")] == [folder]
    assert load_checkpoint(folder)["history"] == history
    assert OmegaConf.load(folder / "config.yaml").resume == "auto"


@pytest.mark.parametrize(
    ("scheduler", "optimizer"),
    [("cosine", "adamw"), ("plateau", "adamw"), ("onecycle", "adamw"), ("step", "adamw"), ("onecycle", "muon")],
)
def test_a_resumed_run_has_the_result_of_an_uninterrupted_one(
    composed, tmp_path: Path, scheduler: str, optimizer: str
) -> None:
    options = [
        *TINY, f"scheduler={scheduler}", f"optimizer={optimizer}", "augmentation=cutmix",
        "callbacks=ema", "callbacks.ema.update_starting_at_step=1", "trainer.max_epochs=4", "model.dropout=0.5",
    ]  # fmt: skip
    if scheduler == "plateau":
        options += ["scheduler.patience=0"]
    if scheduler == "step":
        options += ["scheduler.every_epochs=1"]
    train(composed(*options, f"paths.output_dir={tmp_path / 'whole'}"))
    stopped = tmp_path / "stopped"
    with stopped_after(epochs=2):
        train(composed(*options, f"paths.output_dir={stopped}"))
    assert len(load_checkpoint(stopped)["history"]) == 2
    train(composed(*options, f"paths.output_dir={stopped}", f"resume={stopped}/checkpoints/last.ckpt"))
    assert_same_result(tmp_path / "whole", stopped)


def test_an_added_option_is_no_changed_setting_but_an_added_component_is() -> None:
    before = {"model": {"_target_": "net", "width": 8}, "mix": None, "callbacks": {}}
    assert changed_settings(before, before | {"model": before["model"] | {"pool": False}}) == ""
    assert changed_settings(before, before | {"model": before["model"] | {"width": 9}}) == "model.width 8 (now 9)"
    assert "mix._target_ nothing (now MixUp)" in changed_settings(before, before | {"mix": {"_target_": "MixUp"}})
    ema = {"callbacks": {"ema": {"decay": 1}}}
    assert changed_settings(before, before | ema) == "callbacks.ema.decay nothing (now 1)"
