"""Parent runs in MLflow: of the jobs of a multirun, and of the trials of an Optuna study."""

from __future__ import annotations

import atexit
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from fer_lightning.reporting.mlflow_store import (
    open_experiment,
    root_cause,
    store_errors,
    valid_key,
    with_local_fallback,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

PARENT, SWEEP = "mlflow.parentRunId", "sweep_dir"
STUDY_PARENT = "mlflow_parent"
"""User attribute of an Optuna study: the id of the parent run that all its workers share."""


class MultirunParent(Callback):
    """Hydra callback that opens the parent run of a multirun before its jobs and closes it with the best result."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Open the parent run; if this process ends before the multirun, the run is KILLED."""
        if OmegaConf.select(config, "hydra.sweeper.observers") is not None:
            return  # an Optuna study can outlive this process: its parent is a StudyRun
        tracking, sweep_dir = config.tracking, Path(config.hydra.sweep.dir).absolute()

        def open_parent(uri: str) -> tuple[MlflowClient, str, str]:
            client, experiment_id = open_experiment(uri, tracking.local_dir, tracking.experiment_name)
            run_id = parent_run(client, experiment_id, sweep_dir)
            client.update_run(run_id, status="RUNNING")  # it may be that of a resumed multirun
            return client, experiment_id, run_id

        self._parent = with_local_fallback(tracking.uri, tracking.local_dir, tracking.timeout, open_parent)
        atexit.register(self._close, "KILLED")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Close the parent run with the best job's name, objective and the settings in which the jobs differ."""
        if not hasattr(self, "_parent"):
            return
        atexit.unregister(self._close)
        self._close("FINISHED", config.objective, config.objective_mode)

    def _close(self, status: str, objective: str | None = None, mode: str = "max") -> None:
        client, experiment_id, run_id = self._parent
        if objective is not None:
            with _warn_on_errors("the summary of the multirun"):
                log_summary(client, experiment_id, run_id, objective, mode)
        with _warn_on_errors(f"the status {status} of the multirun"):
            client.set_terminated(run_id, status)


class StudyRun:
    """The parent run of an Optuna study, whose trials are its children; shared by all workers, also when resumed.

    Args:
        uri: As for `mlflow`.
        local_dir: As for `mlflow`.
        experiment_name: As for `mlflow`.
        timeout: As for `mlflow`.
    """

    def __init__(self, uri: str | None, local_dir: str, experiment_name: str, timeout: int) -> None:
        self._client, self._experiment_id = with_local_fallback(
            uri, local_dir, timeout, lambda uri: open_experiment(uri, local_dir, experiment_name)
        )
        self.run_id = ""

    def open(self, run_id: str | None, study: str, name: str) -> None:
        """Open the run with that id, or a new one if this store has none. Only one worker may call it at a time."""
        try:
            exists = run_id and self._client.get_run(run_id).info.lifecycle_stage == "active"
        except store_errors():
            exists = False
        if not exists:
            run_id = self._client.create_run(self._experiment_id, tags={"study": study}, run_name=name).info.run_id
        self.run_id = str(run_id)
        self._client.update_run(self.run_id, status="RUNNING")

    def tag_trials(self, states: Mapping[int, str]) -> None:
        """Tag the runs of trials, given by number, with their states: COMPLETE, PRUNED or FAIL."""
        condition = f' and tags.trial = "{next(iter(states))}"' if len(states) == 1 else ""
        with _warn_on_errors("the states of trials"):
            for run in self._children(condition):
                state = states.get(int(run.data.tags.get("trial", -1)))
                if state and run.data.tags.get("trial_state") != state:
                    self._client.set_tag(run.info.run_id, "trial_state", state)
                    # the trial's process was killed, or its value was not a number
                    if state == "FAIL" and (ended := {"RUNNING": "KILLED", "FINISHED": "FAILED"}.get(run.info.status)):
                        self._client.set_terminated(run.info.run_id, ended)

    def close(
        self, metrics: Mapping[str, float], tags: Mapping[str, str], best: int | None, files: Sequence[Path]
    ) -> None:
        """Close the study's run.

        Args:
            metrics: The best values and the counts of trials.
            tags: Further results as tags, since MLflow's params cannot be changed when a study is resumed.
            best: Number of the best trial; its run is named in the tags.
            files: Files to upload.
        """
        from mlflow.entities import Metric, RunTag

        with _warn_on_errors("results of the study"):
            for run in self._children(f' and tags.trial = "{best}"')[:1]:
                tags = {**tags, "best_run": run.info.run_name, "best_run_id": run.info.run_id}
            now = int(1000 * time.time())
            self._client.log_batch(
                self.run_id,
                [Metric(valid_key(name), value, now, 0) for name, value in metrics.items()],
                tags=[RunTag(name, value) for name, value in tags.items()][:100],
            )
            for file in files:
                self._client.log_artifact(self.run_id, str(file))
        with _warn_on_errors("the status FINISHED of the study"):
            self._client.set_terminated(self.run_id, "FINISHED")

    def mark_killed(self) -> None:
        """Set the run to KILLED unless it has already ended."""
        with _warn_on_errors("the status KILLED of the study"):
            if self._client.get_run(self.run_id).info.status == "RUNNING":
                self._client.set_terminated(self.run_id, "KILLED")

    def _children(self, condition: str) -> list[Run]:
        query = f'tags.`{PARENT}` = "{self.run_id}"{condition}'
        return list(self._client.search_runs([self._experiment_id], query, max_results=10_000))


@contextmanager
def _warn_on_errors(part: str) -> Iterator[None]:
    """Log that MLflow lacks a part of a parent run, of which the folder of the runs is complete."""
    try:
        yield
    except store_errors() as error:
        log.warning("MLflow lacks %s (%s); its folder is complete", part, root_cause(error))


def parent_run(client: MlflowClient, experiment_id: str, sweep_dir: Path) -> str:
    """Return the id of the parent run of a multirun's jobs; the first caller creates it."""
    sweep_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(sweep_dir / ".parent.lock"):
        found = client.search_runs([experiment_id], f'tags.{SWEEP} = "{sweep_dir}"', max_results=1)
        if found:
            return str(found[0].info.run_id)
        run = client.create_run(experiment_id, tags={SWEEP: str(sweep_dir)}, run_name=sweep_dir.name)
        return str(run.info.run_id)


def log_summary(client: MlflowClient, experiment_id: str, parent_id: str, objective: str, mode: str) -> None:
    """Log on a parent run the number of jobs, and the name, score and settings of the best one.

    Args:
        client: Client of the store.
        experiment_id: The experiment of the runs.
        parent_id: The parent run.
        objective: Name of a metric; the best epoch of each job counts.
        mode: `max` or `min`.
    """
    from mlflow.entities import Metric, RunTag

    jobs = client.search_runs([experiment_id], f'tags.`{PARENT}` = "{parent_id}"', max_results=10_000)
    better, name = max if mode == "max" else min, valid_key(objective)
    scored = []
    for job in jobs:
        epochs = [metric.value for metric in client.get_metric_history(job.info.run_id, name)]
        if values := [value for value in epochs if not math.isnan(value)]:
            scored.append((better(values), job))
    failed = sum(job.info.status == "FAILED" for job in jobs)
    tags, metrics = {"jobs": str(len(jobs)), "jobs_failed": str(failed)}, []
    if scored:
        score, best = better(scored, key=itemgetter(0))
        metrics = [Metric(f"best/{name}", score, int(1000 * time.time()), 0)]
        tags |= {"best_run": best.info.run_name, "best_run_id": best.info.run_id}
        # as tags, since a resumed multirun may change them and MLflow's params cannot be changed
        tags |= {
            f"best.{key}": value
            for key, value in best.data.params.items()
            if any(job.data.params.get(key) != value for job in jobs)
        }
    client.log_batch(parent_id, metrics, tags=[RunTag(*tag) for tag in tags.items()][:100])
