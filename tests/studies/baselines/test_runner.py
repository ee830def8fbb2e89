import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.processes import start_python, wait_for

from fer_lightning.config import ROOT
from fer_lightning.studies.baselines.rows import baselines
from fer_lightning.studies.baselines.runner import OUT_OF_TIME, RUNS, Runner

FAKE_TRAINING = """
import json, os, pathlib, sys, time
options = dict(argument.split("=", 1) for argument in sys.argv[1:])
folder = pathlib.Path(options["hydra.run.dir"])
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
(folder / "checkpoints" / "last.ckpt").touch()
if options["experiment"] == "waiting" and "resume" not in options:
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(600)
(folder / "record.json").write_text(json.dumps(options))
if "paths.results_dir" in options:
    name = f"{options['experiment']}_seed{options.get('seed', 0)}.json"
    pathlib.Path("results", name).write_text(json.dumps(options))
"""

FAKE_ENSEMBLE = """
import json, pathlib, sys
name = sys.argv[3].removeprefix("publish=")
runs = sorted(path.parent.name for path in pathlib.Path("outputs/baselines").glob("*/record.json"))
pathlib.Path("results", f"{name}_seed0.json").write_text(json.dumps(runs))
"""


def test_a_run_stops_in_time_resumes_and_is_not_repeated(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (root / "train.py").write_text(FAKE_TRAINING)
    last = root / RUNS / "waiting_seed1" / "checkpoints" / "last.ckpt"
    clock = SimpleNamespace(sleep=time.sleep, monotonic=lambda: 9.0 if last.exists() else 7.0)
    monkeypatch.setattr("fer_lightning.studies.baselines.runner.time", clock)
    assert Runner(deadline=8.0, root=root).run_rows([("waiting", 1)]) == OUT_OF_TIME
    assert "time limit reached" in capfd.readouterr().out
    assert not (root / "results" / "waiting_seed1.json").exists()
    runner = Runner(root=root)
    assert runner.run_rows([("waiting", 1)]) == 0
    assert "waiting_seed1: resumes from its last complete epoch" in capfd.readouterr().out
    options = json.loads((root / "results" / "waiting_seed1.json").read_text())
    assert options["resume"] == "auto"  # which refuses an experiment that was changed in between
    assert options["seed"] == "1"
    assert runner.run_rows([("waiting", 1)]) == 0
    assert "already measured" in capfd.readouterr().out


def test_missing_weights_of_measured_rows_are_trained_and_the_records_stay(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (root / "train.py").write_text(FAKE_TRAINING)
    record = (root / "results" / "measured_seed0.json").read_text()
    assert Runner(root=root).run_rows([("measured", 0)]) == 0
    assert "its weights are missing, --weights trains them" in capfd.readouterr().out
    assert not (root / RUNS).exists()
    again = Runner(weights=True, root=root)
    assert again.run_rows([("measured", 0)]) == 0
    assert "measured_seed0: starts" in capfd.readouterr().out
    assert (root / RUNS / "measured_seed0" / "record.json").is_file()
    assert (root / "results" / "measured_seed0.json").read_text() == record
    assert again.run_rows([("measured", 0)]) == 0
    assert "starts" not in capfd.readouterr().out


TERMINATED = """
import functools, pathlib, sys, types
from fer_lightning.studies.baselines import command, runner
command.Runner = functools.partial(runner.Runner, root=pathlib.Path(sys.argv[1]))
command.baselines = lambda: [types.SimpleNamespace(name="waiting")]
sys.exit(command.main(["run", "waiting"]))
"""


def test_no_training_outlives_a_terminated_runner(root: Path) -> None:
    (root / "train.py").write_text(FAKE_TRAINING)
    process = start_python("-c", TERMINATED, str(root), cwd=ROOT)
    training = wait_for((root / RUNS / "waiting_seed0" / "pid").read_text, process, ignore=(FileNotFoundError,))
    process.terminate()
    assert process.wait(timeout=60) == OUT_OF_TIME
    with pytest.raises(ProcessLookupError):
        os.kill(int(training), 0)


WAITS_FOR_ANOTHER = """
import json, os, pathlib, sys, time
options = dict(argument.split("=", 1) for argument in sys.argv[1:])
if options["experiment"] == "broken":
    sys.exit("no such model")
started = pathlib.Path("started")
started.mkdir(exist_ok=True)
(started / options["seed"]).touch()
while len(list(started.iterdir())) < 2:
    time.sleep(0.05)
print("both started")
pathlib.Path("results", f"waiting_seed{options['seed']}.json").write_text(os.environ["OMP_NUM_THREADS"])
"""


def test_parallel_trainings_share_the_cores(
    root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (root / "train.py").write_text(WAITS_FOR_ANOTHER)
    runner = Runner(time.monotonic() + 60, at_once=2, root=root)
    assert runner.run_rows([("waiting", 1), ("waiting", 2)]) == 0
    assert [(root / "results" / f"waiting_seed{seed}.json").read_text() for seed in (1, 2)] == ["3", "3"]
    assert (root / RUNS / "waiting_seed1.log").read_text() == "both started\n"
    assert "waiting_seed2: done" in capfd.readouterr().out


def test_a_row_is_trained_after_the_row_it_starts_from(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = root / "conf"
    (conf / "experiment" / "student.yaml").write_text("# Source    ours\n# Claim     none\n# After     waiting\n")
    pruned = "# Source    ours\n# Claim     none\n# After     waiting\n"
    pruned += "# First     python -m fer_lightning prune 'model.widths=[4,8]'\n"
    (conf / "experiment" / "pruned.yaml").write_text(pruned)
    (conf / "ensemble").mkdir()
    members = "members:\n  waiting_seed0: [experiment=waiting]\n  student_seed0: [experiment=student]\n"
    (conf / "ensemble" / "vote.yaml").write_text(f"# Source    ours\n# Claim     none\n{members}")
    (conf / "experiment" / "taught.yaml").write_text(
        "# Source    ours\n# Claim     none\n# After     pruned and vote\n"
    )
    batches: list[list[str]] = []

    def run_processes(self: Runner, commands: dict[str, list[str]]) -> int:
        if commands:
            batches.append([" ".join(arguments) if "first" in run else run for run, arguments in commands.items()])
        for run in commands:
            folder = root / ("outputs/ensembles" if run == "vote" else RUNS) / run
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "record.json").touch()
        return 0

    monkeypatch.setattr(Runner, "run_processes", run_processes)
    runner = Runner(at_once=3, root=root)
    assert runner.run_rows([("student", 0), ("waiting", 0), ("waiting", 1)]) == 0
    assert batches == [["waiting_seed0", "waiting_seed1"], ["student_seed0"]]
    batches.clear()
    assert runner.run_rows([("pruned", 0)]) == 0
    assert batches == [["waiting_seed0"], ["-m fer_lightning prune model.widths=[4,8]"], ["pruned_seed0"]]
    batches.clear()
    shutil.rmtree(root / RUNS)
    assert runner.run_rows([("taught", 0), ("vote", 0)]) == 0
    prune = "-m fer_lightning prune model.widths=[4,8]"
    assert batches == [["waiting_seed0"], [prune], ["pruned_seed0", "student_seed0"], ["vote"], ["taught_seed0"]]


def test_nothing_is_started_after_a_failure(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (root / "train.py").write_text(WAITS_FOR_ANOTHER)
    (root / "conf" / "experiment" / "broken.yaml").write_text("# Source    ours\n# Claim     none\n")
    runner = Runner(time.monotonic() + 60, at_once=1, root=root)
    assert runner.run_rows([("broken", 0), ("waiting", 1)]) == 1
    assert not (root / "started").exists()
    assert Runner(at_once=2, root=root).run_rows([("broken", 0), ("broken", 3), ("waiting", 1)]) == 1
    assert "broken_seed0: failed (1), see outputs/baselines/broken_seed0.log" in capfd.readouterr().out
    assert not (root / "started").exists()


def test_the_members_of_an_ensemble_are_trained_first(root: Path) -> None:
    (root / "train.py").write_text(FAKE_TRAINING)
    (root / "fer_lightning").mkdir()
    (root / "fer_lightning" / "__init__.py").touch()  # takes precedence over a package on PYTHONPATH
    (root / "fer_lightning" / "__main__.py").write_text(FAKE_ENSEMBLE)
    (root / "conf" / "ensemble").mkdir()
    members = "members:\n  one: [experiment=a]\n  two: [experiment=b, seed=1]\n"
    (root / "conf" / "ensemble" / "both.yaml").write_text(f"# Source    ours\n# Claim     70%\n{members}")
    assert "both" in [row.name for row in baselines(root)]
    assert Runner(root=root).run_rows([("both", 0)]) == 0
    assert json.loads((root / "results" / "both_seed0.json").read_text()) == ["one", "two"]
    assert json.loads((root / "outputs" / "baselines" / "two" / "record.json").read_text())["seed"] == "1"
