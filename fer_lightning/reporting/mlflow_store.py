"""Opens MLflow stores: a server, a database or the local one; says in a sentence what is wrong with one."""

from __future__ import annotations

import logging
import os
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
"""The file in a run's folder that holds the id of its MLflow run."""

CONFLICT_CODES = (
    "BAD_REQUEST",  # a database's own words
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",  # no deleted experiment of that name any more
)
"""MLflow's error codes where another process did the same a moment before."""

SCHEMES = ("http://", "https://", "sqlite:///", "postgresql", "mysql", "mssql")

LOCAL_STORE = Path("mlruns/mlflow.db")
"""The local store of a project folder, where conf/paths does not name another one."""

# MLflow reads these when it is imported or when it sends; whoever has set them keeps them.
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; otherwise 120, and with the retries many minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "GIT_PYTHON_REFRESH": "quiet",  # no complaint where git is not installed
}
_NOT_SET_BY_USER = _DEFAULTS.keys() - os.environ.keys()
os.environ.update({name: _DEFAULTS[name] for name in _NOT_SET_BY_USER})
logging.getLogger("alembic").setLevel(logging.WARNING)  # else a line for each of the tables of a new store
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # failures are told below, once


def first_store_that_works(uri: str | None, local_dir: str, timeout: int, action: Callable[[str], T]) -> T:
    """`action(uri)`; if that fails, says so and does `action` with the local store instead."""
    local = f"sqlite:///{Path(local_dir).as_posix()}/mlflow.db"
    if uri and uri != local:
        if not uri.startswith(SCHEMES):
            raise ValueError(
                f"tracking.uri (else MLFLOW_TRACKING_URI) is {redact(uri)!r}; it must begin with {', '.join(SCHEMES)}"
            )
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
            f"the MLflow store {local} cannot be used: {root_cause(error)} Mend it, use another folder "
            "(paths.mlruns_dir=...) or do without (tracking=csv)"
        ) from error


def client(uri: str | None = None, timeout: int | None = None) -> MlflowClient:
    """A client of a store.

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
    """A client of a store and the id of its experiment, both made if missing."""
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])  # even if imported before this file
    folder = Path(local_dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".mlflow.lock"):
        if uri.startswith("sqlite:///") and not (file := Path(uri.removeprefix("sqlite:///"))).exists():
            _make_store(file, folder / "artifacts")
        store = client(uri)

        def find_or_make() -> str:
            experiment = store.get_experiment_by_name(name)
            if experiment is None:
                artifacts = None if uri.startswith("http") else str(folder / "artifacts")  # a server has its own place
                return str(store.create_experiment(name, artifacts))
            if experiment.lifecycle_stage == "deleted":
                store.restore_experiment(experiment.experiment_id)
            return str(experiment.experiment_id)

        return store, retry_on_conflict(find_or_make)


def retry_on_conflict(find_or_make: Callable[[], T]) -> T:
    """`find_or_make()`, again where another process made the same at that moment: MLflow then refuses the second one.

    A lock would not do: whoever uses the same server may sit at another machine.
    """
    from mlflow.exceptions import MlflowException

    try:
        return find_or_make()
    except MlflowException as error:
        if error.error_code not in CONFLICT_CODES:
            raise
        return find_or_make()


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


def _check_connection(uri: str, timeout: int) -> None:
    """Raises what is wrong with a database server; MLflow would try to connect for minutes."""
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
    """MLflow asks a server only once and waits `timeout` seconds for the answer."""
    wanted = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    before = {name: os.environ[name] for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.update(before)


@contextmanager
def preserve_tracking_uri() -> Iterator[None]:
    """Leaves MLFLOW_TRACKING_URI as the user has set it; MLflow writes there whichever store it was told last."""
    name = "MLFLOW_TRACKING_URI"
    before = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def store_errors() -> tuple[type[Exception], ...]:
    """The errors that MLflow raises when a store or server fails; a function, since importing MLflow takes a second."""
    try:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError
    except ModuleNotFoundError as error:
        raise ValueError(f"tracking=mlflow needs a package ({error}); tracking=csv does without") from None

    return MlflowException, SQLAlchemyError, ImportError, OSError  # ImportError: the driver of a database is missing


def root_cause(error: BaseException) -> str:
    """The first line of the error at the root of a chain, without passwords."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return redact(one_line(error))[:200]
