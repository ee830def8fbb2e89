"""Complete runs on a few synthetic faces."""

import json
import math
import shutil
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from helpers.runs import TINY, TINY_TRACKED, edited_checkpoint, load_checkpoint
from helpers.tracking import client_of, tracked_runs
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import open_dict, read_write
from pytorch_lightning.utilities import rank_zero_only

from fer_lightning.config import ROOT
from fer_lightning.run.job import Job
from fer_lightning.run.record import result_path
from fer_lightning.run.resolvers import register_resolvers
from fer_lightning.run.resume import settings
from fer_lightning.run.train import train
from fer_lightning.run.trainer import become_first_process, build_trainer, check_devices, choose_precision
from fer_lightning.training.module import load_module


def test_a_run_writes_all_files_to_its_folder(composed, tmp_path: Path) -> None:
    objective = train(composed(*TINY, "loss=weighted_cross_entropy", "trainer.max_epochs=2"))
    run = tmp_path / "run"
    for name in (
        "classification_report.json",
        "classification_report.txt",
        "confusion_matrix.png",
        "training_curves.png",
        "per_class_f1.png",
        "sample_predictions.png",
        "confidently_wrong.png",
        "predictions.parquet",
        "history.csv",
        "config.yaml",
        "record.json",
    ):
        assert (run / name).stat().st_size > 0, name
    saved = load_checkpoint(run, "best")
    assert saved["history"][-1]["val/accuracy"] == pytest.approx(objective)
    assert saved["state_dict"]["loss.weight"].max() > 1
    provenance = saved["hyper_parameters"]["provenance"]
    assert provenance["data"] == "synthetic"
    assert provenance["protocol"] == "official"
    assert len(provenance["data_fingerprint"]) == 64
    assert saved["hyper_parameters"]["classes"][3] == "happy"
    record = json.loads((run / "record.json").read_text())
    head = ("experiment", "seed", "protocol", "data_fingerprint", "command", "commit", "machine", "versions")
    for key in (*head, "epochs", "minutes", "params", "test"):
        assert key in record, key
    assert record["test_deduplicated"].keys() >= {
        "n", "accuracy", "accuracy_interval", "macro_f1", "balanced_accuracy", "ece", "per_class_f1",
    }  # fmt: skip
    table = pd.read_parquet(run / "predictions.parquet")
    assert len(table) == record["test"]["n"]
    assert table["correct"].mean() == pytest.approx(record["test"]["accuracy"])
    assert set(table["usage"]) == {"PrivateTest"}
    names = list(record["test"]["per_class_f1"])
    counts = pd.crosstab(table["label"], table["predicted"]).reindex(index=names, columns=names, fill_value=0)
    assert record["test"]["confusion_matrix"] == counts.to_numpy().tolist()


def test_the_seed_determines_the_metrics(composed, tmp_path: Path) -> None:
    rows = []
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        train(composed(*TINY, f"seed={seed}", "augmentation=mixup", f"paths.output_dir={tmp_path / name}"))
        rows.append(load_checkpoint(tmp_path / name)["history"])
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]


def test_mlflow_holds_the_settings_and_the_scores_of_a_run(composed, tmp_path: Path) -> None:
    train(composed(*TINY_TRACKED, "model=sequential_cnn", "optimizer.lr=3e-4", "trainer.max_epochs=2"))
    client = client_of(tmp_path / "mlruns")
    [run] = tracked_runs(client)
    assert run.data.params["model"] == "sequential_cnn"
    assert run.info.status == "FINISHED"
    assert run.info.run_name.startswith("sequential_cnn ")
    assert run.info.run_name.endswith("optimizer.lr=3e-4 trainer.max_epochs=2 seed=0")
    assert run.data.params["optimizer.lr"] == "0.0003"
    assert run.data.params["optimizer"] == "adamw"
    assert run.data.tags["synthetic"] == "true"
    assert run.data.tags["seed"] == "0"
    assert run.data.tags.keys() >= {"data", "data_fingerprint", "protocol", "commit"}
    history = client.get_metric_history(run.info.run_id, "val/f1_happy")
    assert [point.step for point in history] == [1, 2]
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert run.data.metrics["test/accuracy"] == pytest.approx(record["test"]["accuracy"])
    assert "test_deduplicated/macro_f1" in run.data.metrics
    artifacts = {f.path for f in client.list_artifacts(run.info.run_id)}
    assert artifacts >= {"confusion_matrix.png", "record.json", "predictions.parquet", "checkpoints"}


def test_passwords_are_not_written_to_checkpoints_and_hidden_files(composed, tmp_path: Path) -> None:
    uri = "tracking.uri=postgresql://me:hunter2@db.example/runs"
    config = composed(*TINY)
    with open_dict(HydraConfig.get()), read_write(HydraConfig.get()):
        HydraConfig.get().overrides.task = [uri]
    hidden = tmp_path / "run" / ".hydra"
    hidden.mkdir(parents=True)
    (hidden / "overrides.yaml").write_text(f"- {uri}\n")
    train(config)
    assert "postgresql://me:***@db.example/runs" in (hidden / "overrides.yaml").read_text()
    written = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(b"hunter2" in content for content in written)


def test_an_unwritable_results_folder_is_reported_before_training(composed, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", Path("/proc/results")):
        with pytest.raises(CompactHydraException, match=f"paths.results_dir={path}: .* cannot be written"):
            train(composed(*TINY, "experiment=custom_cnn", f"paths.results_dir={path}"))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_published_record_is_not_overwritten_by_another_command(composed, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    published = results / "custom_cnn_seed0.json"
    published.write_text('{"command": "python train.py experiment=custom_cnn optimizer.lr=0.5"}')
    with pytest.raises(CompactHydraException, match="holds the rows of the results table: add experiment=NAME"):
        train(composed(*TINY, f"paths.results_dir={results}"))
    row = [*TINY, "experiment=custom_cnn", "eval=plain"]
    with pytest.raises(CompactHydraException, match="holds the record of `python train"):
        train(composed(*row, f"paths.results_dir={results}"))
    published.unlink()
    for name in ("run", "again"):
        train(composed(*row, f"paths.results_dir={results}", f"paths.output_dir={tmp_path / name}"))
    record = json.loads(published.read_text())
    assert record["kaggle_test"]["n"] == 40
    assert record["settings"] == {name: value for name, value in settings(composed(*row)).items() if name != "seed"}
    folds = ["protocol=kfold", f"paths.results_dir={tmp_path / 'folds'}", f"paths.output_dir={tmp_path / 'fold'}"]
    train(composed(*row, *folds))
    assert "kaggle_test" not in json.loads((tmp_path / "folds" / published.name).read_text())


@pytest.mark.parametrize(
    ("local", "named"),
    [
        (
            "optimizer:\n  lr: 0.5",
            r"conf/local changes .*experiment=custom_cnn.* trains: optimizer\.lr \S+ \(now 0\.5\);",
        ),
        ("data:\n  sampler: balanced", r"trains: data\.sampler shuffled \(now balanced\);"),
        ("defaults:\n  - override /data: folder\ndata:\n  path: faces\ntracking: null", None),
    ],
)
def test_settings_of_conf_local_are_not_published(tmp_path: Path, local: str, named: str | None) -> None:
    register_resolvers()
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "local" / "default.yaml").write_text(f"# @package _global_\n{local}\n")
    overrides = ["experiment=custom_cnn", f"paths.results_dir={tmp_path}"]
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        config = compose("config", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with nullcontext() if named is None else pytest.raises(ValueError, match=named):
            result_path(config, Job.current())
    HydraConfig.instance().cfg = None


def test_a_compiled_network_trains_alike_with_the_same_parameter_names(composed, tmp_path: Path) -> None:
    overrides = [
        *TINY,
        "model=sequential_cnn",
        "model.width=4",
        "model.hidden=8",
        "objective=val/loss",
        "objective_mode=min",
    ]
    plain_loss = train(composed(*overrides))
    plain = load_checkpoint(tmp_path / "run", "best")["state_dict"]
    fast = ["trainer.compile=true", f"paths.output_dir={tmp_path / 'compiled'}"]
    assert train(composed(*overrides, *fast)) == pytest.approx(plain_loss, abs=1e-3)
    compiled = load_checkpoint(tmp_path / "compiled", "best")["state_dict"]
    assert compiled.keys() == plain.keys()


def test_gradients_are_clipped_before_a_fused_step_in_mixed_precision(composed) -> None:
    clipped = [*TINY, "model=sequential_cnn", "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1"]
    assert train(composed(*clipped, "optimizer=adam")) >= 0


def test_the_objective_is_that_of_the_best_epoch(composed, tmp_path: Path) -> None:
    value = train(composed(*TINY, "objective=val/loss", "objective_mode=min", "trainer.max_epochs=3"))
    history = load_checkpoint(tmp_path / "run")["history"]
    assert value == pytest.approx(min(row["val/loss"] for row in history))
    assert math.isfinite(value)


def test_epochs_without_validation_have_no_scores_and_are_not_selected(composed, tmp_path: Path) -> None:
    every = ["trainer.max_epochs=4", "trainer.check_val_every_n_epoch=2", "scheduler=plateau", "scheduler.patience=0"]
    value = train(composed(*TINY, *every, f"paths.output_dir={tmp_path / 'run'}"))
    history = load_checkpoint(tmp_path / "run")["history"]
    assert [("val/accuracy" in row, "train/loss" in row) for row in history] == [(False, True), (True, True)] * 2
    assert value == max(history[1]["val/accuracy"], history[3]["val/accuracy"])
    assert load_checkpoint(tmp_path / "run", "best")["history"][-1]["epoch"] in (2, 4)
    assert (tmp_path / "run" / "training_curves.png").is_file()


def test_weights_trained_on_measured_images_are_refused(composed, tiny_runs, tmp_path: Path) -> None:
    checkpoint = tiny_runs[0] / "checkpoints" / "best.ckpt"
    start = [*TINY, "model=sequential_cnn", f"model.weights={checkpoint}"]
    with pytest.raises(
        CompactHydraException, match=r"under official, which trains on \d+ of the \d+ images of val under kfold"
    ):
        train(composed(*start, "protocol=kfold"))
    assert train(composed(*start)) >= 0  # the same images in the same parts
    assert train(composed(*start, "protocol=subset", "protocol.fraction=0.5", f"paths.output_dir={tmp_path}/part")) >= 0
    sized = {"protocol": "kfold(fold=0 of 5)", "data": "synthetic", "data_fingerprint": "of another size"}
    safetensors.torch.save_file({}, tmp_path / "sized.safetensors", metadata=sized)
    resized = [*start[:-1], f"model.weights={tmp_path}/sized.safetensors", f"paths.output_dir={tmp_path}/sized"]
    for protocol in ("official", "kfold"):  # whose folds differ with the data
        with pytest.raises(
            CompactHydraException, match=r"sized\.safetensors was trained on another version of synthetic"
        ):
            train(composed(*resized, f"protocol={protocol}"))
    origin = {"protocol": "leaky_pooled", "data": "elsewhere", "data_fingerprint": "f"}
    weights = {
        key: value.contiguous() for key, value in load_module(checkpoint).network.state_dict().items() if key != "luma"
    }
    safetensors.torch.save_file(weights, tmp_path / "leaky.safetensors", metadata=origin)
    leaky = [
        "model=sequential_cnn",
        f"model.weights={tmp_path}/leaky.safetensors",
        f"paths.output_dir={tmp_path}/leaky",
    ]
    with pytest.raises(CompactHydraException, match=r"leaky\.safetensors was trained under leaky_pooled, which leaks"):
        train(composed(*TINY, *leaky))
    safetensors.torch.save_file(weights, tmp_path / "leaky.safetensors", metadata={"format": "pt"})
    assert train(composed(*TINY, *leaky)) >= 0  # of unknown provenance, as weights of other projects are


def test_a_checkpoint_names_what_its_initial_weights_were_trained_on(composed, tiny_runs, tmp_path: Path) -> None:
    with edited_checkpoint(tiny_runs[0] / "checkpoints" / "best.ckpt", tmp_path / "pretrained.ckpt") as content:
        content["hyper_parameters"]["provenance"] |= {"data": "elsewhere", "data_fingerprint": "f"}
    start = [*TINY, "model=sequential_cnn", f"model.weights={tmp_path}/pretrained.ckpt"]
    for more in ([], ["trainer.max_epochs=2", f"resume={tmp_path}/run/checkpoints/last.ckpt"]):
        train(composed(*start, *more))
    [earlier] = load_checkpoint(tmp_path / "run")["hyper_parameters"]["provenance"]["earlier"]
    assert (earlier["data"], earlier["data_fingerprint"], earlier["protocol"]) == ("elsewhere", "f", "official")


@pytest.mark.parametrize(
    ("devices", "gpus", "one"), [([1], 4, True), ("auto", 1, True), ("auto", 2, False), (2, 2, False)]
)
def test_one_device_is_distinguished_from_several(composed, monkeypatch, devices: object, gpus: int, one: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    config = composed(*TINY, f"trainer.devices={devices}", "trainer.on_nan=skip")
    with nullcontext() if one else pytest.raises(ValueError, match="needs a single process"):
        check_devices(config, Job.current())


@pytest.mark.parametrize(
    ("override", "rank"),
    [("trainer.devices=1", 0), ("trainer.devices=[3]", 0), ("trainer=ddp", 2), ("trainer.devices=2", 2)],
)
def test_a_process_that_trains_alone_is_the_first_whatever_its_srun_rank(
    composed, monkeypatch, override: str, rank: int
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 2)  # as SLURM_PROCID=2 sets it at import
    become_first_process(composed(*TINY, override))
    assert rank_zero_only.rank == rank


def test_an_srun_task_that_trains_alone_writes_its_record(composed, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 2)
    train(composed(*TINY))
    assert (tmp_path / "run" / "record.json").is_file()


def test_bfloat16_that_a_gpu_only_emulates_is_not_selected(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for native, precision in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: including_emulation or native
        )
        assert choose_precision("auto", torch.nn.Linear(1, 1), "auto") == precision


@pytest.mark.parametrize(
    ("deterministic", "on_cuda", "timed"), [(False, True, True), (True, True, False), (False, False, False)]
)
def test_cudnn_selects_kernels_by_time_unless_runs_must_be_equal(
    composed, monkeypatch, tmp_path: Path, deterministic: bool, on_cuda: bool, timed: bool
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr("fer_lightning.run.trainer.uses_cuda", lambda _: on_cuda)
    config = composed(*TINY, f"trainer.deterministic={deterministic}".lower())
    build_trainer(config, tmp_path, torch.nn.Linear(1, 1), logger=False)
    torch.use_deterministic_algorithms(False)
    assert torch.backends.cudnn.benchmark is timed


def test_a_leaky_run_is_not_stored_in_the_results(composed, tmp_path: Path) -> None:
    with pytest.raises(CompactHydraException, match=r"leaky_selected leaks, so its scores are not results"):
        train(composed(*TINY, "experiment=custom_cnn", "protocol=leaky_selected", f"paths.results_dir={tmp_path}"))


def test_a_leaky_run_is_marked(composed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(composed(*TINY, "model=sequential_cnn", "protocol=leaky_selected"))
    output = capsys.readouterr().out
    assert "LEAKY PROTOCOL" in output
    assert "no number of this run is a result" in output
    written = json.loads((tmp_path / "run" / "record.json").read_text())
    assert written["leaky"]
    assert written["protocol"] == "leaky_selected"
