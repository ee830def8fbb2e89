import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.faces import face_arrays
from scipy.stats import binomtest

from fer_lightning import __main__ as entry
from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.sources.synthetic import draw_faces, synthetic_faces
from fer_lightning.labels import EMOTIONS
from fer_lightning.studies.audit.duplicate_effect import CopiesElsewhere, _accuracy, accuracy_by_copies, table_rows
from fer_lightning.studies.audit.findings import Audit, audit
from fer_lightning.studies.measurement import Measurement

HAPPY, SAD, NEUTRAL = (EMOTIONS.index(name) for name in ("happy", "sad", "neutral"))


@pytest.fixture(scope="module")
def found() -> Audit:
    """Five test images: 4 is an exact copy of 0; 5 of 1 with another label; 6 is 2 shifted; 7 and 8 have no copy.

    Image 9 has the pixels of 7, but is in the test part too.
    """
    generated = np.asarray(draw_faces(70, seed=3).images)
    new = generated[20], generated[40]
    images = np.stack([*generated[:4], generated[0], generated[1], np.roll(generated[2], 1, axis=1), *new, new[0]])
    labels = [HAPPY, SAD, NEUTRAL, NEUTRAL, HAPPY, HAPPY, NEUTRAL, SAD, SAD, SAD]
    usage = ["Training", "PublicTest", "Training", "Training", *["PrivateTest"] * 6]
    return audit(face_arrays(images, labels, usage))


def write_measurement(
    folder: Path, faces: FaceArrays, predicted: list[int], index: list[int], **changed
) -> Measurement:
    folder.mkdir()
    names = np.asarray(EMOTIONS)
    columns = {"index": index, "label": names[faces.labels[index]], "predicted": names[predicted]}
    pd.DataFrame(columns | {f"p_{name}": 0.0 for name in EMOTIONS}).to_parquet(folder / "predictions.parquet")
    record = {"data": faces.name, "data_fingerprint": faces.fingerprint, "protocol": "official"}
    (folder / "record.json").write_text(json.dumps(record | changed))
    return Measurement.read(folder)


def test_copies_of_the_hand_made_images(found: Audit) -> None:
    elsewhere = CopiesElsewhere.of(found)
    test = found.faces.usage == "PrivateTest"
    assert np.flatnonzero(elsewhere.exact & test).tolist() == [4, 5]
    assert np.flatnonzero(elsewhere.near & test).tolist() == [6]
    assert {i: np.flatnonzero(elsewhere.labels[i]).tolist() for i in range(4, 10)} == {
        4: [HAPPY], 5: [SAD], 6: [NEUTRAL], 7: [], 8: [], 9: [],
    }  # fmt: skip


def test_accuracy_by_copies_of_the_hand_made_images(found: Audit, tmp_path: Path) -> None:
    # correct on 4, 6 and 8; 5 is predicted as the label of its copy
    predicted = [HAPPY, SAD, NEUTRAL, HAPPY, SAD, HAPPY]
    run = write_measurement(tmp_path / "run", found.faces, predicted, [4, 5, 6, 7, 8, 9])
    rows = accuracy_by_copies(found, [run])["run"]
    assert {name: (row["n"], row["accuracy"]) for name, row in rows.items()} == {
        "all": (6, 3 / 6),
        "no exact copy": (4, 2 / 4),
        "no exact or near copy": (3, 1 / 3),
        "an exact copy": (2, 1 / 2),
        "near copies only": (1, 1.0),
        "a copy of the same label": (2, 1.0),
        "copies of other labels only": (1, 0.0),
    }
    assert rows["copies of other labels only"]["copied"] == 1.0


def test_groups_without_images_are_marked(found: Audit, tmp_path: Path) -> None:
    run = write_measurement(tmp_path / "run", found.faces, [SAD], [8])
    cells = table_rows(accuracy_by_copies(found, [run]))
    assert cells["an exact copy"] == ["0", "no images"]
    assert cells["all"] == ["1", "100.0% (20.7% to 100.0%)"]


def test_runs_with_the_same_folder_name_are_all_listed(found: Audit, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    runs = [write_measurement(tmp_path / folder, found.faces, [SAD], [8]) for folder in ("run", "other/run")]
    assert list(accuracy_by_copies(found, runs)) == ["run", str(tmp_path / "other" / "run")]


@pytest.mark.parametrize(("correct", "n"), [(0, 5), (7, 10), (10, 10), (2530, 3589)])
def test_intervals_are_wilson_score_intervals(correct: int, n: int) -> None:
    expected = binomtest(correct, n).proportion_ci(method="wilson")
    interval = _accuracy(np.arange(n) < correct)["interval"]
    assert interval == pytest.approx([expected.low, expected.high], abs=1e-7)


@pytest.mark.parametrize(
    ("changed", "index", "expected"),
    [
        ({"data_fingerprint": "other"}, [4], "other data"),
        ({"protocol": "leaky_pooled"}, [4], "leaky_pooled"),
        ({}, [0, 4], "on other images"),
        ({}, [40], "on other images"),
    ],
)
def test_other_measurements_are_refused(
    changed: dict[str, str], index: list[int], expected: str, found: Audit, tmp_path: Path
) -> None:
    run = write_measurement(tmp_path / "run", found.faces, [SAD] * len(index), [min(i, 9) for i in index], **changed)
    run.table["index"] = index
    with pytest.raises(ValueError, match=expected):
        accuracy_by_copies(found, [run])


def test_the_report_contains_the_measured_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    faces = synthetic_faces(count=80)
    test = np.flatnonzero(faces.usage == "PrivateTest").tolist()
    for name in ("one", "two"):
        write_measurement(tmp_path / name, faces, faces.labels[test].tolist(), test)
    arguments = ["audit", "data=synthetic", "data.count=80", f"measured=one,{tmp_path}/two"]
    assert entry.main(arguments) == 0
    assert "Effect of copies on accuracy" in capsys.readouterr().out
    report = (tmp_path / "outputs" / "audit_synthetic" / "report.md").read_text()
    assert "| images | count | one | two |" in report
    assert "measured=one,two`" in report
    assert entry.main([*arguments[:3], "measured=three"]) == 2
    assert "three is not a folder with record.json" in capsys.readouterr().err
