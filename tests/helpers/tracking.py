"""MLflow stores and servers."""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from pytorch_lightning.loggers import Logger

from fer_lightning.reporting import tracking
from helpers.processes import free_port, wait_for


def client_of(store: Path) -> MlflowClient:
    """A client of the local store in a folder."""
    return MlflowClient(f"sqlite:///{store}/mlflow.db")


def tracked_runs(client: MlflowClient, experiment: str = "fer_lightning") -> list[Run]:
    """All runs of an experiment."""
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


def parent_and_children(client: MlflowClient, experiment: str = "fer_lightning") -> tuple[Run, list[Run]]:
    """The parent run of the only multirun of an experiment, and the runs of its jobs."""
    found = tracked_runs(client, experiment)
    [parent] = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in found if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {parent.info.run_id}
    return parent, children


def logged_run(
    store: Path,
    folder: Path,
    *,
    uri: str | None = None,
    run_name: str = "run",
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    sweep_dir: Path | None = None,
    timeout: int = 5,
    dataset: Mapping[str, Any] | None = None,
    resumed: bool = False,
) -> AbstractContextManager[list[Logger]]:
    """Track a run of the experiment `faces`, in the local store by default; `folder` is the run's."""
    folder.mkdir(exist_ok=True)
    run = {"run_name": run_name, "tags": tags or {}, "params": params or {}, "sweep_dir": sweep_dir}
    return tracking.mlflow(uri, str(store), "faces", timeout, folder=folder, **run, dataset=dataset, resumed=resumed)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of the package's reporting."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("fer_lightning.reporting.")]


@contextmanager
def tracking_server(folder: Path, backend: str, port: int | None = None) -> Iterator[tuple[str, Callable[[], None]]]:
    """Run an `mlflow server` over a database, by default on a free port; yield its URL and a function to kill it."""
    port = port or free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", backend, "--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True)

    def stop() -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def responds() -> bool:
        if process.poll() is not None:
            pytest.fail(f"mlflow server did not start: {(folder / 'log').read_text()[-2000:]}")
        urllib.request.urlopen(f"{url}/health", timeout=2).close()
        return True

    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(responds, ignore=(OSError,))
        yield url, stop
    finally:
        stop()
