import json
import logging
import os
import shlex
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from conftest import free_port, start_process, tracking_server
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from omegaconf import OmegaConf
from pytorch_lightning import Trainer
from pytorch_lightning.demos.boring_classes import BoringModel

from fer_lightning.reporting import mlflow_parents, tracking
from fer_lightning.reporting.mlflow_store import RUN_ID, open_experiment


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A local store shared by all tests: MLflow takes seconds to create one."""
    return tmp_path_factory.mktemp("mlruns")


def client_of(store):
    return MlflowClient(f"sqlite:///{store}/mlflow.db")


def mlflow(store, folder, uri=None, run_name="run", tags=None, params=None, sweep_dir=None, timeout=5, dataset=None):
    folder.mkdir(exist_ok=True)
    return tracking.mlflow(
        uri,
        str(store),
        "faces",
        timeout,
        folder=folder,
        run_name=run_name,
        tags=tags or {},
        params=params or {},
        sweep_dir=sweep_dir,
        dataset=dataset,
    )


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("fer_lightning.reporting.")]


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
    with mlflow(store, folder, **arguments) as (logger,):
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
        with pytest.raises(raised), mlflow(store, tmp_path / "run") as loggers:
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
    with mlflow(store, tmp_path / "run") as (logger,):
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


def test_jobs_of_a_multirun_share_a_parent_run_that_names_the_best(store, tmp_path):
    sweep = tmp_path / "12-00-00_multirun_custom_cnn"
    config = OmegaConf.create(
        {
            "tracking": {"uri": None, "local_dir": str(store), "experiment_name": "faces", "timeout": 5},
            "hydra": {"sweep": {"dir": str(sweep)}},
            "objective": "val/accuracy",
            "objective_mode": "max",
        }
    )
    callback = mlflow_parents.MultirunParent()
    callback.on_multirun_start(config)
    jobs = []
    for lr, scores in ((1e-4, (0.5, 0.55)), (3e-4, (0.7, 0.6)), (1.0, (float("nan"),))):
        params = {"model": "vgg", "optimizer.lr": lr}
        with mlflow(store, tmp_path / "job", run_name=f"vgg {lr}", params=params, sweep_dir=sweep) as (logger,):
            for epoch, score in enumerate(scores, start=1):
                logger.log_metrics({"val/accuracy": score}, step=epoch)
        jobs.append(logger.run_id)
    with (
        pytest.raises(RuntimeError),
        mlflow(store, tmp_path / "job", params={"model": "vgg", "optimizer.lr": 9}, sweep_dir=sweep),
    ):
        raise RuntimeError("diverged")
    client = client_of(store)
    (parent_id,) = {client.get_run(job).data.tags["mlflow.parentRunId"] for job in jobs}
    assert client.get_run(parent_id).info.status == "RUNNING"
    callback.on_multirun_end(config)
    parent = client.get_run(parent_id)
    assert (parent.info.run_name, parent.info.status) == (sweep.name, "FINISHED")
    expected = {
        "sweep_dir": str(sweep),
        "jobs": "4",
        "jobs_failed": "1",
        "best_run": "vgg 0.0003",
        "best_run_id": jobs[1],
        "best.optimizer.lr": "0.0003",
    }
    assert expected.items() <= parent.data.tags.items()
    assert "best.model" not in parent.data.tags
    assert parent.data.metrics == {"best/val/accuracy": 0.7}


def test_a_multirun_can_minimise(store, tmp_path):
    sweep = tmp_path / "sweep"
    for loss in (2.0, 1.0, 3.0):
        with mlflow(store, tmp_path / "job", run_name=f"loss {loss}", sweep_dir=sweep) as (logger,):
            logger.log_metrics({"val/loss": loss}, step=1)
    parent = client_of(store).get_run(logger.run_id).data.tags["mlflow.parentRunId"]
    mlflow_parents.log_summary(client_of(store), logger.experiment_id, parent, "val/loss", "min")
    run = client_of(store).get_run(parent)
    assert (run.data.metrics["best/val/loss"], run.data.tags["best_run"]) == (1.0, "loss 1.0")


def test_jobs_that_start_simultaneously_share_one_parent(store, tmp_path):
    client = client_of(store)
    experiment = client.create_experiment("simultaneous")
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(mlflow_parents.parent_run, client, experiment, tmp_path / "sweep") for _ in range(8)]
        (parent,) = {future.result() for future in futures}
    assert [run.info.run_id for run in client.search_runs([experiment])] == [parent]
    assert mlflow_parents.parent_run(client, experiment, tmp_path / "another") != parent


def test_a_deleted_experiment_is_restored(store, tmp_path):
    with mlflow(store, tmp_path / "run") as (logger,):
        pass
    client_of(store).delete_experiment(logger.experiment_id)
    with mlflow(store, tmp_path / "run") as (again,):
        pass
    assert client_of(store).get_experiment(again.experiment_id).lifecycle_stage == "active"


def run_in_process(store, folder, name):
    with open(folder.parent / name, "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)  # as Hydra does
    with mlflow(store, folder, run_name=name, sweep_dir=folder / "sweep") as (logger,):
        logger.log_metrics({"val/accuracy": 0.5}, step=1)


def test_two_processes_create_a_new_store_simultaneously_without_output(tmp_path):
    jobs = [start_process(run_in_process, tmp_path / "mlruns", tmp_path / "run", name) for name in ("one", "two")]
    for job in jobs:
        job.join(timeout=100)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert [(tmp_path / name).read_text() for name in ("one", "two")] == ["", ""]
    client = client_of(tmp_path / "mlruns")
    runs = client.search_runs([client.get_experiment_by_name("faces").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["one", "sweep", "two"]
    assert len({run.data.tags.get("mlflow.parentRunId") for run in runs}) == 2  # none, and the one parent


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg"])
def test_a_server_that_is_down_gives_one_warning_and_the_local_store_is_used(scheme, store, tmp_path, caplog):
    uri = f"{scheme}://me:secret@127.0.0.1:{free_port()}"
    with mlflow(store, tmp_path / "run", uri=uri) as (logger,):
        logger.log_metrics({"val/loss": 1.0}, step=1)
    assert client_of(store).get_run(logger.run_id).info.status == "FINISHED"
    (warning,) = warnings_of(caplog)
    assert warning.startswith(f"NO TRACKING AT {uri.replace('secret', '***')} (")
    assert "refused" in warning
    assert f"sqlite:///{store}/mlflow.db" in warning
    assert "secret" not in caplog.text


def test_mlflow_does_not_try_a_database_that_refuses_the_user(postgresql, store, tmp_path, monkeypatch, caplog):
    opened = []  # MLflow would retry such a database for minutes

    def record_uri(uri, *others):
        opened.append(uri)
        return open_experiment(uri, *others)

    monkeypatch.setattr(tracking, "open_experiment", record_uri)
    with mlflow(store, tmp_path / "run", uri=postgresql.replace("postgres@", "nobody:secret@")):
        pass
    assert opened == [f"sqlite:///{store}/mlflow.db"]
    (warning,) = warnings_of(caplog)
    assert 'role "nobody" does not exist' in warning
    assert "secret" not in warning


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg"])
def test_a_server_that_never_responds_is_given_up(scheme, store, tmp_path, caplog):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        with mlflow(store, tmp_path / "run", uri=uri, timeout=1) as (logger,):
            pass
    assert client_of(store).get_run(logger.run_id).info.status == "FINISHED"
    (warning,) = warnings_of(caplog)
    assert uri in warning


def test_a_uri_with_an_unknown_scheme_is_refused(store, tmp_path):
    with pytest.raises(ValueError, match=r"MLFLOW_TRACKING_URI\) is 'ftp://host'; it must begin with http://"):
        mlflow(store, tmp_path / "run", uri="ftp://host").__enter__()


def test_an_unusable_local_store_gives_a_message_with_a_remedy(tmp_path):
    (tmp_path / "mlruns").write_text("a file, not a folder")
    with pytest.raises(ValueError, match=r"mlruns/mlflow.db cannot be used: .*tracking=csv"):
        mlflow(tmp_path / "mlruns", tmp_path / "run").__enter__()


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
    with mlflow(store, folder, uri=url, params={"model": "vgg"}, sweep_dir=sweep) as (logger,):
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

    with mlflow(store, folder, uri=url) as (logger,):
        logger.log_metrics({"val/loss": 3.0}, step=1)
        stop()
        logger.log_metrics({"val/loss": 2.0}, step=2)
        logger.log_metrics({"val/loss": 1.0}, step=3)
    failed, incomplete, status = warnings_of(caplog)
    assert f"MLflow at {url} does not accept metrics (" in failed
    assert str(folder) in incomplete
    assert "FINISHED" in status


def test_a_row_that_another_process_inserts_at_the_same_moment_is_found(postgresql, store, tmp_path, caplog):
    psycopg = pytest.importorskip("psycopg")

    @contextmanager
    def inserted_elsewhere(statement):
        """Execute `statement` in another connection, which commits once this one waits for it."""
        with psycopg.connect(postgresql.replace("+psycopg", "")) as other, ThreadPoolExecutor(1) as pool:
            other.execute(statement)

            def commit_once_waited_for():
                with psycopg.connect(postgresql.replace("+psycopg", ""), autocommit=True) as watch:
                    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                    deadline = time.monotonic() + 60
                    while not (waited := watch.execute(waits).fetchone()[0] > 0) and time.monotonic() < deadline:
                        time.sleep(0.02)
                other.commit()
                return waited

            committed = pool.submit(commit_once_waited_for)
            yield
            assert committed.result()

    faces = {"name": "faces", "digest": "0123", "profile": {"train": 3}}
    client, _ = open_experiment(postgresql, str(tmp_path), "first")
    columns = "name, artifact_location, lifecycle_stage, creation_time, last_update_time, workspace"
    with inserted_elsewhere(
        f"INSERT INTO experiments ({columns}) SELECT 'faces', {columns[6:]} FROM experiments LIMIT 1"
    ):
        _, experiment_id = open_experiment(postgresql, str(tmp_path), "faces")
    assert client.get_experiment(experiment_id).name == "faces"

    columns = "dataset_uuid, experiment_id, name, digest, dataset_source_type, dataset_source"
    with (
        inserted_elsewhere(
            f"INSERT INTO datasets ({columns}) VALUES ('1', {experiment_id}, 'faces', '0123', 'local', '')"
        ),
        mlflow(store, tmp_path / "run", uri=postgresql, dataset=faces) as (logger,),
    ):
        pass
    assert warnings_of(caplog) == []
    [used] = client.get_run(logger.run_id).inputs.dataset_inputs
    assert used.dataset.digest == "0123"


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


def test_libraries_do_not_write_to_the_terminal(caplog):
    assert logging.getLogger("alembic").level == logging.WARNING
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_restarted_server_receives_everything(store, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "RETRY_INTERVAL", 0)
    backend, port = f"sqlite:///{tmp_path}/server.db", free_port()
    with tracking_server(tmp_path, backend, port) as (url, stop), mlflow(store, tmp_path / "run", uri=url) as (logger,):
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
    with suppress(KeyboardInterrupt), mlflow(store, folder, params={"lr": 1}) as (first,):
        first.log_metrics({"val/loss": 2.0}, step=1)
        first.log_metrics({"val/loss": 1.5}, step=2)
        raise KeyboardInterrupt
    with resumed(store, folder) as (logger,):
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
    with resumed(store, folder) as (other,):
        assert other.run_id != first.run_id
    (folder / RUN_ID).write_text("no id of this store")
    with resumed(store, folder) as (another,):
        assert another.run_id not in (first.run_id, other.run_id)


def test_a_store_whose_creation_was_interrupted_is_created_again(tmp_path, monkeypatch):
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store, initialise = tmp_path / "mlruns", SqlAlchemyStore.__init__

    def interrupted(self, uri, artifacts):
        initialise(self, uri, artifacts)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SqlAlchemyStore, "__init__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mlflow(store, tmp_path / "run").__enter__()
    assert not (store / "mlflow.db").exists()
    with mlflow(store, tmp_path / "run") as (logger,):
        logger.log_metrics({"val/loss": 1.0}, step=1)
    assert client_of(store).get_run(logger.run_id).data.metrics == {"val/loss": 1.0}
    assert not list(store.glob(".mlflow.db.*"))


def resumed(store, folder):
    return tracking.mlflow(
        None, str(store), "faces", 5,
        folder=folder, run_name="run", tags={}, params={"lr": 1}, sweep_dir=None, resumed=True,
    )  # fmt: skip


def test_mlflows_environment_variable_selects_the_server(composed, monkeypatch) -> None:
    assert composed("data=synthetic").tracking.uri is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert composed("data=synthetic").tracking.uri == "http://host:5000"
    assert composed("data=synthetic", "tracking.uri=http://other").tracking.uri == "http://other"


def test_changes_of_mlflows_environment_variable_are_undone(store, tmp_path, monkeypatch) -> None:

    with mlflow(store, tmp_path / "run"):
        os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///somewhere"
    assert "MLFLOW_TRACKING_URI" not in os.environ
