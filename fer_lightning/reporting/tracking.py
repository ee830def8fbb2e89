"""Where the numbers of a run go: to MLflow, into csv files, or nowhere.

`conf/tracking` names one of the three context managers below. Each takes the same description of the run,
yields the loggers for the Trainer, and closes the run when it is left, whichever way it is left.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock
from hydra.experimental.callback import Callback
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import OmegaConf
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run
    from omegaconf import DictConfig

log = logging.getLogger(__name__)
T = TypeVar("T")

PARENT, SWEEP = "mlflow.parentRunId", "sweep_dir"
SCHEMES = ("http://", "https://", "sqlite:///", "postgresql", "mysql", "mssql")
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
RUN_ID = ".mlflow_run_id"
"""The file in a run's folder that says which MLflow run it is."""

PATIENCE = 30
"""Seconds until a server that took no metrics is tried again."""

STUDY_PARENT = "mlflow_parent"
"""An Optuna study's user attribute: the id of the parent run that all its workers share."""

# MLflow reads these when it is imported or when it sends; whoever has set them keeps them.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; otherwise 120, and with the retries many minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "GIT_PYTHON_REFRESH": "quiet",  # no complaint where git is not installed
}.items():
    os.environ.setdefault(_name, _value)
logging.getLogger("alembic").setLevel(logging.WARNING)  # else a line for each of the tables of a new store
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # failures are told below, once


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
        parent_id: The run's parent where it is known already, in place of the multirun's.
        resumed: Go on with the run that `folder` was tracked as before, where the store has it.

    Raises:
        ValueError: `uri` is none that MLflow knows, or not even the local store can be used.
    """
    if getattr(rank_zero_only, "rank", 0) != 0:
        yield [DummyLogger()]
        return

    def start(uri: str) -> RunLogger:
        client, experiment_id = _experiment(uri, local_dir, experiment_name)
        if resumed and (run := _tracked_before(client, folder)):
            return RunLogger(experiment_name=experiment_name, tracking_uri=uri, run_id=run.info.run_id, timeout=timeout)
        above = parent_id or (sweep_dir and parent_run(client, experiment_id, sweep_dir))
        parent = {PARENT: above} if above else {}
        logger = RunLogger(
            experiment_name=experiment_name,
            tracking_uri=uri,
            run_name=masked(run_name)[:250],  # the width of the column
            tags={name: masked(value) for name, value in tags.items()} | parent,
            timeout=timeout,
        )
        logger.log_hyperparams({re.sub(r"[^\w./: -]", "_", name): masked(str(value)) for name, value in params.items()})
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN_ID).write_text(str(logger.run_id))
        return logger

    logger = _with_first_store_that_works(uri, local_dir, timeout, start)
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
        return masked(str(self._tracking_uri))

    @property
    def where(self) -> str:
        """What opens the run: its address on a server, or the command that starts MLflow's UI."""
        if self.uri.startswith("http"):
            return f"{self.uri.rstrip('/')}/#/experiments/{self._experiment_id}/runs/{self._run_id}"
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
            except _errors() as error:
                self._failed_at = time.monotonic()
                log.warning(
                    "MLflow at %s takes no metrics any more (%s): training goes on, they are sent when it does",
                    self.uri,
                    _reason(error),
                )
        elif time.monotonic() - self._failed_at > PATIENCE:
            try:
                with _impatient(self._timeout):
                    self._send()
                self._failed_at = None
                log.warning("MLflow at %s takes metrics again, and has all of this run", self.uri)
            except _errors():
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
        except _errors() as error:
            log.warning("MLflow at %s lacks a part of this run (%s); all is in %s", self.uri, _reason(error), folder)
        try:
            self.experiment.set_terminated(self._run_id, status)
        except _errors() as error:
            log.warning("MLflow at %s could not be told that the run is %s (%s)", self.uri, status, _reason(error))

    def _log_artifacts(self, folder: Path) -> None:
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                continue  # .hydra holds the command line as it was typed, passwords included
            if entry.is_dir():
                self.experiment.log_artifacts(self._run_id, str(entry), entry.name)
            else:
                self.experiment.log_artifact(self._run_id, str(entry))


class MultirunParent(Callback):
    """Hydra callback: opens the parent run of a multirun before its jobs, closes it with the best result."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Opens the parent run; should this process die before the end, the run is KILLED."""
        if OmegaConf.select(config, "hydra.sweeper.observers") is not None:
            return  # an Optuna study outlives this process: its parent is a StudyRun
        tracking, sweep_dir = config.tracking, Path(config.hydra.sweep.dir).absolute()

        def open_parent(uri: str) -> tuple[MlflowClient, str, str]:
            client, experiment_id = _experiment(uri, tracking.local_dir, tracking.experiment_name)
            run_id = parent_run(client, experiment_id, sweep_dir)
            client.update_run(run_id, status="RUNNING")  # again, where a multirun is resumed
            return client, experiment_id, run_id

        self._parent = _with_first_store_that_works(tracking.uri, tracking.local_dir, tracking.timeout, open_parent)
        atexit.register(self._close, "KILLED")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Closes the parent run with the best job's name, objective and the settings that jobs differ in."""
        if not hasattr(self, "_parent"):
            return
        atexit.unregister(self._close)
        self._close("FINISHED", config.objective, config.objective_mode)

    def _close(self, status: str, objective: str | None = None, mode: str = "max") -> None:
        client, experiment_id, run_id = self._parent
        try:
            if objective is not None:
                summarise(client, experiment_id, run_id, objective, mode)
            client.set_terminated(run_id, status)
        except _errors() as error:
            log.warning("MLflow could not be told that the multirun is %s (%s)", status, _reason(error))


class StudyRun:
    """The parent run of an Optuna study, whose trials are its children; shared by all workers and by a resume.

    Args:
        uri: As for `mlflow`.
        local_dir: As for `mlflow`.
        experiment_name: As for `mlflow`.
        timeout: As for `mlflow`.
    """

    def __init__(self, uri: str | None, local_dir: str, experiment_name: str, timeout: int) -> None:
        self._client, self._experiment_id = _with_first_store_that_works(
            uri, local_dir, timeout, lambda uri: _experiment(uri, local_dir, experiment_name)
        )
        self.run_id = ""

    def open(self, run_id: str | None, study: str, name: str) -> None:
        """Opens the run of that id, or a new one where this store has none. To be called by one worker at a time."""
        try:
            known = run_id and self._client.get_run(run_id).info.lifecycle_stage == "active"
        except _errors():
            known = False
        if not known:
            run_id = self._client.create_run(self._experiment_id, tags={"study": study}, run_name=name).info.run_id
        self.run_id = str(run_id)
        self._client.update_run(self.run_id, status="RUNNING")

    def mark(self, states: Mapping[int, str]) -> None:
        """Tags the runs of trials, by their numbers, with their states: COMPLETE, PRUNED or FAIL."""
        one = f' and tags.trial = "{next(iter(states))}"' if len(states) == 1 else ""
        with self._lenient():
            for run in self._children(one):
                state = states.get(int(run.data.tags.get("trial", -1)))
                if state and run.data.tags.get("trial_state") != state:
                    self._client.set_tag(run.info.run_id, "trial_state", state)
                    # a trial whose process died, or whose value was no number
                    if state == "FAIL" and (ended := {"RUNNING": "KILLED", "FINISHED": "FAILED"}.get(run.info.status)):
                        self._client.set_terminated(run.info.run_id, ended)

    def close(
        self, metrics: Mapping[str, float], tags: Mapping[str, str], best: int | None, files: Sequence[Path]
    ) -> None:
        """Ends the study's run.

        Args:
            metrics: The best values and the numbers of trials.
            tags: What else there is to say; a resume may change it, as it may not change MLflow's params.
            best: The best trial's number; its run is named.
            files: What to keep with the run.
        """
        from mlflow.entities import Metric, RunTag

        with self._lenient():
            for run in self._children(f' and tags.trial = "{best}"')[:1]:
                tags = {**tags, "best_run": run.info.run_name, "best_run_id": run.info.run_id}
            now = int(1000 * time.time())
            self._client.log_batch(
                self.run_id,
                [Metric(name, value, now, 0) for name, value in metrics.items()],
                tags=[RunTag(name, value) for name, value in tags.items()][:100],
            )
            for file in files:
                self._client.log_artifact(self.run_id, str(file))
            self._client.set_terminated(self.run_id, "FINISHED")

    def leave(self) -> None:
        """Says that the study was left before its end, if it was."""
        with self._lenient():
            if self._client.get_run(self.run_id).info.status == "RUNNING":
                self._client.set_terminated(self.run_id, "KILLED")

    def _children(self, condition: str) -> list[Run]:
        chosen = f'tags.`{PARENT}` = "{self.run_id}"{condition}'
        return list(self._client.search_runs([self._experiment_id], chosen, max_results=10_000))

    @contextmanager
    def _lenient(self) -> Iterator[None]:
        try:
            yield
        except _errors() as error:
            log.warning("MLflow lacks a part of the study's run (%s); all is in the study", _reason(error))


def parent_run(client: MlflowClient, experiment_id: str, sweep_dir: Path) -> str:
    """The id of the parent run of a multirun's jobs: made by who asks first, found by all others."""
    sweep_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(sweep_dir / ".parent.lock"):
        found = client.search_runs([experiment_id], f'tags.{SWEEP} = "{sweep_dir}"', max_results=1)
        if found:
            return str(found[0].info.run_id)
        run = client.create_run(experiment_id, tags={SWEEP: str(sweep_dir)}, run_name=sweep_dir.name)
        return str(run.info.run_id)


def summarise(client: MlflowClient, experiment_id: str, parent_id: str, objective: str, mode: str) -> None:
    """Writes on a parent run how many jobs there were and what the best one reached with which settings.

    Args:
        client: Of the store.
        experiment_id: The experiment that the runs belong to.
        parent_id: The parent run.
        objective: A metric; the best epoch of each job counts.
        mode: `max` or `min`.
    """
    from mlflow.entities import Metric, RunTag

    jobs = client.search_runs([experiment_id], f'tags.`{PARENT}` = "{parent_id}"', max_results=10_000)
    better = max if mode == "max" else min
    scored = []
    for job in jobs:
        epochs = [metric.value for metric in client.get_metric_history(job.info.run_id, objective)]
        if values := [value for value in epochs if not math.isnan(value)]:
            scored.append((better(values), job))
    failed = sum(job.info.status == "FAILED" for job in jobs)
    tags, metrics = {"jobs": str(len(jobs)), "jobs_failed": str(failed)}, []
    if scored:
        score, best = better(scored, key=itemgetter(0))
        metrics = [Metric(f"best/{objective}", score, int(1000 * time.time()), 0)]
        tags |= {"best_run": best.info.run_name, "best_run_id": best.info.run_id}
        # as tags, since a resumed multirun may change them and MLflow's params are written once
        tags |= {
            f"best.{name}": value
            for name, value in best.data.params.items()
            if any(job.data.params.get(name) != value for job in jobs)
        }
    client.log_batch(parent_id, metrics, tags=[RunTag(*tag) for tag in tags.items()][:100])


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


def where(loggers: Sequence[Logger]) -> str | None:
    """What opens the run in MLflow (`RunLogger.where`), or None where it is not tracked there."""
    return next((logger.where for logger in loggers if isinstance(logger, RunLogger)), None)


def masked(text: str) -> str:
    """`text` with `***` for the password in every URI."""
    text = re.sub(r"(://[^:/@\s]*):[^/\s]+@", r"\1:***@", text)
    return re.sub(r"([?&]\w*(?:password|token)=)[^&\s]+", r"\1***", text, flags=re.IGNORECASE)


def _with_first_store_that_works(uri: str | None, local_dir: str, timeout: int, action: Callable[[str], T]) -> T:
    """`action(uri)`; if that fails, says so and does `action` with the local store instead."""
    local = f"sqlite:///{Path(local_dir).as_posix()}/mlflow.db"
    if uri and uri != local:
        if not uri.startswith(SCHEMES):
            raise ValueError(f"tracking.uri is {masked(uri)!r}; it must begin with {', '.join(SCHEMES)}")
        try:
            with _impatient(timeout):
                _knock(uri, timeout)
                return action(uri)
        except _errors() as error:
            log.warning(
                "NO TRACKING AT %s (%s): the local store %s is used instead",
                masked(uri),
                _reason(error),
                local,
            )
    try:
        return action(local)
    except _errors() as error:
        raise ValueError(
            f"the MLflow store {local} cannot be used: {_reason(error)} Mend it, use another folder "
            "(paths.mlruns_dir=...) or do without (tracking=csv)"
        ) from error


def _experiment(uri: str, local_dir: str, name: str) -> tuple[MlflowClient, str]:
    """A client of a store and the id of its experiment, both made if missing, by one process at a time."""
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])  # even if imported before this file
    folder = Path(local_dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".mlflow.lock"):
        if uri.startswith("sqlite:///") and not (file := Path(uri.removeprefix("sqlite:///"))).exists():
            _make_store(file, folder / "artifacts")
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            artifacts = None if uri.startswith("http") else str(folder / "artifacts")  # a server has its own place
            return client, str(client.create_experiment(name, artifacts))
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        return client, str(experiment.experiment_id)


def _make_store(file: Path, artifacts: Path) -> None:
    """Makes a new SQLite store aside and renames it: one that is left half-made MLflow refuses ever after."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    file.parent.mkdir(parents=True, exist_ok=True)
    for left in file.parent.glob(f".{file.name}.*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    aside = Path(mkdtemp(prefix=f".{file.name}.", dir=file.parent))  # a folder, since SQLite keeps a journal beside
    store: Any = SqlAlchemyStore(  # type: ignore[no-untyped-call]
        f"sqlite:///{(aside / file.name).as_posix()}", str(artifacts)
    )
    store.engine.dispose()
    (aside / file.name).replace(file)
    aside.rmdir()


def _knock(uri: str, timeout: int) -> None:
    """Raises OSError if a database server does not listen; SQLAlchemy under MLflow would try for minutes."""
    from sqlalchemy import make_url

    if not uri.startswith(("http", "sqlite")):
        url = make_url(uri)
        port = url.port or DATABASE_PORTS[url.get_backend_name()]
        socket.create_connection((url.host or "localhost", port), timeout).close()


@contextmanager
def _impatient(timeout: int) -> Iterator[None]:
    """MLflow asks a server only once and waits `timeout` seconds for the answer."""
    wanted = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    before = {name: os.environ[name] for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.update(before)


def _errors() -> tuple[type[Exception], ...]:
    """What MLflow raises when a store or server fails; a function, since importing MLflow takes a second."""
    from mlflow.exceptions import MlflowException

    return MlflowException, OSError


def _reason(error: BaseException) -> str:
    """The first line of the error at the root of a chain, without passwords."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return masked((str(error).splitlines() or [type(error).__name__])[0])[:200]


def _was_killed(error: BaseException | None) -> bool:
    """Whether Ctrl-C, SIGTERM or a pruner lies behind an exception; Lightning turns the first into SystemExit."""
    while error is not None:
        if isinstance(error, (KeyboardInterrupt, SIGTERMException)) or type(error).__name__ == "TrialPruned":
            return True
        error = error.__cause__ or error.__context__
    return False
