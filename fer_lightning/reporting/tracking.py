"""Tracking of a run: in MLflow, in csv files, or not at all.

`conf/tracking` selects one of the three context managers below. Each takes the same description of the run, yields the
loggers for the Trainer, and closes the run on exit, also after an exception.
"""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger
from pytorch_lightning.loggers.logger import DummyLogger

from fer_lightning.redaction import redact
from fer_lightning.reporting.mlflow_parents import PARENT, parent_run
from fer_lightning.reporting.mlflow_store import (
    RUN_ID,
    open_experiment,
    preserve_tracking_uri,
    retry_on_conflict,
    root_cause,
    short_timeout,
    store_errors,
    valid_key,
    with_local_fallback,
)
from fer_lightning.run_folder import LAST
from fer_lightning.training.errors import interrupt_status
from fer_lightning.training.processes import is_first_process

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

log = logging.getLogger(__name__)

RETRY_INTERVAL = 30
"""Seconds until metrics are sent again to a server that failed."""


@contextmanager
def no_tracking(**_: Any) -> Iterator[list[Logger]]:
    """Yield no logger."""
    yield []


@contextmanager
def csv(*, folder: Path, params: Mapping[str, Any], **_: Any) -> Iterator[list[Logger]]:
    """Write `csv/metrics.csv`, one row per epoch, and `csv/hparams.yaml` to the run's folder."""
    logger = CSVLogger(folder, name="csv", version="", flush_logs_every_n_steps=1)
    logger.log_hyperparams(dict(params))
    yield [logger]


@contextmanager
def mlflow(
    uri: str | None,
    local_dir: str,
    experiment_name: str,
    timeout: int,
    *,
    folder: Path,
    run_name: str,
    tags: Mapping[str, str],
    params: Mapping[str, Any],
    sweep_dir: Path | None,
    dataset: Mapping[str, Any] | None = None,
    parent_id: str | None = None,
    resumed: bool = False,
) -> Iterator[list[Logger]]:
    """Track a run in MLflow, from its parameters to its artifacts.

    On normal exit the run is FINISHED, after an exception FAILED, after Ctrl-C, SIGTERM or pruning KILLED. Unless
    killed, the files in `folder` are uploaded as its artifacts (hidden files excepted).

    Args:
        uri: A tracking server or database; None is the local store, which is also the fallback if `uri` fails.
        local_dir: Folder of the local store: `mlflow.db` and `artifacts/`.
        experiment_name: MLflow experiment of the run; created if missing.
        timeout: Seconds to wait for a response of the server at the start.
        folder: The run's folder.
        run_name: Name of the run.
        tags: Tags of the run.
        params: Flat settings, by dotted name.
        sweep_dir: Folder of the multirun that the run belongs to; its jobs share a parent run.
        dataset: The training data: `name`, `digest` (at most 36 characters) and a JSON-serialisable `profile`.
        parent_id: Id of the parent run, if it is known; replaces that of the multirun.
        resumed: Continue the MLflow run of `folder`, if the store has it.

    Raises:
        ValueError: `uri` has an unknown scheme, or the local store cannot be used either.
    """
    if not is_first_process():
        yield [DummyLogger()]
        return

    def start(uri: str) -> RunLogger:
        client, experiment_id = open_experiment(uri, local_dir, experiment_name)
        if resumed and (run := _existing_run(client, folder)):
            return RunLogger(experiment_name=experiment_name, tracking_uri=uri, run_id=run.info.run_id, timeout=timeout)
        parent_run_id = parent_id or (sweep_dir and parent_run(client, experiment_id, sweep_dir))
        parent = {PARENT: parent_run_id} if parent_run_id else {}
        logger = RunLogger(
            experiment_name=experiment_name,
            tracking_uri=uri,
            run_name=redact(run_name)[:250],  # the width of the database column
            tags={name: redact(value) for name, value in tags.items()} | parent,
            timeout=timeout,
        )
        logger.log_hyperparams({valid_key(name): redact(str(value)) for name, value in params.items()})
        if dataset:
            logger.log_training_data(**dataset)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN_ID).write_text(str(logger.run_id), "utf-8")
        return logger

    with preserve_tracking_uri():
        logger = with_local_fallback(uri, local_dir, timeout, start)
        try:
            yield [logger]
        except BaseException as error:
            killed = interrupt_status(error) is not None or type(error).__name__ == "TrialPruned"
            logger.end("KILLED" if killed else "FAILED", folder)
            raise
        logger.end("FINISHED", folder)


class RunLogger(MLFlowLogger):
    """Lightning's MLFlowLogger with tolerance of server failures and support for resumed runs.

    If the server fails, it logs one warning, buffers the metrics and retries now and then; `end` retries a last time.
    A point that the run already has is not logged again. Only `end` closes the run, since Lightning finalizes loggers
    after `fit`, before the test.

    Args:
        timeout: Seconds to wait for a response of a server that failed before.
        run_id: Id of the run to continue; None creates a new one.
        kwargs: Arguments of MLFlowLogger.
    """

    def __init__(self, *, timeout: int = 5, run_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(run_id=run_id, **kwargs)
        self._timeout = timeout
        self._unsent: list[list[Metric]] = []
        self._failed_at: float | None = None
        self._logged: dict[str, set[int]] = {}
        if run_id is not None:
            self.experiment.update_run(run_id, status="RUNNING")
            for name in self.experiment.get_run(run_id).data.metrics:
                points = self.experiment.get_metric_history(run_id, name)
                self._logged[name] = {point.step for point in points}

    @property
    def uri(self) -> str:
        """The tracking URI, without password."""
        return redact(str(self._tracking_uri))

    @property
    def where(self) -> str:
        """How to open the run: its address on a server, or the command that starts MLflow's UI."""
        if self.uri.startswith("http"):
            run = f"{self.uri.rstrip('/')}/#/experiments/{self._experiment_id}/runs/{self._run_id}"
            return f"{run}?workflowType=machine_learning"  # the default page is for language models
        return f"mlflow ui --host 127.0.0.1 --backend-store-uri {shlex.quote(self.uri)}"

    def log_training_data(self, name: str, digest: str, profile: Mapping[str, Any]) -> None:
        """Log the description of the data set; its source is only the name, so that local paths are not published."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"name": name})
        dataset = Dataset(name, digest, source_type="local", source=source, profile=json.dumps(profile))
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
        retry_on_conflict(lambda: self.experiment.log_inputs(str(self.run_id), datasets=inputs))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log `metrics` in one batch; errors of the server do not stop the training."""
        from mlflow.entities import Metric

        now, step = int(1000 * time.time()), step or 0
        # created once, however often they are sent: the store recognises duplicates by their timestamp
        points = [
            Metric(key, float(value), now, step)
            for name, value in metrics.items()
            if step not in self._logged.get(key := valid_key(name), ())
        ]
        if points:
            self._unsent.append(points)
        if self._failed_at is None:
            try:
                self._send()
            except store_errors() as error:
                self._failed_at = time.monotonic()
                log.warning(
                    "MLflow at %s does not accept metrics (%s): training continues, and they are sent later",
                    self.uri,
                    root_cause(error),
                )
        elif time.monotonic() - self._failed_at > RETRY_INTERVAL:
            try:
                with short_timeout(self._timeout):
                    self._send()
                self._failed_at = None
                log.warning("MLflow at %s accepts metrics again and has received all of this run", self.uri)
            except store_errors():
                self._failed_at = time.monotonic()

    def _send(self) -> None:
        while self._unsent:
            self.experiment.log_batch(self._run_id, metrics=self._unsent[0])
            self._unsent.pop(0)

    def finalize(self, status: str = "success") -> None:
        """Do nothing: `end` closes the run."""

    def end(self, status: str, folder: Path) -> None:
        """Send the buffered metrics, and the artifacts unless the run was killed, and close the run.

        Args:
            status: FINISHED, FAILED or KILLED.
            folder: The run's folder.
        """
        try:
            self._send()
            if status != "KILLED":
                self._log_artifacts(folder)
        except store_errors() as error:
            log.warning(
                "MLflow at %s lacks a part of this run (%s); %s is complete", self.uri, root_cause(error), folder
            )
        try:
            self.experiment.set_terminated(self._run_id, status)
        except store_errors() as error:
            log.warning("MLflow at %s could not set the run to %s (%s)", self.uri, status, root_cause(error))

    def _log_artifacts(self, folder: Path) -> None:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = file.relative_to(folder)
            # .hydra holds the command line, with local paths; only a run in this folder resumes from last.ckpt
            if not name.parts[0].startswith(".") and name.as_posix() != LAST:
                self.experiment.log_artifact(self._run_id, str(file), "/".join(name.parts[:-1]) or None)


def where(loggers: Sequence[Logger]) -> str | None:
    """Return how to open the run in MLflow (`RunLogger.where`), None if it is not tracked there."""
    return next((logger.where for logger in loggers if isinstance(logger, RunLogger)), None)


def _existing_run(client: MlflowClient, folder: Path) -> Run | None:
    """Return the MLflow run of a folder, None if this store has none."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run((folder / RUN_ID).read_text("utf-8"))
    except (FileNotFoundError, MlflowException) as error:
        if isinstance(error, MlflowException) and error.error_code not in (
            "RESOURCE_DOES_NOT_EXIST",
            "INVALID_PARAMETER_VALUE",
        ):
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None
