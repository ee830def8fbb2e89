"""Opens MLflow stores: a server, a database or the local store; summarises their errors in one sentence."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock

from fer_lightning.files import one_line
from fer_lightning.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
T = TypeVar("T")

RUN_ID = ".mlflow_run_id"
"""File in a run's folder with the id of its MLflow run."""

CONFLICT_CODES = (
    "BAD_REQUEST",  # the message of a database
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",  # the deleted experiment was restored by another process
)
"""MLflow's error codes if another process has just made the same change."""

SCHEMES = ("http://", "https://", "sqlite:///", "postgresql", "mysql", "mssql")

LOCAL_STORE = Path("mlruns/mlflow.db")
"""The local store of a project folder, where conf/paths does not name another one."""

# MLflow reads these when it is imported or when it sends; whoever has set them keeps them.
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; the default of 120 takes many minutes with the retries
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "GIT_PYTHON_REFRESH": "quiet",  # no warning if git is not installed
}
_NOT_SET_BY_USER = _DEFAULTS.keys() - os.environ.keys()
os.environ.update({name: _DEFAULTS[name] for name in _NOT_SET_BY_USER})
logging.getLogger("alembic").setLevel(logging.WARNING)  # at INFO it logs every table of a new store
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # failures are logged once, below


def check_scheme(uri: str | None) -> None:
    """Check the scheme of a tracking server's address; None is the local store.

    Raises:
        ValueError: MLflow knows no such store.
    """
    if uri and not uri.startswith(SCHEMES):
        raise ValueError(
            f"tracking.uri (or MLFLOW_TRACKING_URI) is {redact(uri)!r}; it must begin with {', '.join(SCHEMES)}"
        )


def with_local_fallback(uri: str | None, local_dir: str, timeout: int, action: Callable[[str], T]) -> T:
    """Run `action(uri)`; if it fails, log a warning and run `action` with the local store."""
    local = f"sqlite:///{Path(local_dir).as_posix()}/mlflow.db"
    if uri and uri != local:
        check_scheme(uri)
        try:
            with short_timeout(timeout):
                _check_connection(uri, timeout)
                return action(uri)
        except store_errors() as error:
            log.warning(
                "NO TRACKING AT %s (%s): the local store %s is used instead",
                redact(uri),
                root_cause(error),
                local,
            )
    try:
        return action(local)
    except store_errors() as error:
        raise ValueError(
            f"the MLflow store {local} cannot be used: {root_cause(error)} Repair it, use another folder "
            "(paths.mlruns_dir=...) or disable MLflow (tracking=csv)"
        ) from error


def client(uri: str | None = None, timeout: int | None = None) -> MlflowClient:
    """Return a client of a store.

    Args:
        uri: The store; by default that of MLFLOW_TRACKING_URI, else `LOCAL_STORE`.
        timeout: Seconds that a server may take for a request, from now on in this process; without effect where the
            user has set MLFLOW_HTTP_REQUEST_TIMEOUT.
    """
    if timeout and "MLFLOW_HTTP_REQUEST_TIMEOUT" in _NOT_SET_BY_USER:
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(timeout)
    from mlflow import MlflowClient

    return MlflowClient(uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{LOCAL_STORE.as_posix()}")


def open_experiment(uri: str, local_dir: str, name: str) -> tuple[MlflowClient, str]:
    """Return a client of a store and the id of its experiment, both made if missing."""
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])  # even if imported before this file
    folder = Path(local_dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".mlflow.lock"):
        if uri.startswith("sqlite:///") and not (file := Path(uri.removeprefix("sqlite:///"))).exists():
            _create_store(file, folder / "artifacts")
        store = client(uri)

        def find_or_create() -> str:
            experiment = store.get_experiment_by_name(name)
            if experiment is None:
                artifacts = None if uri.startswith("http") else str(folder / "artifacts")  # a server has its own store
                return str(store.create_experiment(name, artifacts))
            if experiment.lifecycle_stage == "deleted":
                store.restore_experiment(experiment.experiment_id)
            return str(experiment.experiment_id)

        return store, retry_on_conflict(find_or_create)


def retry_on_conflict(find_or_create: Callable[[], T]) -> T:
    """Call `find_or_create`, and again if another process created the same at that moment and MLflow raised an error.

    A lock would not suffice: another user of the same server may be on another machine.
    """
    from mlflow.exceptions import MlflowException

    try:
        return find_or_create()
    except MlflowException as error:
        if error.error_code not in CONFLICT_CODES:
            raise
        return find_or_create()


def _create_store(file: Path, artifacts: Path) -> None:
    """Create a new SQLite store in a temporary folder and move it: MLflow cannot open an incomplete store."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    file.parent.mkdir(parents=True, exist_ok=True)
    for leftover in file.parent.glob(f".{file.name}.*"):  # of a killed process
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = Path(mkdtemp(prefix=f".{file.name}.", dir=file.parent))  # a folder, for SQLite's journal too
    store: Any = SqlAlchemyStore(  # type: ignore[no-untyped-call]
        f"sqlite:///{(temporary / file.name).as_posix()}", str(artifacts)
    )
    store.engine.dispose()
    (temporary / file.name).replace(file)
    temporary.rmdir()


def _check_connection(uri: str, timeout: int) -> None:
    """Raise the connection error of a database server; MLflow would retry for minutes."""
    from mlflow.store.db.utils import create_sqlalchemy_engine
    from sqlalchemy import make_url

    if uri.startswith(("http", "sqlite")):
        return
    url = make_url(uri)
    if url.get_backend_name() in ("postgresql", "mysql") and "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": str(timeout)})
    engine: Any = create_sqlalchemy_engine(  # type: ignore[no-untyped-call]
        url.render_as_string(hide_password=False)
    )
    try:
        engine.connect().close()
    finally:
        engine.dispose()


@contextmanager
def short_timeout(timeout: int) -> Iterator[None]:
    """Make MLflow send each request to a server only once, with `timeout` seconds for the response."""
    variables = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    previous = {name: os.environ[name] for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.update(previous)


@contextmanager
def preserve_tracking_uri() -> Iterator[None]:
    """Restore MLFLOW_TRACKING_URI as set by the user; MLflow overwrites it with the last store that it used."""
    name = "MLFLOW_TRACKING_URI"
    previous = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if previous is not None:
            os.environ[name] = previous


def store_errors() -> tuple[type[Exception], ...]:
    """Return the errors that MLflow raises if a store or server fails; a function, since importing MLflow is slow."""
    try:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError
    except ModuleNotFoundError as error:
        raise ValueError(f"tracking=mlflow needs a missing package ({error}); use tracking=csv without it") from None

    return MlflowException, SQLAlchemyError, ImportError, OSError  # ImportError: a database driver is not installed


def root_cause(error: BaseException) -> str:
    """Return the first line of the root cause of an error, without passwords."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return redact(one_line(error))[:200]


def valid_key(name: str) -> str:
    """Return the name of a metric or param with `_` for the characters that MLflow does not accept."""
    return re.sub(r"[^\w./: -]", "_", name)
