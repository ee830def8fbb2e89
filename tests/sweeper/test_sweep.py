"""One worker: how trials end, how a sweep resumes, what it says and what it leaves."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState

Start = Callable[..., "subprocess.Popen[str]"]
Sweep = Callable[..., "subprocess.CompletedProcess[str]"]
Open = Callable[[], optuna.Study]


def results(tmp_path: Path) -> dict:
    [path] = tmp_path.glob("multirun/*/*/optimization_results.yaml")
    return yaml.safe_load(path.read_text())


def test_pruned_failed_nan_and_complete_are_told_apart(sweep: Sweep, study: Open, tmp_path: Path):
    fates = "fate=choice(raise,not_a_number,none,memory,two,prune,fine)"
    command = [fates, "hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=20", "x=3"]
    done = sweep(*command)
    assert done.returncode == 0, done.stdout
    trials = {t.params["fate"]: t for t in study().trials}
    assert {fate: t.state for fate, t in trials.items()} == {
        "raise": TrialState.FAIL,
        "not_a_number": TrialState.FAIL,
        "none": TrialState.FAIL,
        "memory": TrialState.FAIL,
        "two": TrialState.FAIL,
        "prune": TrialState.PRUNED,
        "fine": TrialState.COMPLETE,
    }
    failures = {fate: t.user_attrs.get("failure") for fate, t in trials.items()}
    assert failures["raise"] == "ValueError: the sky fell"
    assert failures["memory"] == "MemoryError: out of memory"
    assert "returned nan, which is not finite" in failures["not_a_number"]
    assert "returned None, the study needs one number" in failures["none"]
    assert "the study needs one number" in failures["two"]
    assert failures["fine"] is failures["prune"] is None
    assert [t.value for t in study().trials if t.state == TrialState.FAIL] == [None] * 5
    assert 'raise ValueError("the sky fell")' in done.stdout, "the traceback is logged"
    assert "1 complete, 1 pruned, 5 failed" in done.stdout
    assert (results(tmp_path)["best_params"], results(tmp_path)["best_value"]) == ({"fate": "fine"}, 4.0)

    again = sweep(*command)
    assert again.returncode == 0
    assert "has its 7 trials already: nothing to do" in again.stdout
    assert "Launching" not in again.stdout
    assert len(study().trials) == 7

    [retrain] = re.findall(r"Retrain: +python (.*)", again.stdout)
    assert retrain == results(tmp_path)["retrain"].removeprefix("python ")
    command = [sys.executable, *shlex.split(retrain)]
    printed = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, env=path_env())
    assert printed.stdout.endswith("loss 4.0\n")


def path_env() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(__file__).parents[2])}


def test_too_many_failures_stop_the_sweep(sweep: Sweep, study: Open):
    done = sweep("x=interval(0,1)", "fate=raise", "hydra.sweeper.max_failures=1")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == (
        "fer_optuna: 2 trials failed, more than hydra.sweeper.max_failures=1; "
        "the last, trial 1: ValueError: the sky fell"
    )
    assert len(study().trials) == 2


def test_a_resume_goes_on_to_the_total_as_if_it_had_never_stopped(sweep: Sweep, study: Open, tmp_path: Path):
    space = ["x=interval(-2,2)", "y=choice(0,1,2)", "hydra.sweeper.sampler.seed=5"]
    space += ["hydra.sweeper.sampler.n_startup_trials=2"]  # TPE from the third trial on
    diary = f"hydra.sweeper.observers=[{{_target_: observers.Diary, path: {tmp_path / 'diary'}}}]"
    for total in (3, 6):
        done = sweep(*space, diary, f"hydra.sweeper.n_trials={total}")
        assert done.returncode == 0, done.stdout
    resumed = [t.params for t in study().trials]
    assert len(resumed) == 6
    trials = [f"trial {n} COMPLETE" for n in range(6)]
    expected = ["start toy", *trials[:3], "end 3", "start toy", *trials[3:], "end 6"]
    assert (tmp_path / "diary").read_text().splitlines() == expected

    done = sweep("hydra.sweeper.study_name=toy2", *space, "hydra.sweeper.n_trials=6")
    assert done.returncode == 0, done.stdout
    storage = f"sqlite:///{tmp_path / 'outputs' / 'sweeps' / 'toy2.db'}"
    straight = optuna.load_study(study_name="toy2", storage=storage)
    assert [t.params for t in straight.trials] == resumed
    assert len({json.dumps(p) for p in resumed}) == 6


def test_ctrl_c_then_the_same_command_repeats_the_trial(start_sweep: Start, study: Open, tmp_path: Path):
    command = ["x=interval(-2,2)", "steps=10", f"log={tmp_path / 'log'}", "hydra.sweeper.n_trials=2"]
    worker = start_sweep(*command, "sleep=1")
    wait_for(lambda: any(t.intermediate_values for t in study().trials), worker)
    worker.send_signal(signal.SIGINT)
    output, _ = worker.communicate(timeout=300)
    assert worker.returncode == 130
    last = output.splitlines()[-1]
    assert last == "fer_optuna: stopped at 0 of 2 trials; the same command goes on"

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


def test_a_job_that_asks_to_be_requeued_ends_the_sweep_with_its_status(sweep: Sweep, study: Open):
    done = sweep("x=interval(0,1)", "fate=requeue", "hydra.sweeper.n_trials=2")
    assert done.returncode == 75
    assert done.stdout.splitlines()[-1] == "fer_optuna: stopped at 0 of 2 trials; the same command goes on"
    assert "stopped by SystemExit 75" in next(iter(study().trials)).user_attrs["failure"]


def wait_for(condition: Callable[[], bool], worker: "subprocess.Popen[str]", seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except Exception:
            pass  # no database, no study yet
        assert worker.poll() is None, worker.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_pruning_spares_steps(sweep: Sweep, study: Open, tmp_path: Path):
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


def test_two_objectives_have_a_front(sweep: Sweep, study: Open, tmp_path: Path):
    command = ["x=range(-1,3)", "fate=two", "hydra.sweeper.direction=[minimize,minimize]"]
    done = sweep(*command, "hydra/sweeper/sampler=grid")
    assert done.returncode == 0, done.stdout
    solutions = results(tmp_path)["solutions"]  # x = -1 and x = 2 are dominated by 0 and by 1
    assert [(s["params"]["x"], s["values"]) for s in solutions] == [(1, [0.0, 1.0]), (0, [1.0, 0.0])]
    assert "Pareto front (minimize, minimize):" in done.stdout
    assert "app.py fate=two x=1" in done.stdout
    assert sweep("x=interval(0,1)").stdout == (
        "fer_optuna: the study toy has other directions: take another hydra.sweeper.study_name\n"
    )


def test_a_conditional_space_from_the_config_and_from_a_function(app: Sweep, study: Open):
    done = app("-m", "--config-name", "conditional", "hydra.sweeper.study_name=toy")
    assert done.returncode == 0, done.stdout
    seen = Counter(frozenset(t.params) for t in study().trials)
    assert set(seen) == {
        frozenset({"optimizer", "optimizer.lr", "optimizer.momentum"}),
        frozenset({"optimizer", "optimizer.lr", "y"}),
    }
    for trial in study().trials:
        assert ("optimizer.momentum" in trial.params) == (trial.params["optimizer"] == "sgd")
        assert trial.value == 1 + trial.params.get("y", 0) ** 2
        assert trial.user_attrs["overrides"][0] == "label=fixed"
    assert re.search(r"app.py --config-name conditional label=fixed optimizer=sgd optimizer.lr=", done.stdout)


BAD = {
    "x=interval(2,1)": "x: interval(2,1) has its low end above its high end",
    "wrong=interval(0,1)": "no job could start with this search space: Could not override 'wrong'. ",
    "optimizer=choice(sgd,adagrad)": "no job could start with this search space: In 'config': Could not",
    "x=1": "nothing to search: ",
    "hydra.sweeper.n_trials=0": "hydra.sweeper.n_trials must be at least 1, not 0",
    "hydra.sweeper.direction=up": "hydra.sweeper.direction is minimize, maximize or a list of these, not up",
    "hydra.sweeper.storage=postgresql+psycopg2://me:secret@127.0.0.1:1/no": "cannot reach the storage ",
    "hydra.sweeper.storage=sqlite:////proc/none/study.db": "cannot reach the storage sqlite:////proc/none/",
    "hydra.sweeper.custom_search_space=space.nothing": "hydra.sweeper.custom_search_space: there is no",
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_work_ends_with_one_line_before_any_job(sweep: Sweep, tmp_path: Path, bad: str):
    good = [] if "hydra" not in bad else ["x=interval(0,1)"]
    done = sweep(bad, *good)
    assert done.returncode == 1
    [line] = done.stdout.splitlines()
    assert line.startswith("fer_optuna: " + BAD[bad])
    assert "secret" not in line
    assert not (tmp_path / "multirun").exists()


def test_pruning_of_two_objectives_is_refused(sweep: Sweep):
    done = sweep("x=0,1", "hydra.sweeper.direction=[minimize,maximize]", "hydra/sweeper/pruner=hyperband")
    expected = "fer_optuna: Optuna cannot prune with several objectives: take hydra/sweeper/pruner=none\n"
    assert done.stdout == expected


def test_plain_hydra_stays_plain(app: Sweep, tmp_path: Path):
    """The app itself asserts that Optuna is not imported."""
    done = app("-m", "x=1,3")
    assert done.returncode == 0, done.stdout
    assert re.findall("loss (.*)", done.stdout) == ["0.0", "4.0"]
    assert not (tmp_path / "outputs").exists()


def test_a_job_that_kills_its_process_is_tried_again(sweep: Sweep, study: Open):
    """Through joblib, one process a trial."""
    done = sweep(
        "fate=choice(die,fine,raise)",
        "hydra/sweeper/sampler=grid",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "hydra.sweeper.n_jobs=2",
    )
    assert done.returncode == 0, done.stdout
    ends = Counter((t.params["fate"], t.state.name) for t in study().trials if "lost" not in t.user_attrs)
    assert ends == {("die", "COMPLETE"): 1, ("fine", "COMPLETE"): 1, ("raise", "FAIL"): 1}
    lost = [t for t in study().trials if t.user_attrs.get("lost")]
    assert "die" in {t.params["fate"] for t in lost}
    assert len({t.user_attrs["worker"] for t in study().trials if "worker" in t.user_attrs}) > 1


def test_a_study_that_searched_otherwise_is_not_gone_on_with(sweep: Sweep, study: Open):
    assert sweep("x=choice(0,1)", "hydra.sweeper.n_trials=1").returncode == 0
    done = sweep("x=choice(0,2)", "hydra.sweeper.n_trials=2")
    assert done.returncode == 1
    assert "the study toy has searched x otherwise" in " ".join(done.stdout.split())
    assert len(study().trials) == 1


def test_submitit(sweep: Sweep, study: Open):
    done = sweep("x=0,1", "hydra/sweeper/sampler=grid", "hydra/launcher=submitit_local", "hydra.sweeper.n_jobs=2")
    assert done.returncode == 0, done.stdout
    assert sorted(t.value for t in study().trials) == [0.0, 1.0]


def test_a_study_without_a_name_is_of_one_configuration(app: Sweep, tmp_path: Path) -> None:
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
        written = (toy / "config.yaml").read_text().replace("label: plain", f"label: {label}")
        (conf / "config.yaml").write_text(written)
        done = app(*command, "hydra.sweeper.n_trials=1", extra)
        assert done.returncode == 0, done.stdout
        assert len(list((tmp_path / "outputs" / "sweeps").glob("*.db"))) == studies
