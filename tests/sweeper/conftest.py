"""Fixtures that run the toy app in subprocesses and load the studies that it writes."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from helpers.processes import start_python
from helpers.sweeps import OpenStudy, Start, Sweep

from fer_lightning.config import ROOT

TOY = Path(__file__).parent / "toy_app"


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts the toy app in `tmp_path`; processes that still run after the test are killed."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(TOY)]))
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> "subprocess.Popen[str]":
        process = start_python(
            str(TOY / "app.py"), *arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def wait_until_finished(process: "subprocess.Popen[str]") -> "subprocess.CompletedProcess[str]":
    output, _ = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, output)


@pytest.fixture
def app(start: Start) -> Sweep:
    """Runs the toy app and waits for it."""
    return lambda *arguments: wait_until_finished(start(*arguments))


@pytest.fixture
def start_sweep(start: Start) -> Start:
    """Starts a worker on the study `toy`; a trial whose process dies is failed within seconds."""
    options = ["study_name=toy", "heartbeat_interval=1", "grace_period=6"]
    command = ["-m", "hydra/sweeper=fer_optuna", *(f"hydra.sweeper.{option}" for option in options)]
    return lambda *arguments: start(*command, *arguments)


@pytest.fixture
def sweep(start_sweep: Start) -> Sweep:
    """Runs a sweep in the study `toy` and waits for it."""
    return lambda *arguments: wait_until_finished(start_sweep(*arguments))


@pytest.fixture
def study(tmp_path: Path) -> OpenStudy:
    """Loads the study `toy`; waits up to `timeout` seconds while a worker writes."""
    # Read only: a new worker fails if the reader creates the tables at the same time.
    url = f"sqlite:///file:{tmp_path / 'outputs' / 'sweeps' / 'toy.db'}?mode=ro&uri=true"

    def load(timeout: float = 60) -> optuna.Study:
        options = {"connect_args": {"timeout": timeout}}
        storage = optuna.storages.RDBStorage(url, engine_kwargs=options, skip_table_creation=True)
        return optuna.load_study(study_name="toy", storage=storage)

    return load
