"""Runs are logged to MLflow, to a csv or not at all."""

import json
import logging
import os
import shlex
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from helpers.processes import free_port
from helpers.tracking import client_of, logged_run, tracking_server, warnings_of
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pytorch_lightning import Trainer
from pytorch_lightning.demos.boring_classes import BoringModel

from fer_lightning.reporting import tracking
from fer_lightning.reporting.mlflow_store import RUN_ID


def test_a_run_is_stored_as_it_was_logged(store, tmp_path, capfd):
    folder = tmp_path / "outputs"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    (folder / "record.json").write_text("{}")
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text("- tracking.uri=http://me:secret@host")
    params = {
        "model": "efficientnet",
        "optimizer.lr": 3e-4,
        "scheduler": None,
        "long": "x" * 9000,
        "odd[0]": 1,
    }
    params |= {f"many.{number}": number for number in range(150)}
    tags = {"data": "fer2013", "synthetic": "false", "seed": "0"}
    dataset = {"name": "fer2013", "digest": "ec219cb045d6", "profile": {"num_rows": 35887, "shape": (48, 48)}}
    arguments = {"run_name": "efficientnet seed=0", "tags": tags, "params": params, "dataset": dataset}
    with logged_run(store, folder, **arguments) as (logger,):
        for epoch in (1, 2, 3):
            logger.log_metrics({"val/accuracy": epoch / 10, "val/f1_happy": epoch / 20}, step=epoch)
        logger.finalize("success")  # as Lightning does after fit
        client = client_of(store)
        assert client.get_run(logger.run_id).info.status == "RUNNING"
        logger.log_metrics({"test/accuracy": 0.25}, step=3)
    run = client.get_run(logger.run_id)
    assert (run.info.run_name, run.info.status) == ("efficientnet seed=0", "FINISHED")
    assert tags.items() <= run.data.tags.items()
    assert run.data.params["model"] == "efficientnet"
    assert run.data.params["optimizer.lr"] == "0.0003"
    assert run.data.params["odd_0_"] == "1"
    assert run.data.params["long"] == "x" * 250
    assert len(run.data.params) == len(params)
    history = client.get_metric_history(logger.run_id, "val/f1_happy")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.05), (2, 0.1), (3, 0.15)]
    assert run.data.metrics["test/accuracy"] == 0.25
    [logged] = [used.dataset for used in run.inputs.dataset_inputs]
    assert (logged.name, logged.digest) == ("fer2013", "ec219cb045d6")
    assert json.loads(logged.profile) == {"num_rows": 35887, "shape": [48, 48]}
    assert {file.path for file in client.list_artifacts(logger.run_id)} == {"checkpoints", "record.json"}
    uploaded = store / "artifacts" / logger.run_id / "artifacts" / "checkpoints" / "best.ckpt"
    assert uploaded.read_bytes() == b"weights"
    assert tracking.where([logger]) == f"mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///{store}/mlflow.db"
    found = client.search_runs([run.info.experiment_id], "params.model = 'efficientnet'")
    assert [other.info.run_id for other in found] == [logger.run_id]
    assert capfd.readouterr() == ("", "")


def test_the_command_that_opens_a_store_can_be_pasted_whatever_its_folder_is_called():
    logger = tracking.RunLogger.__new__(tracking.RunLogger)
    logger._tracking_uri = "sqlite:///my runs/mlflow.db"
    assert shlex.split(logger.where)[-1] == "sqlite:///my runs/mlflow.db"


class Interrupted(BoringModel):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def on_train_epoch_end(self):
        self.logger.log_metrics({"val/loss": 1.0}, step=1)
        raise self.error


@pytest.mark.parametrize(
    ("error", "raised", "status"),
    [(KeyboardInterrupt(), SystemExit, "KILLED"), (RuntimeError("out of memory"), RuntimeError, "FAILED")],
)
def test_a_training_that_ends_with_an_error_is_marked_in_mlflow(store, tmp_path, error, raised, status):
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(raised), logged_run(store, tmp_path / "run") as loggers:
            Trainer(
                logger=loggers,
                max_epochs=1,
                limit_train_batches=1,
                limit_val_batches=0,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=tmp_path,
                accelerator="cpu",
            ).fit(Interrupted(error))
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores it after the first Ctrl-C
    run = client_of(store).get_run(loggers[0].run_id)
    assert run.info.status == status
    assert run.data.metrics == {"val/loss": 1.0}
    assert torch.is_grad_enabled()


def test_metrics_that_the_store_refused_are_sent_at_the_end(store, tmp_path, monkeypatch, caplog):
    with logged_run(store, tmp_path / "run") as (logger,):
        logger.log_metrics({"val/loss": 3.0}, step=1)
        with monkeypatch.context() as broken:

            def refuse(*args, **kwargs):
                raise MlflowException("the disk is full")

            broken.setattr(logger.experiment, "log_batch", refuse)
            logger.log_metrics({"val/loss": 2.0}, step=2)
        logger.log_metrics({"val/loss": 1.0}, step=3)
    run = client_of(store).get_run(logger.run_id)
    history = client_of(store).get_metric_history(logger.run_id, "val/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert run.info.status == "FINISHED"
    (warning,) = warnings_of(caplog)
    assert "the disk is full" in warning


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A tracking server on a free port, and a function that stops it."""
    folder = tmp_path_factory.mktemp("server")
    with tracking_server(folder, f"sqlite:///{folder}/server.db") as (url, stop):
        yield url, stop


def test_a_tracking_server_receives_everything_and_may_fail(server, store, tmp_path, caplog, capfd):
    url, stop = server
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "record.json").write_text('{"accuracy": 0.6}')
    sweep = tmp_path / "sweep"
    with logged_run(store, folder, uri=url, params={"model": "vgg"}, sweep_dir=sweep) as (logger,):
        logger.log_metrics({"val/f1_happy": 0.8}, step=1)
    client = MlflowClient(url)
    run = client.get_run(logger.run_id)
    assert (run.info.status, run.data.params, run.data.metrics) == (
        "FINISHED",
        {"model": "vgg"},
        {"val/f1_happy": 0.8},
    )
    assert client.get_run(run.data.tags["mlflow.parentRunId"]).data.tags["sweep_dir"] == str(sweep)
    downloaded = client.download_artifacts(logger.run_id, "record.json", str(tmp_path))
    assert Path(downloaded).read_text() == '{"accuracy": 0.6}'
    page = f"{url}/#/experiments/{logger.experiment_id}/runs/{logger.run_id}?workflowType=machine_learning"
    assert tracking.where([logger]) == page
    assert warnings_of(caplog) == []
    assert capfd.readouterr().out == ""

    with logged_run(store, folder, uri=url) as (logger,):
        logger.log_metrics({"val/loss": 3.0}, step=1)
        stop()
        logger.log_metrics({"val/loss": 2.0}, step=2)
        logger.log_metrics({"val/loss": 1.0}, step=3)
    failed, incomplete, status = warnings_of(caplog)
    assert f"MLflow at {url} does not accept metrics (" in failed
    assert str(folder) in incomplete
    assert "FINISHED" in status


def test_csv_writes_one_row_per_epoch_and_the_settings(tmp_path, recwarn):
    (tmp_path / "train.log").write_text("")
    with tracking.csv(folder=tmp_path, run_name="x", tags={}, params={"model": "vgg"}, sweep_dir=None) as loggers:
        for epoch in (1, 2):
            loggers[0].log_metrics({"val/accuracy": epoch / 4, "lr": 0.1}, step=epoch)
    lines = (tmp_path / "csv" / "metrics.csv").read_text().splitlines()
    assert [line.split(",") for line in lines] == [
        ["lr", "step", "val/accuracy"],
        ["0.1", "1", "0.25"],
        ["0.1", "2", "0.5"],
    ]
    assert "model: vgg" in (tmp_path / "csv" / "hparams.yaml").read_text()
    assert tracking.where(loggers) is None
    assert not recwarn.list


def test_no_tracking_yields_no_logger(tmp_path):
    with tracking.no_tracking(folder=tmp_path, run_name="x", tags={}, params={}, sweep_dir=None) as loggers:
        assert loggers == []


def test_libraries_do_not_write_to_the_terminal():
    assert logging.getLogger("alembic").level == logging.WARNING
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_restarted_server_receives_everything(store, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "RETRY_INTERVAL", 0)
    backend, port = f"sqlite:///{tmp_path}/server.db", free_port()
    with (
        tracking_server(tmp_path, backend, port) as (url, stop),
        logged_run(store, tmp_path / "run", uri=url) as (logger,),
    ):
        logger.log_metrics({"val/loss": 4.0}, step=1)
        stop()
        logger.log_metrics({"val/loss": 3.0}, step=2)
        logger.log_metrics({"val/loss": 2.0}, step=3)
        with tracking_server(tmp_path, backend, port):
            logger.log_metrics({"val/loss": 1.0}, step=4)
            client = MlflowClient(url)
            history = client.get_metric_history(logger.run_id, "val/loss")
            assert [(point.step, point.value) for point in history] == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]
            logger.end("FINISHED", tmp_path / "run")
            assert client.get_run(logger.run_id).info.status == "FINISHED"
    failed, recovered = warnings_of(caplog)[:2]
    assert "does not accept metrics" in failed
    assert "accepts metrics again" in recovered


def test_a_resumed_run_keeps_its_id_and_logs_no_point_twice(store, tmp_path):
    folder = tmp_path / "run"
    with suppress(KeyboardInterrupt), logged_run(store, folder, params={"lr": 1}) as (first,):
        first.log_metrics({"val/loss": 2.0}, step=1)
        first.log_metrics({"val/loss": 1.5}, step=2)
        raise KeyboardInterrupt
    with logged_run(store, folder, params={"lr": 1}, resumed=True) as (logger,):
        assert logger.run_id == first.run_id
        assert client_of(store).get_run(first.run_id).info.status == "RUNNING"
        for step, loss in ((1, 2.0), (2, 1.5), (3, 1.0)):
            logger.log_metrics({"val/loss": loss, "val/new": loss}, step=step)
    run = client_of(store).get_run(first.run_id)
    assert run.info.status == "FINISHED"
    for name in ("val/loss", "val/new"):
        points = client_of(store).get_metric_history(first.run_id, name)
        assert [(point.step, point.value) for point in points] == [(1, 2.0), (2, 1.5), (3, 1.0)]
    client_of(store).delete_run(first.run_id)
    with logged_run(store, folder, params={"lr": 1}, resumed=True) as (other,):
        assert other.run_id != first.run_id
    (folder / RUN_ID).write_text("no id of this store")
    with logged_run(store, folder, params={"lr": 1}, resumed=True) as (another,):
        assert another.run_id not in (first.run_id, other.run_id)


def test_mlflows_environment_variable_selects_the_server(composed, monkeypatch) -> None:
    assert composed("data=synthetic").tracking.uri is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert composed("data=synthetic").tracking.uri == "http://host:5000"
    assert composed("data=synthetic", "tracking.uri=http://other").tracking.uri == "http://other"
