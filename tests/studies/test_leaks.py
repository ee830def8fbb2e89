"""The leaks subcommand on synthetic faces: it trains missing protocols, keeps existing records, and writes the page."""

import json
import shlex
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from helpers.runs import TINY, TINY_TRACKED
from hydra.errors import CompactHydraException

from fer_lightning import __main__ as entry
from fer_lightning.config import ROOT
from fer_lightning.data.sources.synthetic import draw_faces
from fer_lightning.overrides import merge_overrides
from fer_lightning.run.train import train
from fer_lightning.studies import leaks

FINGERPRINT = draw_faces(200, image_size=24).fingerprint
"""The fingerprint of the faces of the tiny runs."""


def record(protocol: str, accuracy: float, *overrides: str) -> dict:
    part = {"n": 1000, "accuracy": accuracy, "accuracy_interval": [accuracy - 0.03, accuracy + 0.03]}
    given = overrides or TINY_TRACKED
    settings = [o for o in leaks.SETTINGS if o.split("=")[0] not in {option.split("=")[0] for option in given}]
    arguments = [*settings, *given, f"protocol={protocol}", "data.path=my/fer2013.csv"]
    return {
        "experiment": "sequential_cnn", "protocol": protocol, "leaky": protocol.startswith("leaky_"),
        "command": shlex.join(["python", "train.py", *arguments]), "images": {"train": 3000}, "train_accuracy": 0.99,
        "test": part, "test_deduplicated": part, "best_epoch": 3, "epochs": 4, "minutes": 5.0, "data": "fer2013",
        "data_fingerprint": FINGERPRINT, "commit": "c" * 40, "synthetic": False, "versions": {"torch": "2"},
        "machine": {"gpu": None, "cpu": "a CPU"},
    }  # fmt: skip


def write_records(root: Path, **accuracies: float) -> None:
    (root / "results" / "leaks").mkdir(parents=True, exist_ok=True)
    for protocol, accuracy in accuracies.items():
        (root / "results" / "leaks" / f"{protocol}.json").write_text(json.dumps(record(protocol, accuracy)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_protocols_without_a_record_are_trained_and_written(folder: Path) -> None:
    existing = {
        name: 0.5 for name in leaks.PROTOCOLS if name not in ("official", "leaky_augmented", "leaky_oversampled")
    }
    write_records(folder, **existing)
    runs = folder / leaks.folder_of(merge_overrides(leaks.SETTINGS, TINY_TRACKED))
    killed = runs / "leaky_oversampled" / "record.json"  # finished before its process was killed
    killed.parent.mkdir(parents=True)
    killed.write_text(json.dumps(record("leaky_oversampled", 0.84)))
    assert leaks.run(TINY_TRACKED, folder) == 0
    found = leaks.read_records(folder)
    assert list(found) == list(leaks.PROTOCOLS)
    assert found["leaky_pooled"]["test"]["accuracy"] == 0.5
    assert found["leaky_oversampled"]["test"]["accuracy"] == 0.84
    assert not found["official"]["leaky"]
    assert found["leaky_augmented"]["protocol"] == "leaky_augmented(copies=2)"
    assert found["leaky_augmented"]["leaky"]
    trained = found["official"]["images"]["train"]
    assert found["leaky_augmented"]["images"]["train"] == 3 * trained
    assert "protocol=official" in found["official"]["command"]
    report = (runs / "leaky_augmented" / "classification_report.txt").read_text()
    assert report.startswith("synthetic, leaky_augmented(copies=2), test\n")
    assert leaks.run(TINY_TRACKED, folder) == 0  # nothing is left to train: that would take a process and seconds
    for path in ("record.json", leaks.COLLECTED):
        (runs / "official" / path).unlink()
    (folder / "results" / "leaks" / "official.json").unlink()
    state = json.loads((runs / "official" / ".resume.json").read_text())
    (runs / "official" / ".resume.json").write_text(
        json.dumps(state | {"objective": None})
    )  # killed before it finished
    assert leaks.run(TINY_TRACKED, folder) == 0
    assert leaks.read_records(folder)["official"]["test"] == found["official"]["test"]
    shutil.rmtree(folder / "results")
    for name in ("official", "leaky_augmented"):  # as if killed after the trainings, before records were collected
        (runs / name / leaks.COLLECTED).unlink()
    leaks.collect(merge_overrides(leaks.SETTINGS, [*TINY_TRACKED, "seed=1"]), folder)
    assert leaks.read_records(folder) == {}
    leaks.collect(merge_overrides(leaks.SETTINGS, TINY_TRACKED), folder)
    assert leaks.read_records(folder).keys() == {"official", "leaky_augmented"}
    assert leaks.read_records(folder)["official"]["test"] == found["official"]["test"]
    leaks.write(folder)
    page = (folder / "docs" / "LEAKS.md").read_text()
    assert page.index("SYNTHETIC FACES") < page.index("| leaky_augmented(copies=2) | 4")
    assert (folder / "docs" / "images" / "leaks.png").read_bytes().startswith(b"\x89PNG")


def test_a_record_that_was_deleted_is_measured_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_records(folder, **dict.fromkeys(leaks.PROTOCOLS, 0.5))
    run = folder / leaks.folder_of(merge_overrides(leaks.SETTINGS, TINY_TRACKED)) / "official"
    run.mkdir(parents=True)
    (run / "record.json").write_text(json.dumps(record("official", 0.5)))
    assert leaks.run(TINY_TRACKED, folder) == 0  # all is there
    (folder / "results" / "leaks" / "official.json").unlink()
    training = Mock(wait=lambda: 0 if run.exists() else 9)
    monkeypatch.setattr("subprocess.Popen", lambda command: training)
    assert leaks.run(TINY_TRACKED, folder) == 9  # it trains, in a folder of its own
    assert "official" not in leaks.read_records(folder)
    assert (run.with_name("official_1") / "record.json").is_file()


def test_the_page_shows_the_records_and_the_missing_runs(folder: Path) -> None:
    write_records(folder, official=0.57, stored_copies=0.6, leaky_augmented=0.83)
    leaks.write(folder)
    page = (folder / "docs" / "LEAKS.md").read_text()
    assert "| official | 3,000 | 99.0% | 57.00% (54.0% to 60.0%) |  |" in page
    assert "| leaky_augmented | 3,000 | 99.0% | 83.00% (80.0% to 86.0%) | +26.0 (+21.8 to +30.2) |" in page
    assert "| leaky_all |  |  | not run |" in page
    assert "instead of after it: +23.0 points (+18.8 to +27.2)" in page
    assert "86%" not in page.split("## Conclusions")[1]  # no conclusion on the claim before all are measured
    write_records(folder, leaky_selected=0.58, leaky_pooled=0.57, leaky_oversampled=0.85, leaky_all=0.88)
    leaks.write(folder)
    assert "claims 86%. Here leaky_all reached it." in (folder / "docs" / "LEAKS.md").read_text()


def test_records_of_different_data_are_refused(folder: Path) -> None:
    write_records(folder, official=0.57, leaky_pooled=0.58)
    other = {**record("leaky_selected", 0.6), "data_fingerprint": "0" * 64}
    (folder / "results" / "leaks" / "leaky_selected.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="were run on different data"):
        leaks.read_records(folder)


def test_gain_matches_values_by_hand() -> None:
    one = {"accuracy": 0.8, "accuracy_interval": [0.76, 0.83]}
    other = {"accuracy": 0.6, "accuracy_interval": [0.56, 0.63]}
    assert leaks.gain(one, other) == pytest.approx((0.2, 0.2 - 0.05, 0.2 + 0.05))


def test_records_of_other_settings_are_refused(folder: Path) -> None:
    write_records(folder, official=0.5)
    with pytest.raises(ValueError, match=r"official\.json was run with .*max_epochs=1.*delete results/leaks"):
        leaks.run(["trainer.max_epochs=9"], folder)
    other = record("leaky_pooled", 0.5, "trainer.max_epochs=9")
    (folder / "results" / "leaks" / "leaky_pooled.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match=r"leaky_pooled\.json was run with .*max_epochs=9"):
        leaks.write(folder)
    with pytest.raises(ValueError, match="no record"):
        leaks.write(folder / "elsewhere")


def test_a_leaky_run_is_not_stored_in_the_results(composed, tmp_path: Path) -> None:
    with pytest.raises(CompactHydraException, match=r"leaky_selected leaks, so its scores are not results"):
        train(composed(*TINY, "experiment=custom_cnn", "protocol=leaky_selected", f"paths.results_dir={tmp_path}"))


def test_a_leaky_run_is_marked(composed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(composed(*TINY, "model=sequential_cnn", "protocol=leaky_selected"))
    output = capsys.readouterr().out
    assert "LEAKY PROTOCOL" in output
    assert "no number of this run is a result" in output
    written = json.loads((tmp_path / "run" / "record.json").read_text())
    assert written["leaky"]
    assert written["protocol"] == "leaky_selected"


def test_every_leaky_protocol_is_compared() -> None:
    options = {path.stem for path in (ROOT / "conf" / "protocol").glob("leaky_*.yaml")}
    assert options == {name for name in leaks.PROTOCOLS if name.startswith("leaky_")}


@pytest.mark.parametrize("arguments", [["erase"], ["write", "seed=1"], ["run", "protocol=official"], ["run", "fast"]])
def test_wrong_arguments_are_reported(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["leaks", *arguments]) == 2
    assert " ".join(arguments) in capsys.readouterr().err
