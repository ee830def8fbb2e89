"""Missing protocols are trained, on synthetic faces, and existing records are kept."""

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from helpers.leak_records import record, write_records
from helpers.runs import TINY_TRACKED

from fer_lightning.overrides import merge_overrides
from fer_lightning.studies.leaks import runner
from fer_lightning.studies.leaks.page import write
from fer_lightning.studies.leaks.records import PROTOCOLS, read_records
from fer_lightning.studies.leaks.runner import SETTINGS


def test_protocols_without_a_record_are_trained_and_written(folder: Path) -> None:
    existing = {name: 0.5 for name in PROTOCOLS if name not in ("official", "leaky_augmented", "leaky_oversampled")}
    write_records(folder, **existing)
    runs = folder / runner.folder_of(merge_overrides(SETTINGS, TINY_TRACKED))
    killed = runs / "leaky_oversampled" / "record.json"  # finished before its process was killed
    killed.parent.mkdir(parents=True)
    killed.write_text(json.dumps(record("leaky_oversampled", 0.84)))
    assert runner.run(TINY_TRACKED, folder) == 0
    found = read_records(folder)
    assert list(found) == list(PROTOCOLS)
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
    assert runner.run(TINY_TRACKED, folder) == 0  # nothing is left to train: that would take a process and seconds
    for path in ("record.json", runner.COLLECTED):
        (runs / "official" / path).unlink()
    (folder / "results" / "leaks" / "official.json").unlink()
    state = json.loads((runs / "official" / ".resume.json").read_text())
    (runs / "official" / ".resume.json").write_text(
        json.dumps(state | {"objective": None})
    )  # killed before it finished
    assert runner.run(TINY_TRACKED, folder) == 0
    assert read_records(folder)["official"]["test"] == found["official"]["test"]
    shutil.rmtree(folder / "results")
    for name in ("official", "leaky_augmented"):  # as if killed after the trainings, before records were collected
        (runs / name / runner.COLLECTED).unlink()
    runner.collect(merge_overrides(SETTINGS, [*TINY_TRACKED, "seed=1"]), folder)
    assert read_records(folder) == {}
    runner.collect(merge_overrides(SETTINGS, TINY_TRACKED), folder)
    assert read_records(folder).keys() == {"official", "leaky_augmented"}
    assert read_records(folder)["official"]["test"] == found["official"]["test"]
    write(folder)
    page = (folder / "docs" / "LEAKS.md").read_text()
    assert page.index("SYNTHETIC FACES") < page.index("| leaky_augmented(copies=2) | 4")
    assert (folder / "docs" / "images" / "leaks.png").read_bytes().startswith(b"\x89PNG")


def test_a_record_that_was_deleted_is_measured_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_records(folder, **dict.fromkeys(PROTOCOLS, 0.5))
    run = folder / runner.folder_of(merge_overrides(SETTINGS, TINY_TRACKED)) / "official"
    run.mkdir(parents=True)
    (run / "record.json").write_text(json.dumps(record("official", 0.5)))
    assert runner.run(TINY_TRACKED, folder) == 0  # all is there
    (folder / "results" / "leaks" / "official.json").unlink()
    training = Mock(wait=lambda: 0 if run.exists() else 9)
    monkeypatch.setattr("subprocess.Popen", lambda command: training)
    assert runner.run(TINY_TRACKED, folder) == 9  # it trains, in a folder of its own
    assert "official" not in read_records(folder)
    assert (run.with_name("official_1") / "record.json").is_file()
