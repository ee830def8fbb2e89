"""A study in a database shared by any number of processes: claims, heartbeats, trials of dead workers."""

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

# The trial's user attributes by which workers understand each other.
OVERRIDES = "overrides"  # list of str: the job's overrides, written when the claim is whole
WORKER = "worker"  # host:pid of the job, written when it starts
FAILURE = "failure"  # why the trial failed, one line
LOST = "lost"  # True: its process died; another trial takes its place
ATTEMPT = "attempt"  # 2, 3: the trial repeats one that was lost
MAX_ATTEMPTS = 3  # a trial that kills its process so often has failed by its own doing


@dataclass(frozen=True)
class StudyAddress:
    """All that a process needs to join a study. Small, hashable and picklable.

    Attributes:
        url: SQLAlchemy URL of a sqlite file (absolute) or a PostgreSQL database.
        name: The study's name in it.
        pruner: The pruner's config, as JSON, since it may be nested.
        heartbeat_interval: Seconds between signs of life.
        grace_period: Seconds of silence that mean death.
    """

    url: str
    name: str
    pruner: str
    heartbeat_interval: int
    grace_period: int

    @property
    def storage(self) -> optuna.storages.RDBStorage:
        """The database, connected once a process."""
        return _storage(self)

    def open(self) -> optuna.Study:
        """The study as a job sees it: it prunes, it never samples."""
        return optuna.load_study(
            study_name=self.name,
            storage=self.storage,
            sampler=optuna.samplers.RandomSampler(),
            pruner=self.build_pruner(),
        )

    def build_pruner(self) -> optuna.pruners.BasePruner:
        """A new pruner."""
        from hydra.utils import instantiate

        with _quiet():
            pruner: optuna.pruners.BasePruner = instantiate(json.loads(self.pruner))
        return pruner

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process at a time, on any machine; the database frees it when its holder dies.

        Every change of a trial's state happens under it: sqlite does not lock the rows that Optuna
        reads before it writes, so that two workers could otherwise take, or bury, the same trial.
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
    with _quiet():
        return optuna.storages.RDBStorage(
            address.url.replace("{", "{{").replace("}", "}}"),  # Optuna formats the URL
            # No connection is kept: a training may last hours, and may fork its data loaders.
            engine_kwargs={"poolclass": NullPool, "connect_args": connect},
            heartbeat_interval=address.heartbeat_interval,
            grace_period=address.grace_period,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna warns that heartbeats are experimental and meant for Study.optimize: here they are meant so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        yield


class Heartbeat:
    """Signs of life of some running trials, from a thread, as long as the `with` lasts.

    Args:
        address: The study.
        trial_ids: The storage's ids of the trials.
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
                except Exception as error:  # a database that is away for a moment costs no trial
                    log.warning("no heartbeat for a trial: %s", error)
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
    """Write down how a trial ended; hours of training must outlive a database that is away for minutes.

    Args:
        study: The study.
        address: Where it is.
        number: The trial.
        state: COMPLETE, PRUNED or FAIL.
        values: One a direction, None unless it is complete.
        failure: Why it failed, else empty.

    Raises:
        RuntimeError: The trial was given up meanwhile; what it found is not written.
    """
    for pause in (1, 10, 60, 180, 0):
        try:
            with address.lock():
                if failure:
                    address.storage.set_trial_user_attr(study.trials[number]._trial_id, FAILURE, failure)
                study.tell(number, values, state)
            return
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            raise RuntimeError(f"trial {number} was given up as lost before it ended: result dropped") from None
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
            if not pause:
                raise
            log.warning("trial %d: the database is away, again in %d s: %s", number, pause, error)
            time.sleep(pause)


@dataclass(frozen=True)
class Claim:
    """A trial that this worker, and no other, runs.

    Attributes:
        number: Its number in the study, which is the job's number too.
        trial_id: Its id in the storage.
        overrides: The job's overrides.
    """

    number: int
    trial_id: int
    overrides: list[str]


@dataclass(frozen=True)
class Tally:
    """Where a study stands: numbers of its trials, those that were lost and repeated left out.

    Attributes:
        complete: Ended with a value.
        pruned: Stopped early.
        failed: Raised, or returned no number.
        running: Running now.
        waiting: To be repeated.
    """

    complete: list[int]
    pruned: list[int]
    failed: list[int]
    running: list[int]
    waiting: list[int]

    @property
    def started(self) -> int:
        """How many trials count towards the total."""
        return len(self.complete) + len(self.pruned) + len(self.failed) + len(self.running)


def is_lost(trial: FrozenTrial) -> bool:
    """Whether the trial failed with its process only, and so does not count."""
    return trial.state == TrialState.FAIL and bool(trial.user_attrs.get(LOST))


def tally(study: optuna.Study) -> Tally:
    """Count a study's trials by what became of them."""
    numbers: dict[TrialState, list[int]] = {state: [] for state in TrialState}
    for trial in study.get_trials(deepcopy=False):
        if not is_lost(trial):
            numbers[trial.state].append(trial.number)
    return Tally(
        numbers[TrialState.COMPLETE],
        numbers[TrialState.PRUNED],
        numbers[TrialState.FAIL],
        numbers[TrialState.RUNNING],
        numbers[TrialState.WAITING],
    )


def give_up(study: optuna.Study, address: StudyAddress, number: int, why: str) -> FrozenTrial | None:
    """End a trial whose process is gone, and queue its parameters for another attempt. Under the lock.

    Returns:
        The ended trial, None where it was not running.
    """
    trial = study.get_trials(deepcopy=False)[number]
    if trial.state != TrialState.RUNNING:
        return None
    attempt = trial.user_attrs.get(ATTEMPT, 1)
    lost = attempt < MAX_ATTEMPTS
    address.storage.set_trial_user_attr(trial._trial_id, FAILURE, why)
    address.storage.set_trial_user_attr(trial._trial_id, LOST, lost)
    study.tell(number, state=TrialState.FAIL)
    if lost and OVERRIDES in trial.user_attrs:
        study.enqueue_trial(trial.params, user_attrs={ATTEMPT: attempt + 1, "repeats": number})
    return study.get_trials(deepcopy=False)[number]


def give_up_silent(study: optuna.Study, address: StudyAddress) -> list[FrozenTrial]:
    """End the running trials that no process runs any more. Under the lock.

    A trial without its overrides was being claimed by a process that died, since claims are made
    under the lock; any other must have been silent for the grace period, by the database's clock.
    """
    silent = set(address.storage._get_stale_trial_ids(study._study_id))
    ended = [
        give_up(study, address, t.number, f"its process was silent for more than {address.grace_period} s")
        for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if t._trial_id in silent or OVERRIDES not in t.user_attrs
    ]
    return [trial for trial in ended if trial is not None]


def claim(
    study: optuna.Study,
    address: StudyAddress,
    limit: int,
    suggest: Callable[[optuna.Trial], list[str]],
    sampler: Callable[[int], optuna.samplers.BaseSampler],
    grid: Sequence[dict[str, Any]] | None,
) -> list[Claim]:
    """Take the next trials, with consecutive numbers. Under the lock.

    Args:
        study: The study; its sampler is replaced.
        address: Where it is.
        limit: How many trials at most.
        suggest: Chooses a trial's parameters and returns the job's overrides.
        sampler: A sampler for a trial's number.
        grid: The points to visit in turn, None to let the sampler choose.
    """
    trials = study.get_trials(deepcopy=False)
    waiting = [t.number for t in trials if t.state == TrialState.WAITING]
    visited = [p for t in trials if not is_lost(t) for p in [t.system_attrs.get("fixed_params") or t.params]]
    rest = iter([point for point in grid or [] if point not in visited])
    claims: list[Claim] = []
    for number, first in zip(chain(waiting, count(len(trials))), count(waiting[0] if waiting else len(trials))):
        if len(claims) >= limit or number != first:
            break
        if grid is not None and number not in waiting:
            if (point := next(rest, None)) is None:
                break
            study.enqueue_trial(point)
        with _quiet():
            study.sampler = sampler(number)
            trial = study.ask()
        address.storage.record_heartbeat(trial._trial_id)
        overrides = suggest(trial)
        trial.set_user_attr(OVERRIDES, overrides)
        claims.append(Claim(trial.number, trial._trial_id, overrides))
    return claims


def absolute_url(storage: str | None, default: Path) -> str:
    """The URL of the storage as every process can use it, the folder of a sqlite file made.

    Raises:
        ValueError: It is no URL of a sqlite file or a PostgreSQL database.
    """
    url = make_url(storage or f"sqlite:///{default}")
    if url.get_backend_name() == "postgresql":
        return url.render_as_string(hide_password=False)
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        raise ValueError("storage must be sqlite:///path/of/a/file.db or postgresql+psycopg://user@host/database")
    path = Path(str(url.database)).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    return url.set(database=str(path)).render_as_string(hide_password=False)
