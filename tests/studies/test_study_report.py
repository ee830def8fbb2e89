"""Sweeps with the real train.py on a few synthetic faces."""

import json
import logging
import runpy
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from helpers.processes import start_python, wait_for
from helpers.runs import TINY, TINY_TRACKED
from helpers.tracking import client_of, parent_and_children, tracking_server
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState

from fer_lightning.config import ROOT
from fer_lightning.studies.study_report import study_summary, write_plots
from fer_lightning.training.errors import NonFiniteLossError
from fer_lightning.training.module import FERModule

SMALL = [*TINY_TRACKED, "model.width=4"]
Train = Callable[..., int]


@pytest.fixture
def arguments(request: pytest.FixtureRequest, store: Path) -> list[str]:
    """Common arguments of all command lines in this module."""
    experiment = f"tracking.experiment_name={request.node.name.partition('[')[0]}"
    return ["-m", *SMALL, f"paths.mlruns_dir={store}", experiment]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Train]:
    """Run train.py with given arguments in `tmp_path`, in this process; returns its exit status."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments])
        try:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 1
        return 0

    yield run
    root.handlers, root.level = handlers, level


@pytest.fixture
def study(tmp_path: Path) -> Callable[[], optuna.Study]:
    """Load the only study below `tmp_path`."""

    def load() -> optuna.Study:
        [database] = (tmp_path / "outputs" / "sweeps").glob("*.db")
        options = {"connect_args": {"timeout": 60}}  # a worker may be writing
        storage = optuna.storages.RDBStorage(f"sqlite:///{database}", engine_kwargs=options)
        return optuna.load_study(study_name=None, storage=storage)

    return load


@pytest.fixture
def runs(request: pytest.FixtureRequest, store: Path) -> Callable[[], tuple[Run, list[Run]]]:
    """Return the test's only parent run, and its children by trial number."""

    def search() -> tuple[Run, list[Run]]:
        parent, children = parent_and_children(client_of(store), request.node.name)
        return parent, sorted(children, key=lambda run: int(run.data.tags.get("trial", -1)))

    return search


def artifacts(store: Path, run: Run) -> set[str]:
    return {file.path for file in client_of(store).list_artifacts(run.info.run_id)}


BAD_AND_GOOD = [
    "search=custom_cnn", "hydra/sweeper/sampler=grid", "hydra/sweeper/pruner=successive_halving",
    "optimizer.lr=choice(2e-3,30,1e-3)", "trainer.batch_size=32", "trainer.max_epochs=2",
    "objective=val/loss", "objective_mode=min",
]  # fmt: skip


def test_a_bad_trial_is_pruned_and_the_best_is_reproducible(train, arguments, study, runs, store, tmp_path, capsys):
    assert train(*arguments, *BAD_AND_GOOD, "hydra.sweeper.n_trials=2") == 0
    shown = capsys.readouterr().out
    good, bad = study().trials
    assert [good.state, bad.state] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert list(good.intermediate_values) == [1, 2]
    assert good.value == pytest.approx(min(good.intermediate_values.values()))
    assert list(bad.intermediate_values) == [1]

    parent, (trained, pruned) = runs()
    assert [parent.info.status, trained.info.status, pruned.info.status] == ["FINISHED", "FINISHED", "KILLED"]
    assert [run.data.tags["trial_state"] for run in (trained, pruned)] == ["COMPLETE", "PRUNED"]
    assert [run.data.tags["trial"] for run in (trained, pruned)] == ["0", "1"]
    assert [run.data.params["optimizer.lr"] for run in (trained, pruned)] == ["0.002", "30"]
    assert not any(name.startswith("test") for run in (trained, pruned) for name in run.data.metrics)
    assert artifacts(store, trained) == {"checkpoints", "config.yaml", "record.json"}
    assert artifacts(store, pruned) == set()
    expected = {"best/val/loss": good.value, "trials/complete": 1, "trials/pruned": 1, "trials/fail": 0, "epochs": 3}
    assert expected.items() <= parent.data.metrics.items()
    tags = {"best_trial": "0", "best_run_id": trained.info.run_id, "best.optimizer.lr": "0.002"}
    assert tags.items() <= parent.data.tags.items()
    assert parent.info.run_name.startswith("custom_cnn train-")

    [folder] = tmp_path.glob("outputs/*/*_multirun_custom_cnn")
    assert (folder / "0" / "record.json").exists()
    assert not (folder / "1" / "record.json").exists()
    assert not (folder / "1" / "checkpoints").exists()
    page = (folder / "study.html").read_text()
    for title in ("Optimization history", "Parallel coordinates", "Slices", "Timeline", "Epochs of each trial"):
        assert title in page
    assert "Optimization History Plot" not in page  # a second title
    assert {"study.html", "optimization_results.yaml"} <= set(artifacts(store, parent))

    results = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    assert (results["best_trial"], results["best_value"]) == (0, good.value)
    assert f"Retrain:  {results['retrain']}" in shown
    python, script, *rest = shlex.split(results["retrain"])
    assert (python, script) == ("python", str(ROOT / "train.py"))
    assert train(*rest, f"hydra.run.dir={tmp_path / 'again'}") == 0
    assert "test" in json.loads((tmp_path / "again" / "record.json").read_text())
    again = torch.load(tmp_path / "again" / "checkpoints" / "best.ckpt", weights_only=True)
    assert again["history"][-1]["val/loss"] == good.value


def test_a_resume_adds_only_the_missing_trials(train, arguments, study, runs, capsys):
    for total, trials in ((1, 1), (1, 1), (3, 3)):
        assert train(*arguments, *BAD_AND_GOOD, f"hydra.sweeper.n_trials={total}") == 0
        shown = capsys.readouterr().out
        assert ("nothing to do" in shown) == ("Launching" not in shown)
        parent, children = runs()
        assert len(study().trials) == len(children) == trials
        assert parent.info.status == "FINISHED"
        assert parent.data.metrics["trials/complete"] + parent.data.metrics["trials/pruned"] == trials


def test_a_training_with_nan_loss_fails_in_study_and_mlflow(train, arguments, study, runs):
    space = "optimizer.lr=choice(1e30,1e-3)"
    command = ["hydra/sweeper=fer_optuna", "hydra/sweeper/sampler=grid", space, "optimizer=sgd"]
    assert train(*arguments, *command, "objective=val/loss", "objective_mode=min", "trainer.max_epochs=3") == 0
    failed, good = study().trials
    assert study().direction.name == "MINIMIZE"
    assert [failed.state, good.state] == [TrialState.FAIL, TrialState.COMPLETE]
    assert "nan" in failed.user_attrs["failure"]
    parent, children = runs()
    assert [run.data.tags["trial_state"] for run in children] == ["FAIL", "COMPLETE"]
    assert [run.info.status for run in children] == ["FAILED", "FINISHED"]
    assert (parent.data.metrics["trials/fail"], parent.data.tags["best_trial"]) == (1, "1")


def test_a_trial_that_diverges_late_has_the_value_of_its_best_epoch(train, arguments, study, runs, monkeypatch):
    ends = FERModule.on_train_epoch_end

    def diverge(module: FERModule) -> None:
        if module.current_epoch == 2:
            raise NonFiniteLossError("the weights are nan")
        ends(module)

    monkeypatch.setattr(FERModule, "on_train_epoch_end", diverge)
    command = ["hydra/sweeper=fer_optuna", "hydra/sweeper/sampler=grid", "optimizer.lr=choice(1e-3)"]
    assert train(*arguments, *command, "trainer.max_epochs=4") == 0
    [trial] = study().trials
    assert (trial.state, list(trial.intermediate_values)) == (TrialState.COMPLETE, [1, 2, 3])
    assert trial.value == pytest.approx(max(trial.intermediate_values[epoch] for epoch in (1, 2)))
    assert [run.info.status for run in runs()[1]] == ["FINISHED"]


def test_two_objectives_give_a_pareto_front(train, arguments, study, runs, tmp_path):
    command = ["search=two_objectives", "hydra/sweeper/sampler=grid", "model.width=choice(4,8)"]
    assert train(*arguments, *command, "model.hidden=32", "optimizer.lr=1e-3") == 0
    assert [direction.name for direction in study().directions] == ["MAXIMIZE", "MINIMIZE"]
    trials = study().trials
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 2
    assert trials[0].values[1] < trials[1].values[1]
    parent, children = runs()
    assert [run.data.metrics["parameters"] for run in children] == [t.values[1] for t in trials]
    assert [run.data.metrics["val/macro_f1"] for run in children] == pytest.approx([t.values[0] for t in trials])
    assert parent.data.metrics["best/parameters"] == trials[0].values[1]
    assert "0" in parent.data.tags["pareto_trials"]
    [folder] = (path.parent for path in tmp_path.glob("outputs/*/*/optimization_results.yaml"))
    assert "Pareto front" in (folder / "study.html").read_text()


def test_a_list_of_values_is_still_a_plain_multirun(train, arguments, runs, tmp_path):
    assert train(*arguments, "optimizer.lr=1e-4,3e-4") == 0
    assert not (tmp_path / "outputs" / "sweeps").exists()
    parent, children = runs()
    assert (parent.data.tags["jobs"], parent.info.status) == ("2", "FINISHED")
    assert sorted(run.data.params["optimizer.lr"] for run in children) == ["0.0001", "0.0003"]
    assert not any("trial" in run.data.tags for run in children)


def test_the_trial_of_a_killed_worker_is_marked_and_repeated(train, arguments, study, runs, tmp_path):
    command = [*arguments, "search=loss", "hydra.sweeper.n_trials=1"]
    timeouts = ["hydra.sweeper.heartbeat_interval=1", "hydra.sweeper.grace_period=5"]
    endless = [str(ROOT / "train.py"), *command, *timeouts, "trainer.max_epochs=3000"]
    worker = start_python(*endless, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: has_reported(tmp_path / "outputs" / "sweeps"), worker)
    finally:
        worker.kill()
        worker.wait()
    name = study().study_name
    parent, [child] = runs()
    assert [parent.info.status, child.info.status] == ["RUNNING", "RUNNING"]
    assert train(*command, *timeouts, "trainer.max_epochs=1", f"hydra.sweeper.study_name={name}") == 0  # it waits
    lost, repeated = study().trials
    assert (lost.user_attrs["lost"], repeated.state) == (True, TrialState.COMPLETE)
    assert repeated.params == lost.params
    resumed, children = runs()
    assert (resumed.info.run_id, resumed.info.status) == (parent.info.run_id, "FINISHED")
    assert [run.info.status for run in children] == ["KILLED", "FINISHED"]
    assert [run.data.tags["trial_state"] for run in children] == ["FAIL", "COMPLETE"]
    assert resumed.data.metrics["trials/lost"] == 1


def has_reported(folder: Path) -> bool:
    """Whether a trial has reported an epoch; Optuna itself would create the tables that the worker is creating."""
    try:
        [database] = folder.glob("*.db")
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return connection.execute("select count(*) from trial_intermediate_values").fetchone()[0] > 0
    except (ValueError, sqlite3.OperationalError):  # the database is being created
        return False


SEARCHES = sorted((ROOT / "conf" / "search").glob("*.yaml"))


@pytest.mark.parametrize("search", SEARCHES, ids=lambda path: path.stem)
def test_every_search_runs(train, study, search: Path):
    text = search.read_text()
    for line in ("# Cost ", f"# Command  python train.py -m search={search.stem}"):
        assert line in text
    tiny = [*TINY, "hydra.sweeper.n_trials=1", "hydra.sweeper.sampler.seed=0"]
    assert train("-m", f"search={search.stem}", *(o for o in tiny if "batch_size" not in o)) == 0
    [trial] = study().trials
    assert trial.state == TrialState.COMPLETE
    space = yaml.safe_load(text)["hydra"]["sweeper"]["params"]
    unconditional = {name for name, values in space.items() if isinstance(values, str)}
    assert unconditional <= set(trial.params) <= set(space)


def test_overrides_without_effect_on_results_continue_the_study(train, study, tmp_path: Path):
    command = ["-m", "search=sequential_cnn", *TINY, "hydra.sweeper.n_trials=1"]
    command = [argument for argument in command if "batch_size" not in argument]
    assert train(*command) == 0
    moved = ["data.workers=0", "resume=auto", f"paths.mlruns_dir={tmp_path}/elsewhere"]
    assert train(*command, *moved, "hydra.sweeper.n_trials=2") == 0
    assert len(study().trials) == 2


def test_study_summary_counts_trials_by_state():
    study = optuna.create_study(direction="maximize")
    for number, value in enumerate((0.5, 0.75)):
        trial = study.ask({"lr": optuna.distributions.FloatDistribution(0, 1)})
        trial.report(value, 1)
        study.tell(trial, value if number else None, None if number else TrialState.PRUNED)
    study.tell(study.ask(), state=TrialState.FAIL)
    metrics, tags, best = study_summary(study, ["val/accuracy"])
    counts = {"trials/complete": 1, "trials/pruned": 1, "trials/fail": 1, "trials/lost": 0, "epochs": 2}
    assert metrics == counts | {"best/val/accuracy": 0.75}
    assert (tags, best) == ({"best_trial": "1", "best.lr": str(study.trials[1].params["lr"])}, 1)


def test_a_study_without_a_complete_trial_has_no_best_trial_but_a_page(tmp_path: Path):
    study = optuna.create_study(study_name="<empty>")
    assert study_summary(study, ["val/loss"])[1:] == ({}, None)
    page = write_plots(study, ["val/loss"], tmp_path / "study.html")
    assert page is not None
    assert "<h1>&lt;empty&gt;</h1>" in page.read_text()


def test_missing_plotly_gives_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setattr("optuna.visualization.is_available", lambda: False)
    assert write_plots(optuna.create_study(), ["val/loss"], tmp_path / "study.html") is None
    assert "pip install plotly" in caplog.text


def test_two_workers_share_postgresql_with_an_mlflow_server(postgresql: str, tmp_path: Path) -> None:
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(postgresql.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE DATABASE mlflow")  # Optuna and MLflow need separate databases
    with tracking_server(tmp_path, postgresql.removesuffix("postgres") + "mlflow") as (url, _):
        command = [
            str(ROOT / "train.py"), "-m", *SMALL, "hydra/sweeper=fer_optuna",
            "optimizer.lr=tag(log,interval(1e-4,1e-2))", "hydra.sweeper.n_trials=3", "hydra.sweeper.study_name=shared",
            f"hydra.sweeper.storage={postgresql}", f"tracking.uri={url}", f"paths.mlruns_dir={tmp_path / 'local'}",
        ]  # fmt: skip
        workers = [start_python(*command, cwd=tmp_path) for _ in range(2)]
        assert [worker.wait(timeout=180) for worker in workers] == [0, 0]
        study = optuna.load_study(study_name="shared", storage=postgresql)
        assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
        parent, children = parent_and_children(MlflowClient(url))
        assert {run.data.tags["trial"] for run in children} == {"0", "1", "2"}
        assert parent.data.tags["best_trial"] == str(study.best_trial.number)
    assert not (tmp_path / "local" / "mlflow.db").exists()


def test_the_median_pruner_prunes_no_trial_before_epoch_10() -> None:
    options = yaml.safe_load((ROOT / "conf" / "hydra" / "sweeper" / "pruner" / "median_from_epoch_10.yaml").read_text())
    pruner = getattr(optuna.pruners, options.pop("_target_").rpartition(".")[2])(**options)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    pruned = []
    for value in [1.0] * 6 + [0.0]:
        trial = study.ask()
        for epoch in range(1, 13):  # as training/trial_pruning.py counts
            trial.report(value, epoch)
            if trial.should_prune():
                pruned.append(epoch)
        study.tell(trial, value)
    assert pruned == [10, 11, 12]
