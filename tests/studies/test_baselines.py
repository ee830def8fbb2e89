import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.processes import start_python, wait_for

from fer_lightning import __main__ as entry
from fer_lightning.config import ROOT
from fer_lightning.models import tta
from fer_lightning.reporting.records import SUPERSEDED, publish
from fer_lightning.studies.baselines import page
from fer_lightning.studies.baselines.rows import (
    GROUPS,
    NETWORK_COST,
    VIEWS,
    Baseline,
    baselines,
    file_of,
    header_of,
    views_per_face,
)
from fer_lightning.studies.baselines.runner import OUT_OF_TIME, RUNS, Runner


def part(accuracy: float) -> dict:
    return {
        "n": 100,
        "accuracy": accuracy,
        "accuracy_interval": [accuracy - 0.05, accuracy + 0.05],
        "macro_f1": 0.5,
        "macro_f1_interval": [0.4, 0.6],
        "balanced_accuracy": 0.5,
        "ece": 0.1,
        "per_class_f1": {"happy": 0.75},
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "results").mkdir()
    (tmp_path / "docs").mkdir()
    for name, claim in {"measured": "64%", "waiting": "99% (no protocol)"}.items():
        source = "# Source    a paper\n#           of two lines"
        text = f"# @package _global_\n{source}\n# Claim     {claim}\n# Needs     a GPU\n"
        (tmp_path / "conf" / "experiment" / f"{name}.yaml").write_text(text)
    record = {
        "experiment": "measured", "seed": 0, "test": part(0.625), "test_deduplicated": part(0.61),
        "val": {"accuracy": 0.6}, "params": 304423,
        "minutes": 41.2, "machine": {"gpu": None, "cores": 2, "cpu": "a CPU"},
        "command": "python train.py x=1 'resume=a b/last.ckpt'",
        "best_epoch": 9, "epochs": 10, "precision": "32-true", "data": "fer2013", "data_fingerprint": "f" * 64,
        "protocol": "official", "commit": "c" * 40, "versions": {"torch": "2"},
        "evaluation": {"views": {"_target_": "fer_lightning.models.tta.flip"}},
    }  # fmt: skip
    (tmp_path / "results" / "measured_seed0.json").write_text(json.dumps(record))
    (tmp_path / "README.md").write_text(f"head\n{page.MARKS[0]}\nold\n{page.MARKS[1]}\ntail\n")
    return tmp_path


WITH_MATRIX = [
    path for path in sorted((ROOT / "results").glob("*.json")) if "confusion_matrix" in path.read_text("utf-8")
]


@pytest.mark.parametrize("path", WITH_MATRIX, ids=lambda path: path.stem)
def test_published_scores_follow_from_their_confusion_matrix(path: Path) -> None:
    test = json.loads(path.read_text("utf-8"))["test"]
    matrix = np.array(test["confusion_matrix"])
    f1 = 2 * matrix.diagonal() / (matrix.sum(axis=0) + matrix.sum(axis=1))
    assert matrix.sum() == test["n"]
    assert matrix.trace() / test["n"] == pytest.approx(test["accuracy"], abs=1e-6)
    assert list(test["per_class_f1"].values()) == pytest.approx(f1.tolist(), abs=1e-6)


def test_measured_rows_come_first_and_the_others_are_marked_not_run(root: Path) -> None:
    measured, waiting = baselines(root)
    assert list(measured.cells().values()) == [
        "measured", "64%", "", "62.50% (57.5% to 67.5%)", "61.00% (56.0% to 66.0%)", "not run",
        "50.00% (40.0% to 60.0%)", "0.30 M",
        "1.2 MB", "not run", "41 on 2 CPU cores", "`python train.py x=1` (needs a GPU)",
    ]  # fmt: skip
    assert {waiting.cells()[column] for column in ("parameters", "size")} == {""}
    assert list(waiting.cells().values())[:5] == ["waiting", "99% (no protocol)", "", "not run: needs a GPU", "not run"]


def test_synthetic_faces_other_labels_and_other_experiments_are_no_results(root: Path) -> None:
    file = root / "results" / "measured_seed0.json"
    record = json.loads(file.read_text()) | {"kaggle_test": part(0.7)}
    file.write_text(json.dumps(record))
    assert baselines(root)[0].cells()["kaggle_test (95%)"] == "70.00% (65.0% to 75.0%)"
    file.write_text(json.dumps(record | {"protocol": "fer_plus(soft)"}))
    assert baselines(root)[0].cells()["kaggle_test (95%)"] == "other labels"
    file.write_text(json.dumps(record | {"experiment": None}))
    with pytest.raises(ValueError, match=r"measured_seed\*\.json: `python train.py x=1.*` is of another experiment"):
        baselines(root)
    file.write_text(json.dumps(record | {"synthetic": True}))
    with pytest.raises(ValueError, match=r"measured_seed\*\.json was measured on synthetic faces"):
        baselines(root)


def test_costs_are_those_of_the_networks_and_of_the_members_with_a_weight(root: Path) -> None:
    costs = {
        "measured": {"parameters": 304_423, "milliseconds": 2.0},
        "waiting": {"parameters": 5e6, "milliseconds": 0.54},
        "c": {"parameters": 2e6, "milliseconds": 1.0},
    }
    file = root / NETWORK_COST
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"networks": costs}))
    recipe = (
        "# Source    ours\n# Claim     none\nmembers:\n  a: [experiment=measured, seed=0]\n  b: [experiment=waiting]\n"
    )
    (root / "conf" / "ensemble").mkdir()
    (root / "conf" / "ensemble" / "both.yaml").write_text(recipe)

    def shown() -> dict[str, list[str]]:
        rows = {row.name: row.cells() for row in baselines(root)}
        return {name: [cells[c] for c in ("parameters", "size", "latency")] for name, cells in rows.items()}

    assert shown() == {
        "measured": ["0.30 M", "1.2 MB", "2 x 2.0 ms"],  # as many parameters as the run; its views are flip
        "waiting": ["5.00 M", "20.0 MB", "0.5 ms per view"],
        "both": ["5.30 M", "21.2 MB", "2.5 ms per view"],
    }
    record = json.loads((root / "results" / "measured_seed0.json").read_text())
    votes = [
        {"run": "outputs/baselines/a", "weight": 0.6, "views": "shifts"},
        {"run": "outputs/baselines/b", "weight": 0.0, "views": "identity"},
    ]
    ensemble = record | {"members": votes, "params": 304_423, "choose": "greedy", "weights": "equal"}
    (root / "results" / "both_seed0.json").write_text(json.dumps(ensemble | {"experiment": "both"}))
    assert shown()["both"] == ["0.30 M", "1.2 MB", "10 x 2.0 ms"]
    votes[1]["weight"] = 0.4
    (root / "results" / "both_seed0.json").write_text(
        json.dumps(ensemble | {"experiment": "both", "params": 5_304_423})
    )
    assert shown()["both"] == ["5.30 M", "21.2 MB", "10 x 2.0 + 0.5 ms"]
    (root / "results" / "both_seed0.json").unlink()
    changed = recipe + "  c: [experiment=measured, 'model.widths=[9]']\n"
    (root / "conf" / "ensemble" / "both.yaml").write_text(changed)
    assert shown()["both"] == ["7.30 M", "29.2 MB", "3.5 ms per view"]  # c is another network than `measured`
    (root / "results" / "measured_seed0.json").write_text(json.dumps(record | {"params": 310_000}))
    assert shown()["measured"] == ["0.31 M", "1.2 MB", "not run"]  # the cost is of another network


def test_a_row_on_other_labels_comes_after_those_on_fer2013s(root: Path) -> None:
    record = json.loads((root / "results" / "measured_seed0.json").read_text())
    other = record | {"test": part(0.85), "protocol": "fer_plus(soft)"}
    (root / "conf" / "experiment" / "easier.yaml").write_text("# Source    a paper\n# Claim     85%\n")
    (root / "results" / "easier_seed0.json").write_text(json.dumps(other | {"experiment": "easier"}))
    rows = baselines(root)
    assert [row.name for row in rows] == ["measured", "easier", "waiting"]
    assert "85.00% (80.0% to 90.0%, fer_plus(soft))" in page.results_head(rows)


@pytest.mark.parametrize(
    ("claim", "figure"),
    [
        ("64.2 to 64.4% accuracy", "64.2 to 64.4%"),
        ("76.12% accuracy (XL size, ImageNet-22k)", "76.12%"),
        ("none", ""),
    ],
)
def test_the_terminal_shows_the_percentage_of_a_claim(claim: str, figure: str) -> None:
    assert Baseline("a", {"Claim": claim}).claimed == figure


def test_a_row_of_this_project_has_an_aim_instead_of_a_claim() -> None:
    row = Baseline("a", {"Aim": "70% within 18 minutes"})
    assert row.claimed == "aim 70%"
    assert row.cells()["source's claim"] == "aim 70% within 18 minutes"


def test_several_seeds_give_their_mean_range_and_the_widest_interval(root: Path) -> None:
    record = json.loads((root / "results" / "measured_seed0.json").read_text())
    again = record | {"seed": 1, "test": part(0.645), "command": "python train.py x=1 seed=1"}
    (root / "results" / "measured_seed1.json").write_text(json.dumps(again))
    assert baselines(root)[0].score("test") == "63.50% (57.5% to 69.5%, 2 seeds: 62.5% to 64.5%)"


@pytest.mark.parametrize("other", [{"command": "python train.py x=2 seed=1"}, {"params": 9}])
def test_seeds_of_several_recipes_are_not_averaged(root: Path, other: dict) -> None:
    record = json.loads((root / "results" / "measured_seed0.json").read_text())
    again = record | {"seed": 1, "command": "python train.py x=1 seed=1"} | other
    (root / "results" / "measured_seed1.json").write_text(json.dumps(again))
    message = r"measured_seed\*\.json are of several recipes, `x=1` and `x=.* move one away"
    with pytest.raises(ValueError, match=message):
        baselines(root)


def test_earlier_results_are_kept_and_listed(root: Path) -> None:
    file = root / "results" / "measured_seed0.json"
    publish(file, json.loads(file.read_text()) | {"test": part(0.7), "commit": "d" * 40})
    assert [path.name for path in (file.parent / SUPERSEDED).iterdir()] == ["measured_seed0_cccccccccccc.json"]
    [measured, _] = rows = baselines(root)
    assert measured.score("test") == "70.00% (65.0% to 75.0%)"
    for accuracy in (0.71, 0.72):  # of one commit
        publish(file, json.loads(file.read_text()) | {"test": part(accuracy)})
    assert sorted(row["test"]["accuracy"] for row in baselines(root)[0].superseded) == [0.625, 0.7, 0.71]
    assert "Earlier result, seed 0: 62.50% on PrivateTest, commit cccccccccccc" in page.results_page(rows)


def test_public_test_is_shown_with_the_views_of_the_test_part(root: Path) -> None:
    file = root / "results" / "measured_seed0.json"
    both = part(0.675) | {"n": 200}  # 62.5 of 100 in PrivateTest, so 72.5 of 100 in PublicTest
    file.write_text(json.dumps(json.loads(file.read_text()) | {"kaggle_test": both}))
    assert "PublicTest 72.50% with the same views, 60.00% when selected" in page.results_page(baselines(root))


def test_a_row_counts_the_views_per_face() -> None:
    arguments = {"shifts": {"shift": 0.04}, "rotations": {"degrees": 30.0, "angles": 5}}
    crops = {name: {"size": 0.833} for name in ("five_crop", "ten_crop", "centre_crop")}
    for name in (*VIEWS, "rotations"):
        options = (arguments | crops).get(name, {})
        views = getattr(tta, name)(torch.zeros(1, 1, 48, 48), **options)
        target = {"_target_": f"fer_lightning.models.tta.{name}"}
        assert views_per_face({"evaluation": {"views": target | options}}) == [len(views)]


def test_seeds_under_several_protocols_are_not_averaged(root: Path) -> None:
    record = json.loads((root / "results" / "measured_seed0.json").read_text())
    (root / "results" / "measured_seed1.json").write_text(json.dumps(record | {"seed": 1, "protocol": "kaggle(0.1)"}))
    with pytest.raises(ValueError, match=r"measured_seed\*\.json are of several protocols"):
        baselines(root)


def test_seeds_with_other_votes_are_not_averaged(root: Path) -> None:
    file = root / "results" / "measured_seed0.json"
    record = json.loads(file.read_text())
    other = root / "results" / "measured_seed1.json"
    other.write_text(json.dumps(record | {"seed": 1, "votes_fingerprint": "1"}))
    assert len(baselines(root)) > 0  # the votes of the first are not known
    file.write_text(json.dumps(record | {"votes_fingerprint": "0"}))
    with pytest.raises(ValueError, match=r"several protocols, data sets or votes"):
        baselines(root)


def test_a_header_includes_its_continuation_lines(root: Path) -> None:
    assert header_of(root / "conf" / "experiment" / "waiting.yaml") == {
        "Source": "a paper of two lines", "Claim": "99% (no protocol)", "Needs": "a GPU",
    }  # fmt: skip


def test_every_experiment_states_its_source_and_the_cost_of_a_run() -> None:
    options = [path.stem for group in GROUPS for path in (ROOT / "conf" / group).glob("*.yaml")]
    assert sorted(row.name for row in baselines()) == sorted(options)  # all have a source
    for row in baselines():
        assert ("Claim" in row.header) != ("Aim" in row.header), row.name
        assert row.records or row.gpu_minutes, row.name
        assert ("Protocol" in row.header) == ("Verdict" in row.header), row.name


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
    (conf / "experiment" / "taught.yaml").write_text("# Source    ours\n# Claim     none\n# After     vote\n")
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
    assert batches == [["waiting_seed0"], ["student_seed0"], ["vote"], ["taught_seed0"]]


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


def test_write_updates_the_page_the_readme_and_the_headers(root: Path) -> None:
    page.write(root)
    written = (root / "docs" / "RESULTS.md").read_text()
    assert "| waiting | 99% (no protocol) |  | not run: needs a GPU | not run |" in written
    assert "happy 0.75" in written
    readme = (root / "README.md").read_text()
    assert readme.startswith("head\n")
    assert readme.endswith("\ntail\n")
    assert "62.50%" in readme
    assert "1 more experiments are defined but not run yet" in readme
    assert "old" not in readme
    page.write(root)
    header = (root / "conf" / "experiment" / "measured.yaml").read_text().splitlines()
    assert header[-1] == "# Measured  62.50% (57.5% to 67.5%) on PrivateTest, 41 minutes on 2 CPU cores"
    assert sum("Measured" in line for line in header) == 1
    assert "Measured" not in (root / "conf" / "experiment" / "waiting.yaml").read_text()


def test_the_readme_and_the_page_match_the_records() -> None:
    rows = baselines()
    assert page.results_head(rows) in (ROOT / "README.md").read_text()
    assert (ROOT / "docs" / "RESULTS.md").read_text() == page.results_page(rows)
    for row in rows:
        text = file_of(ROOT, row.name).read_text()
        assert text == page.with_measured(text, row), row.name


def test_a_readme_without_the_marks_is_not_changed(root: Path) -> None:
    (root / "README.md").write_text(f"head\n{page.MARKS[0]}\nold\n")
    with pytest.raises(ValueError, match=r"README\.md must have the line <!-- end of results --> once"):
        page.write(root)
    assert not (root / "docs" / "RESULTS.md").exists()


def test_the_subcommand_lists_rows_and_refuses_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["baselines"]) == 0
    assert "custom_cnn" in capsys.readouterr().out
    assert entry.main(["baselines", "erase"]) == 2
    assert "erase" in capsys.readouterr().err
    assert entry.main(["baselines", "run", "vggnets"]) == 2
    assert "vggnets is not a row; did you mean 'vggnet'?" in capsys.readouterr().err
    assert entry.main(["baselines", "run", "vggnet", "--seeds", "a"]) == 2
    assert "give numbers" in capsys.readouterr().err
    assert entry.main(["baselines", "run", "vggnet", "--at_once", "0"]) == 2
    assert "--at_once is 0; give 1 or more" in capsys.readouterr().err
