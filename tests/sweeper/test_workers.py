"""Several workers on one study, in a sqlite file and on a PostgreSQL server."""

import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import optuna
from helpers.sweeps import OpenStudy, Start
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError


def wait_for_success(*workers: subprocess.Popen[str]) -> None:
    for worker in workers:
        output, _ = worker.communicate(timeout=600)
        assert worker.returncode == 0, output


def check_complete(study: optuna.Study, log: Path, total: int) -> None:
    """Assert that `total` trials are complete, each finished by exactly one job."""
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(complete) == total
    assert Counter(log.read_text().split()) == {str(t.number): 1 for t in complete}
    assert len({t.params["x"] for t in complete}) == total, "every worker samples with its own seed"


def unfinished_trials(study: optuna.Study, log: Path, process: int) -> list[int]:
    """Return the running trial of a process: a value is reported and its job has not finished."""
    finished = log.read_text().split()
    return [
        t.number
        for t in study.trials
        if t.state == TrialState.RUNNING
        and t.intermediate_values
        and str(t.number) not in finished
        and t.user_attrs.get("worker", "").endswith(f":{process}")
    ]


def test_a_killed_worker_costs_only_its_trial(start_sweep: Start, study: OpenStudy, tmp_path: Path):
    command = ["x=interval(-2,2)", "steps=4", "sleep=0.1", f"log={tmp_path / 'log'}"]
    command += ["hydra.sweeper.n_trials=9", "hydra.sweeper.sampler.seed=1", "hydra.sweeper.grace_period=10"]
    workers = [start_sweep(*command) for _ in range(3)]
    victim = workers[0]
    deadline = time.monotonic() + 300
    unfinished: list[int] = []
    while not unfinished:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        if not (tmp_path / "log").exists():
            continue
        victim.send_signal(signal.SIGSTOP)  # the trial must not finish before the kill
        with suppress(optuna.exceptions.StorageInternalError, SQLAlchemyError):  # the worker holds the lock
            unfinished = unfinished_trials(study(timeout=1), tmp_path / "log", victim.pid)
        if not unfinished:
            victim.send_signal(signal.SIGCONT)
    victim.send_signal(signal.SIGKILL)
    wait_for_success(*workers[1:])
    check_complete(study(), tmp_path / "log", total=9)
    [lost] = [t for t in study().trials if t.state != TrialState.COMPLETE]
    assert ([lost.number], lost.state, lost.user_attrs["lost"]) == (unfinished, TrialState.FAIL, True)
    assert "no heartbeat for more than 10 s" in lost.user_attrs["failure"]
    [repeated] = [t for t in study().trials if "repeats" in t.user_attrs]
    assert (repeated.user_attrs["repeats"], repeated.params) == (lost.number, lost.params)


def test_four_workers_on_postgresql(start_sweep: Start, postgresql: str, tmp_path: Path):
    command = ["x=interval(-2,2)", f"log={tmp_path / 'log'}", f"hydra.sweeper.storage={postgresql}"]
    command += ["hydra.sweeper.n_trials=13", "hydra.sweeper.sampler.seed=1"]
    wait_for_success(*(start_sweep(*command) for _ in range(4)))
    study = optuna.load_study(study_name="toy", storage=postgresql)
    check_complete(study, tmp_path / "log", total=13)
    assert len(study.trials) == 13
    assert len({t.user_attrs["worker"] for t in study.trials}) > 1
