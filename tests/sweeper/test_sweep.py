"""One worker: how trials end, how a sweep resumes, its messages and its files."""

import json
import re
import shlex
import shutil
import signal
from collections import Counter
from pathlib import Path

import optuna
import pytest
import yaml
from helpers.processes import run_python, wait_for
from helpers.sweeps import OpenStudy, Start, Sweep
from optuna.trial import TrialState


def results(tmp_path: Path) -> dict:
    [path] = tmp_path.glob("multirun/*/*/optimization_results.yaml")
    return yaml.safe_load(path.read_text())


def test_states_of_pruned_failed_nan_and_complete_trials(sweep: Sweep, study: OpenStudy, tmp_path: Path):
    outcomes = "outcome=choice(raise,not_a_number,none,memory,two,prune,value)"
    command = [outcomes, "hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=20", "x=3"]
    done = sweep(*command)
    assert done.returncode == 0, done.stdout
    trials = {t.params["outcome"]: t for t in study().trials}
    assert {outcome: t.state for outcome, t in trials.items()} == {
        "raise": TrialState.FAIL,
        "not_a_number": TrialState.FAIL,
        "none": TrialState.FAIL,
        "memory": TrialState.FAIL,
        "two": TrialState.FAIL,
        "prune": TrialState.PRUNED,
        "value": TrialState.COMPLETE,
    }
    failures = {outcome: t.user_attrs.get("failure") for outcome, t in trials.items()}
    assert failures["raise"] == "ValueError: simulated error"
    assert failures["memory"] == "MemoryError: out of memory"
    assert "returned nan, which is not finite" in failures["not_a_number"]
    assert "returned None, but the study needs one number" in failures["none"]
    assert "the study needs one number" in failures["two"]
    assert failures["value"] is failures["prune"] is None
    assert [t.value for t in study().trials if t.state == TrialState.FAIL] == [None] * 5
    assert 'raise ValueError("simulated error")' in done.stdout, "the traceback is logged"
    assert "1 complete, 1 pruned, 5 failed" in done.stdout
    assert (results(tmp_path)["best_params"], results(tmp_path)["best_value"]) == ({"outcome": "value"}, 4.0)

    again = sweep(*command)
    assert again.returncode == 0
    assert "already has 7 trials: nothing to do" in again.stdout
    assert "Launching" not in again.stdout
    assert len(study().trials) == 7

    [retrain] = re.findall(r"Retrain: +python (.*)", again.stdout)
    assert retrain == results(tmp_path)["retrain"].removeprefix("python ")
    assert run_python(*shlex.split(retrain), cwd=tmp_path).stdout.endswith("loss 4.0\n")


def test_too_many_failures_stop_the_sweep(sweep: Sweep, study: OpenStudy):
    done = sweep("x=interval(0,1)", "outcome=raise", "hydra.sweeper.max_failures=1")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == (
        "fer_optuna: 2 trials failed, more than hydra.sweeper.max_failures=1; "
        "the last is trial 1: ValueError: simulated error"
    )
    assert len(study().trials) == 2


def test_a_resumed_sweep_equals_an_uninterrupted_one(sweep: Sweep, study: OpenStudy, tmp_path: Path):
    space = ["x=interval(-2,2)", "y=choice(0,1,2)", "hydra.sweeper.sampler.seed=5"]
    space += ["hydra.sweeper.sampler.n_startup_trials=2"]  # TPE from the third trial on
    observers = f"hydra.sweeper.observers=[{{_target_: observers.EventLog, path: {tmp_path / 'events'}}}]"
    for total in (3, 6):
        done = sweep(*space, observers, f"hydra.sweeper.n_trials={total}")
        assert done.returncode == 0, done.stdout
    resumed = [t.params for t in study().trials]
    assert len(resumed) == 6
    trials = [f"trial {n} COMPLETE" for n in range(6)]
    expected = ["start toy", *trials[:3], "end 3", "start toy", *trials[3:], "end 6"]
    assert (tmp_path / "events").read_text().splitlines() == expected

    done = sweep("hydra.sweeper.study_name=toy2", *space, "hydra.sweeper.n_trials=6")
    assert done.returncode == 0, done.stdout
    storage = f"sqlite:///{tmp_path / 'outputs' / 'sweeps' / 'toy2.db'}"
    uninterrupted = optuna.load_study(study_name="toy2", storage=storage)
    assert [t.params for t in uninterrupted.trials] == resumed
    assert len({json.dumps(p) for p in resumed}) == 6


def test_ctrl_c_then_the_same_command_repeats_the_trial(start_sweep: Start, study: OpenStudy, tmp_path: Path):
    command = ["x=interval(-2,2)", "steps=10", f"log={tmp_path / 'log'}", "hydra.sweeper.n_trials=2"]
    worker = start_sweep(*command, "sleep=1")
    wait_for(lambda: any(t.intermediate_values for t in study().trials), worker, ignore=(Exception,))  # no database yet
    worker.send_signal(signal.SIGINT)
    output, _ = worker.communicate(timeout=300)
    assert worker.returncode == 130
    last = output.splitlines()[-1]
    assert last == "fer_optuna: stopped at 0 of 2 trials; run the same command to resume"

    worker = start_sweep(*command, "sleep=0")
    output, _ = worker.communicate(timeout=300)
    assert worker.returncode == 0, output
    lost, repeated, other = study().trials
    assert (lost.state, lost.user_attrs["lost"]) == (TrialState.FAIL, True)
    assert "KeyboardInterrupt" in lost.user_attrs["failure"]
    assert repeated.params == lost.params != other.params
    assert repeated.user_attrs["repeats"] == 0
    assert (tmp_path / "log").read_text().split() == ["1", "2"]
    assert "2 complete, 1 lost and repeated" in output


def test_a_job_that_asks_to_be_requeued_ends_the_sweep_with_its_status(sweep: Sweep, study: OpenStudy):
    done = sweep("x=interval(0,1)", "outcome=requeue", "hydra.sweeper.n_trials=2")
    assert done.returncode == 75
    assert done.stdout.splitlines()[-1] == "fer_optuna: stopped at 0 of 2 trials; run the same command to resume"
    assert "stopped by SystemExit 75" in next(iter(study().trials)).user_attrs["failure"]


def test_pruning_saves_steps(sweep: Sweep, study: OpenStudy, tmp_path: Path):
    done = sweep(
        "x=interval(-9,9)",
        "steps=5",
        "hydra/sweeper/sampler=random",
        "hydra.sweeper.sampler.seed=0",
        "hydra/sweeper/pruner=median",
        "hydra.sweeper.pruner.n_startup_trials=2",
        "hydra.sweeper.n_trials=8",
    )
    assert done.returncode == 0, done.stdout
    counts = Counter(t.state for t in study().trials)
    assert set(counts) == {TrialState.COMPLETE, TrialState.PRUNED}
    steps = 5 * counts[TrialState.COMPLETE] + counts[TrialState.PRUNED]
    assert results(tmp_path)["steps"] == steps < 40
    assert f"{steps} steps reported" in done.stdout


def test_two_objectives_have_a_pareto_front(sweep: Sweep, tmp_path: Path):
    command = ["x=range(-1,3)", "outcome=two", "hydra.sweeper.direction=[minimize,minimize]"]
    done = sweep(*command, "hydra/sweeper/sampler=grid")
    assert done.returncode == 0, done.stdout
    solutions = results(tmp_path)["solutions"]  # x = -1 and x = 2 are dominated by 0 and by 1
    assert [(s["params"]["x"], s["values"]) for s in solutions] == [(1, [0.0, 1.0]), (0, [1.0, 0.0])]
    assert "Pareto front (minimize, minimize):" in done.stdout
    assert "app.py outcome=two x=1" in done.stdout
    assert sweep("x=interval(0,1)").stdout == (
        "fer_optuna: the study toy has other directions: choose another hydra.sweeper.study_name\n"
    )


def test_a_conditional_space_from_the_config_and_from_a_function(app: Sweep, study: OpenStudy):
    done = app("-m", "--config-name", "conditional", "hydra.sweeper.study_name=toy")
    assert done.returncode == 0, done.stdout
    counts = Counter(frozenset(t.params) for t in study().trials)
    assert set(counts) == {
        frozenset({"optimizer", "optimizer.lr", "optimizer.momentum"}),
        frozenset({"optimizer", "optimizer.lr", "y"}),
    }
    for trial in study().trials:
        assert ("optimizer.momentum" in trial.params) == (trial.params["optimizer"] == "sgd")
        assert trial.value == 1 + trial.params.get("y", 0) ** 2
        assert trial.user_attrs["overrides"][0] == "label=fixed"
    assert re.search(r"app.py --config-name conditional label=fixed optimizer=sgd optimizer.lr=", done.stdout)


INVALID = {
    "x=interval(2,1)": "x: interval(2,1) has a lower bound above its upper bound",
    "wrong=interval(0,1)": "no job can start with this search space: Could not override 'wrong'. ",
    "optimizer=choice(sgd,adagrad)": "no job can start with this search space: In 'config': Could not",
    "x=1": "the search space is empty: ",
    "hydra.sweeper.n_trials=0": "hydra.sweeper.n_trials must be at least 1, not 0",
    "hydra.sweeper.direction=up": "hydra.sweeper.direction must be minimize, maximize or a list of these, not up",
    "hydra.sweeper.storage=postgresql+psycopg2://me:secret@127.0.0.1:1/no": "cannot open the storage ",
    "hydra.sweeper.storage=sqlite:////proc/none/study.db": "cannot open the storage sqlite:////proc/none/",
    "hydra.sweeper.custom_search_space=space.nothing": "hydra.sweeper.custom_search_space: no function",
}


@pytest.mark.parametrize("override", INVALID)
def test_an_invalid_sweep_stops_with_one_line_before_any_job(sweep: Sweep, tmp_path: Path, override: str):
    valid = [] if "hydra" not in override else ["x=interval(0,1)"]
    done = sweep(override, *valid)
    assert done.returncode == 1
    [line] = done.stdout.splitlines()
    assert line.startswith("fer_optuna: " + INVALID[override])
    assert "secret" not in line
    assert not (tmp_path / "multirun").exists()


def test_pruning_with_two_objectives_is_refused(sweep: Sweep):
    done = sweep("x=0,1", "hydra.sweeper.direction=[minimize,maximize]", "hydra/sweeper/pruner=hyperband")
    expected = "fer_optuna: Optuna cannot prune with several objectives: set hydra/sweeper/pruner=none\n"
    assert done.stdout == expected


def test_hydra_without_the_sweeper_imports_no_optuna(app: Sweep, tmp_path: Path):
    """The app itself asserts that Optuna is not imported."""
    done = app("-m", "x=1,3")
    assert done.returncode == 0, done.stdout
    assert re.findall("loss (.*)", done.stdout) == ["0.0", "4.0"]
    assert not (tmp_path / "outputs").exists()


def test_a_job_that_kills_its_process_is_retried(sweep: Sweep, study: OpenStudy):
    """With joblib, one process per trial."""
    done = sweep(
        "outcome=choice(kill,value,raise)",
        "hydra/sweeper/sampler=grid",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "hydra.sweeper.n_jobs=2",
    )
    assert done.returncode == 0, done.stdout
    ends = Counter((t.params["outcome"], t.state.name) for t in study().trials if "lost" not in t.user_attrs)
    assert ends == {("kill", "COMPLETE"): 1, ("value", "COMPLETE"): 1, ("raise", "FAIL"): 1}
    lost = [t for t in study().trials if t.user_attrs.get("lost")]
    assert "kill" in {t.params["outcome"] for t in lost}
    assert len({t.user_attrs["worker"] for t in study().trials if "worker" in t.user_attrs}) > 1


def test_a_study_with_another_search_space_is_refused(sweep: Sweep, study: OpenStudy):
    assert sweep("x=choice(0,1)", "hydra.sweeper.n_trials=1").returncode == 0
    done = sweep("x=choice(0,2)", "hydra.sweeper.n_trials=2")
    assert done.returncode == 1
    assert "the study toy has another search space for x" in " ".join(done.stdout.split())
    assert len(study().trials) == 1


def test_submitit(sweep: Sweep, study: OpenStudy):
    done = sweep("x=0,1", "hydra/sweeper/sampler=grid", "hydra/launcher=submitit_local", "hydra.sweeper.n_jobs=2")
    assert done.returncode == 0, done.stdout
    assert sorted(t.value for t in study().trials) == [0.0, 1.0]


def test_the_default_study_name_identifies_the_configuration(app: Sweep, tmp_path: Path) -> None:
    toy = Path(__file__).parent / "toy_app" / "conf"
    conf = Path(shutil.copytree(toy, tmp_path / "conf"))
    command = [
        "--config-path",
        str(conf),
        "-m",
        "hydra/sweeper=fer_optuna",
        "x=choice(0,1)",
        "hydra.sweeper.n_trials=1",
    ]
    for label, extra, studies in (
        ("plain", "hydra.sweeper.sampler.seed=0", 1),
        ("plain", "hydra.sweeper.sampler.seed=1", 1),
        ("other", "hydra.sweeper.sampler.seed=0", 2),
        ("other", "hydra/sweeper/sampler=grid", 3),
    ):
        changed = (toy / "config.yaml").read_text().replace("label: plain", f"label: {label}")
        (conf / "config.yaml").write_text(changed)
        done = app(*command, "hydra.sweeper.n_trials=1", extra)
        assert done.returncode == 0, done.stdout
        assert len(list((tmp_path / "outputs" / "sweeps").glob("*.db"))) == studies
