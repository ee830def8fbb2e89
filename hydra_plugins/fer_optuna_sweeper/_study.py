"""A study in a database shared by any number of processes: claims, heartbeats, recovery of lost trials."""

import json
import logging
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import NullPool, create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

log = logging.getLogger(__name__)

# User attributes of a trial, read by all workers.
OVERRIDES = "overrides"  # list of str: the job's overrides, written last in a claim
WORKER = "worker"  # host:pid of the job, written when it starts
FAILURE = "failure"  # why the trial failed, one line
LOST = "lost"  # True: its process died and another trial replaces it
ATTEMPT = "attempt"  # 2, 3: number of the attempt, for a trial that repeats a lost one
MAX_ATTEMPTS = 3  # after so many process deaths the trial itself counts as failed


@dataclass(frozen=True)
class StudyAddress:
    """What a process needs to open a study; small, hashable and picklable.

    Attributes:
        url: SQLAlchemy URL of a sqlite file (absolute) or a PostgreSQL database.
        name: The study's name in that database.
        pruner: The pruner's config as JSON, because it may be nested.
        heartbeat_interval: Seconds between heartbeats.
        grace_period: Seconds without a heartbeat after which a trial is stale.
    """

    url: str
    name: str
    pruner: str
    heartbeat_interval: int
    grace_period: int

    @property
    def storage(self) -> optuna.storages.RDBStorage:
        """The storage, created once per process."""
        return _storage(self)

    def open(self) -> optuna.Study:
        """Load the study for a job, which prunes but does not sample."""
        return optuna.load_study(
            study_name=self.name,
            storage=self.storage,
            sampler=optuna.samplers.RandomSampler(),
            pruner=self.build_pruner(),
        )

    def build_pruner(self) -> optuna.pruners.BasePruner:
        """Return a new pruner."""
        from hydra.utils import instantiate

        with _ignore_optuna_warnings():
            pruner: optuna.pruners.BasePruner = instantiate(json.loads(self.pruner))
        return pruner

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the study's lock, exclusive over all processes; the database releases it when its holder dies.

        Every change of a trial's state needs the lock: sqlite does not lock the rows that Optuna reads
        before it writes, so two workers could otherwise claim or fail the same trial.
        """
        url = make_url(self.url)
        if url.get_backend_name() == "sqlite":
            connection = sqlite3.connect(f"{url.database}.lock", timeout=600, isolation_level=None)
            try:
                connection.execute("BEGIN EXCLUSIVE")
                yield
            finally:
                connection.close()
        else:
            with create_engine(url, poolclass=NullPool).begin() as transaction:
                transaction.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": self.name})
                yield


@lru_cache(maxsize=4)
def _storage(address: StudyAddress) -> optuna.storages.RDBStorage:
    url = make_url(address.url)
    connect = {"timeout": 120} if url.get_backend_name() == "sqlite" else {"connect_timeout": 10}
    with _ignore_optuna_warnings():
        return optuna.storages.RDBStorage(
            address.url.replace("{", "{{").replace("}", "}}"),  # Optuna formats the URL
            # No connection is pooled: a job may run for hours and may fork its data loaders.
            engine_kwargs={"poolclass": NullPool, "connect_args": connect},
            heartbeat_interval=address.heartbeat_interval,
            grace_period=address.grace_period,
        )


@contextmanager
def _ignore_optuna_warnings() -> Iterator[None]:
    """Suppress Optuna's warnings on experimental features and on heartbeats outside of Study.optimize."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        yield


class Heartbeat:
    """Context manager that records heartbeats of running trials from a thread.

    Args:
        address: The study.
        trial_ids: The ids of the trials in the storage.
    """

    def __init__(self, address: StudyAddress, trial_ids: Sequence[int]) -> None:
        self._address, self._trial_ids = address, trial_ids
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="trial heartbeat", daemon=True)

    def _beat(self) -> None:
        storage = self._address.storage
        while not self._stop.is_set():
            for trial_id in self._trial_ids:
                try:
                    storage.record_heartbeat(trial_id)
                except Exception as error:  # a short outage of the database must not fail the trial
                    log.warning("cannot record the heartbeat of a trial: %s", error)
            self._stop.wait(self._address.heartbeat_interval)
        storage.remove_session()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def tell(
    study: optuna.Study,
    address: StudyAddress,
    number: int,
    state: TrialState,
    values: Sequence[float] | None,
    failure: str,
) -> None:
    """Write the result of a trial, with retries, so that a database outage of minutes costs no training.

    Args:
        study: The study.
        address: The address of the study.
        number: The number of the trial.
        state: COMPLETE, PRUNED or FAIL.
        values: One per direction; None unless the trial is complete.
        failure: Why the trial failed; empty if it did not.

    Raises:
        RuntimeError: The trial was marked as lost in the meantime; its result is not written.
    """
    for pause in (1, 10, 60, 180, 0):
        try:
            with address.lock():
                if failure:
                    address.storage.set_trial_user_attr(study.trials[number]._trial_id, FAILURE, failure)
                study.tell(number, values, state)
            return
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            raise RuntimeError(
                f"trial {number} was marked as lost before it finished; its result is discarded"
            ) from None
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
            if not pause:
                raise
            log.warning("trial %d: the database is not available, retrying in %d s: %s", number, pause, error)
            time.sleep(pause)


@dataclass(frozen=True)
class Claim:
    """A trial that only this worker runs.

    Attributes:
        number: Its number in the study, which is also the job's number.
        trial_id: Its id in the storage.
        overrides: The job's overrides.
    """

    number: int
    trial_id: int
    overrides: list[str]


@dataclass(frozen=True)
class TrialsByState:
    """Numbers of the trials of a study by state, without those that were lost and repeated.

    Attributes:
        complete: Finished with a value.
        pruned: Stopped early.
        failed: Raised an error or returned no finite number.
        running: Claimed and not finished.
        waiting: Enqueued for another attempt.
    """

    complete: list[int]
    pruned: list[int]
    failed: list[int]
    running: list[int]
    waiting: list[int]

    @property
    def started(self) -> int:
        """Number of trials that count towards `n_trials`."""
        return len(self.complete) + len(self.pruned) + len(self.failed) + len(self.running)


def is_lost(trial: FrozenTrial) -> bool:
    """Whether the trial failed only because its process died; it does not count towards `n_trials`."""
    return trial.state == TrialState.FAIL and bool(trial.user_attrs.get(LOST))


def trials_by_state(study: optuna.Study) -> TrialsByState:
    """Group the numbers of a study's trials by state, lost trials excluded."""
    numbers: dict[TrialState, list[int]] = {state: [] for state in TrialState}
    for trial in study.get_trials(deepcopy=False):
        if not is_lost(trial):
            numbers[trial.state].append(trial.number)
    return TrialsByState(
        numbers[TrialState.COMPLETE],
        numbers[TrialState.PRUNED],
        numbers[TrialState.FAIL],
        numbers[TrialState.RUNNING],
        numbers[TrialState.WAITING],
    )


def fail_and_requeue(study: optuna.Study, address: StudyAddress, number: int, reason: str) -> FrozenTrial | None:
    """Fail a trial whose process is gone and enqueue its parameters for another attempt.

    The caller holds the lock.

    Returns:
        The failed trial, None if it was not running.
    """
    trial = study.get_trials(deepcopy=False)[number]
    if trial.state != TrialState.RUNNING:
        return None
    attempt = trial.user_attrs.get(ATTEMPT, 1)
    lost = attempt < MAX_ATTEMPTS
    address.storage.set_trial_user_attr(trial._trial_id, FAILURE, reason)
    address.storage.set_trial_user_attr(trial._trial_id, LOST, lost)
    study.tell(number, state=TrialState.FAIL)
    if lost and OVERRIDES in trial.user_attrs:
        study.enqueue_trial(trial.params, user_attrs={ATTEMPT: attempt + 1, "repeats": number})
    return study.get_trials(deepcopy=False)[number]


def fail_stale_trials(study: optuna.Study, address: StudyAddress) -> list[FrozenTrial]:
    """Fail and requeue the running trials whose process is gone. The caller holds the lock.

    A trial without overrides was being claimed by a process that died, because claims are made under
    the lock; any other has had no heartbeat for the grace period, by the database's clock.
    """
    stale = set(address.storage._get_stale_trial_ids(study._study_id))
    failed = [
        fail_and_requeue(
            study, address, t.number, f"its process sent no heartbeat for more than {address.grace_period} s"
        )
        for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if t._trial_id in stale or OVERRIDES not in t.user_attrs
    ]
    return [trial for trial in failed if trial is not None]


def claim(
    study: optuna.Study,
    address: StudyAddress,
    limit: int,
    suggest: Callable[[optuna.Trial], list[str]],
    sampler: Callable[[int], optuna.samplers.BaseSampler],
    grid: Sequence[dict[str, Any]] | None,
) -> list[Claim]:
    """Claim the next trials, with consecutive numbers. The caller holds the lock.

    Args:
        study: The study; its sampler is replaced.
        address: The address of the study.
        limit: Maximum number of trials.
        suggest: Samples a trial's parameters and returns the job's overrides.
        sampler: Returns the sampler for a trial's number.
        grid: The points to visit in order, None to use the sampler.
    """
    trials = study.get_trials(deepcopy=False)
    waiting = [t.number for t in trials if t.state == TrialState.WAITING]
    visited = [p for t in trials if not is_lost(t) for p in [t.system_attrs.get("fixed_params") or t.params]]
    unvisited = iter([point for point in grid or [] if point not in visited])
    claims: list[Claim] = []
    for number, expected in zip(chain(waiting, count(len(trials))), count(waiting[0] if waiting else len(trials))):
        if len(claims) >= limit or number != expected:
            break
        if grid is not None and number not in waiting:
            if (point := next(unvisited, None)) is None:
                break
            study.enqueue_trial(point)
        with _ignore_optuna_warnings():
            study.sampler = sampler(number)
            trial = study.ask()
        address.storage.record_heartbeat(trial._trial_id)
        overrides = suggest(trial)
        trial.set_user_attr(OVERRIDES, overrides)
        claims.append(Claim(trial.number, trial._trial_id, overrides))
    return claims


def absolute_url(storage: str | None, default: Path) -> str:
    """Return the storage URL with an absolute path, and create the folder of a sqlite file.

    Raises:
        ValueError: It is not the URL of a sqlite file or a PostgreSQL database.
    """
    url = make_url(storage or f"sqlite:///{default}")
    if url.get_backend_name() == "postgresql":
        return url.render_as_string(hide_password=False)
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        raise ValueError(
            "hydra.sweeper.storage must be sqlite:///path/of/a/file.db or postgresql+psycopg://user@host/database"
        )
    path = Path(str(url.database)).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    return url.set(database=str(path)).render_as_string(hide_password=False)
