"""Stores: local, a server, a database; new, old, broken or unreachable."""

import logging
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from helpers.processes import free_port, start_process, wait_for
from helpers.tracking import client_of, logged_run, tracked_runs, warnings_of

from fer_lightning.reporting import tracking
from fer_lightning.reporting.mlflow_store import open_experiment


def test_a_deleted_experiment_is_restored(store, tmp_path):
    with logged_run(store, tmp_path / "run") as (logger,):
        pass
    client_of(store).delete_experiment(logger.experiment_id)
    with logged_run(store, tmp_path / "run") as (again,):
        pass
    assert client_of(store).get_experiment(again.experiment_id).lifecycle_stage == "active"


def run_in_process(store, folder, name):
    with open(folder.parent / name, "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)  # as Hydra does
    with logged_run(store, folder, run_name=name, sweep_dir=folder / "sweep") as (logger,):
        logger.log_metrics({"val/accuracy": 0.5}, step=1)


def test_two_processes_create_a_new_store_simultaneously_without_output(tmp_path):
    jobs = [start_process(run_in_process, tmp_path / "mlruns", tmp_path / "run", name) for name in ("one", "two")]
    for job in jobs:
        job.join(timeout=100)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert [(tmp_path / name).read_text() for name in ("one", "two")] == ["", ""]
    runs = tracked_runs(client_of(tmp_path / "mlruns"), "faces")
    assert sorted(run.info.run_name for run in runs) == ["one", "sweep", "two"]
    assert len({run.data.tags.get("mlflow.parentRunId") for run in runs}) == 2  # none, and the one parent


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg"])
def test_a_server_that_is_down_gives_one_warning_and_the_local_store_is_used(scheme, store, tmp_path, caplog):
    uri = f"{scheme}://me:secret@127.0.0.1:{free_port()}"
    with logged_run(store, tmp_path / "run", uri=uri) as (logger,):
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
    with logged_run(store, tmp_path / "run", uri=postgresql.replace("postgres@", "nobody:secret@")):
        pass
    assert opened == [f"sqlite:///{store}/mlflow.db"]
    (warning,) = warnings_of(caplog)
    assert 'role "nobody" does not exist' in warning
    assert "secret" not in warning


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg"])
def test_a_server_that_never_responds_is_given_up(scheme, store, tmp_path, caplog):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        with logged_run(store, tmp_path / "run", uri=uri, timeout=1) as (logger,):
            pass
    assert client_of(store).get_run(logger.run_id).info.status == "FINISHED"
    (warning,) = warnings_of(caplog)
    assert uri in warning


def test_a_uri_with_an_unknown_scheme_is_refused(store, tmp_path):
    with pytest.raises(ValueError, match=r"MLFLOW_TRACKING_URI\) is 'ftp://host'; it must begin with http://"):
        logged_run(store, tmp_path / "run", uri="ftp://host").__enter__()


def test_an_unusable_local_store_gives_a_message_with_a_remedy(tmp_path):
    (tmp_path / "mlruns").write_text("a file, not a folder")
    with pytest.raises(ValueError, match=r"mlruns/mlflow.db cannot be used: .*tracking=csv"):
        logged_run(tmp_path / "mlruns", tmp_path / "run").__enter__()


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
                    wait_for(lambda: watch.execute(waits).fetchone()[0], seconds=60)
                other.commit()

            committed = pool.submit(commit_once_waited_for)
            yield
            committed.result()

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
        logged_run(store, tmp_path / "run", uri=postgresql, dataset=faces) as (logger,),
    ):
        pass
    assert warnings_of(caplog) == []
    [used] = client.get_run(logger.run_id).inputs.dataset_inputs
    assert used.dataset.digest == "0123"


def test_a_store_whose_creation_was_interrupted_is_created_again(tmp_path, monkeypatch):
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store, initialise = tmp_path / "mlruns", SqlAlchemyStore.__init__

    def interrupted(self, uri, artifacts):
        initialise(self, uri, artifacts)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SqlAlchemyStore, "__init__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            logged_run(store, tmp_path / "run").__enter__()
    assert not (store / "mlflow.db").exists()
    with logged_run(store, tmp_path / "run") as (logger,):
        logger.log_metrics({"val/loss": 1.0}, step=1)
    assert client_of(store).get_run(logger.run_id).data.metrics == {"val/loss": 1.0}
    assert not list(store.glob(".mlflow.db.*"))


def test_changes_of_mlflows_environment_variable_are_undone(store, tmp_path) -> None:
    with logged_run(store, tmp_path / "run"):
        os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///somewhere"
    assert "MLFLOW_TRACKING_URI" not in os.environ
