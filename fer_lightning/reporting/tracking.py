"""Where the numbers of a run go: to MLflow, into csv files, or nowhere.

`conf/tracking` names one of the three context managers below. Each takes the same description of the run,
yields the loggers for the Trainer, and closes the run when it is left, whichever way it is left.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from fer_lightning.redaction import redact
from fer_lightning.reporting.mlflow_parents import PARENT, parent_run
from fer_lightning.reporting.mlflow_store import (
    RUN_ID,
    first_store_that_works,
    open_experiment,
    preserve_tracking_uri,
    retry_on_conflict,
    root_cause,
    short_timeout,
    store_errors,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Run

log = logging.getLogger(__name__)

PATIENCE = 30
"""Seconds until a server that took no metrics is tried again."""


@contextmanager
def nowhere(**_: Any) -> Iterator[list[Logger]]:
    """No logger."""
    yield []


@contextmanager
def csv(*, folder: Path, params: Mapping[str, Any], **_: Any) -> Iterator[list[Logger]]:
    """`csv/metrics.csv`, one row an epoch, and `csv/hparams.yaml` in the run's folder."""
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
    """An MLflow run, from its first parameter to its artifacts.

    Left normally the run is FINISHED, after an exception FAILED, after Ctrl-C, SIGTERM and where a sweep prunes it
    KILLED. Unless killed, what lies in `folder` becomes its artifacts (hidden files excepted).

    Args:
        uri: A tracking server or database; None is the local store, which also takes over when `uri` fails.
        local_dir: The local store: `mlflow.db` and `artifacts/` in it.
        experiment_name: MLflow's name for the shelf that the run stands on; made if missing.
        timeout: Seconds that a server may take to answer at the start.
        folder: The run's folder.
        run_name: What a person calls the run.
        tags: What it ran on.
        params: Flat settings, by dotted name.
        sweep_dir: The folder of the multirun that the run belongs to; its jobs share a parent run.
        dataset: What the run learns from: `name`, `digest` (36 characters at most) and `profile`, which JSON can hold.
        parent_id: The run's parent where it is known already, in place of the multirun's.
        resumed: Go on with the run that `folder` was tracked as before, where the store has it.

    Raises:
        ValueError: `uri` is none that MLflow knows, or not even the local store can be used.
    """
    if getattr(rank_zero_only, "rank", 0) != 0:
        yield [DummyLogger()]
        return

    def start(uri: str) -> RunLogger:
        client, experiment_id = open_experiment(uri, local_dir, experiment_name)
        if resumed and (run := _tracked_before(client, folder)):
            return RunLogger(experiment_name=experiment_name, tracking_uri=uri, run_id=run.info.run_id, timeout=timeout)
        above = parent_id or (sweep_dir and parent_run(client, experiment_id, sweep_dir))
        parent = {PARENT: above} if above else {}
        logger = RunLogger(
            experiment_name=experiment_name,
            tracking_uri=uri,
            run_name=redact(run_name)[:250],  # the width of the column
            tags={name: redact(value) for name, value in tags.items()} | parent,
            timeout=timeout,
        )
        logger.log_hyperparams({re.sub(r"[^\w./: -]", "_", name): redact(str(value)) for name, value in params.items()})
        if dataset:
            seen = _training_data(**dataset)
            retry_on_conflict(lambda: client.log_inputs(str(logger.run_id), datasets=[seen]))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN_ID).write_text(str(logger.run_id), "utf-8")
        return logger

    with preserve_tracking_uri():
        logger = first_store_that_works(uri, local_dir, timeout, start)
        try:
            yield [logger]
        except BaseException as error:
            logger.end("KILLED" if _was_killed(error) else "FAILED", folder)
            raise
        logger.end("FINISHED", folder)


class RunLogger(MLFlowLogger):
    """Lightning's MLFlowLogger for a training that outlives its tracking server, and may itself be resumed.

    After a failure it says so once, keeps what follows and tries again now and then; `end` tries a last time. A point
    that the run has already is not logged again. Only `end` closes the run, since Lightning finalizes loggers after
    `fit`, when the test is still to come.

    Args:
        timeout: Seconds that a server which failed before may take to answer.
        run_id: A run to go on with; None makes a new one.
        kwargs: Of MLFlowLogger.
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
        """Where the run is tracked, without password."""
        return redact(str(self._tracking_uri))

    @property
    def where(self) -> str:
        """What opens the run: its address on a server, or the command that starts MLflow's UI."""
        if self.uri.startswith("http"):
            run = f"{self.uri.rstrip('/')}/#/experiments/{self._experiment_id}/runs/{self._run_id}"
            return f"{run}?workflowType=machine_learning"  # else the page is laid out for language models
        return f"mlflow ui --host 127.0.0.1 --backend-store-uri {self.uri}"

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs all of `metrics` in one batch; a server that fails does not stop the training."""
        from mlflow.entities import Metric

        now, at = int(1000 * time.time()), step or 0
        # made once, however often they are sent: the store knows a point that it has by its time
        points = [
            Metric(key, float(value), now, at)
            for name, value in metrics.items()
            if at not in self._logged.get(key := re.sub(r"[^\w./: -]", "_", name), ())
        ]
        if points:
            self._unsent.append(points)
        if self._failed_at is None:
            try:
                self._send()
            except store_errors() as error:
                self._failed_at = time.monotonic()
                log.warning(
                    "MLflow at %s takes no metrics any more (%s): training goes on, they are sent when it does",
                    self.uri,
                    root_cause(error),
                )
        elif time.monotonic() - self._failed_at > PATIENCE:
            try:
                with short_timeout(self._timeout):
                    self._send()
                self._failed_at = None
                log.warning("MLflow at %s takes metrics again, and has all of this run", self.uri)
            except store_errors():
                self._failed_at = time.monotonic()

    def _send(self) -> None:
        while self._unsent:
            self.experiment.log_batch(self._run_id, metrics=self._unsent[0])
            self._unsent.pop(0)

    def finalize(self, status: str = "success") -> None:
        """Leaves the run open; `end` closes it."""

    def end(self, status: str, folder: Path) -> None:
        """Sends what is left, the artifacts too unless the run was killed, and closes the run.

        Args:
            status: FINISHED, FAILED or KILLED.
            folder: The run's folder.
        """
        try:
            self._send()
            if status != "KILLED":
                self._log_artifacts(folder)
        except store_errors() as error:
            log.warning("MLflow at %s lacks a part of this run (%s); all is in %s", self.uri, root_cause(error), folder)
        try:
            self.experiment.set_terminated(self._run_id, status)
        except store_errors() as error:
            log.warning("MLflow at %s could not be told that the run is %s (%s)", self.uri, status, root_cause(error))

    def _log_artifacts(self, folder: Path) -> None:
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                continue  # .hydra holds what was typed, the names of folders included
            if entry.is_dir():
                self.experiment.log_artifacts(self._run_id, str(entry), entry.name)
            else:
                self.experiment.log_artifact(self._run_id, str(entry))


def where(loggers: Sequence[Logger]) -> str | None:
    """What opens the run in MLflow (`RunLogger.where`), or None where it is not tracked there."""
    return next((logger.where for logger in loggers if isinstance(logger, RunLogger)), None)


def _training_data(name: str, digest: str, profile: Mapping[str, Any]) -> DatasetInput:
    """What MLflow shows as a run's dataset; its source is the name, since where files lie is nobody else's business."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(name, digest, source_type="local", source=json.dumps({"name": name}), profile=json.dumps(profile))
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _tracked_before(client: MlflowClient, folder: Path) -> Run | None:
    """The run that a folder was tracked as, None where this store has none."""
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


def _was_killed(error: BaseException | None) -> bool:
    """Whether Ctrl-C, SIGTERM or a pruner lies behind an exception; Lightning turns the first into SystemExit."""
    while error is not None:
        if isinstance(error, (KeyboardInterrupt, SIGTERMException)) or type(error).__name__ == "TrialPruned":
            return True
        error = error.__cause__ or error.__context__
    return False
