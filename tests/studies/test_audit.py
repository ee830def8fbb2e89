import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.faces import face_arrays

from fer_lightning import __main__ as entry
from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.sources.readers import read_faces, read_fer2013
from fer_lightning.data.sources.synthetic import draw_faces
from fer_lightning.labels import EMOTIONS
from fer_lightning.run.train import train
from fer_lightning.studies.audit import findings as study
from fer_lightning.studies.audit.report import lists, write_report


@pytest.fixture(scope="module")
def by_hand() -> study.Audit:
    """Four faces; the first is also rows 5 (test) and 6 (another label), the second is shifted in row 7 (test)."""
    generated = np.asarray(draw_faces(70, seed=3).images[:4])
    shifted = np.roll(generated[1], 1, axis=1)
    images = [*generated, generated[0], generated[0], shifted, np.zeros((48, 48)), np.zeros((48, 48))]
    usage = ["Training"] * 4 + ["PrivateTest", "Training", "PrivateTest", "PublicTest", "PrivateTest"]
    votes = np.zeros((9, 10), np.float32)
    votes[:, 0] = 10
    votes[7] = [4, 0, 0, 0, 0, 0, 0, 0, 1, 5]
    votes[1] = [1, 8, 0, 0, 0, 0, 0, 0, 1, 0]
    labels = [6, 6, 6, 6, 6, 0, 6, 6, 6]
    return study.audit(face_arrays(images, labels, usage, votes=votes))


def test_every_finding_matches_the_hand_made_images(by_hand: study.Audit) -> None:
    found = {name: np.flatnonzero(mask).tolist() for name, mask in by_hand.findings().items() if mask is not None}
    assert found == {
        "exact copy of an earlier image": [4, 5, 8],
        "exact copies with different labels": [0, 4, 5],
        "near copy of another image": [1, 6],
        "exact copy in Training": [4],
        "exact or near copy in Training": [4, 6],
        "exact copy in PublicTest": [8],
        "exact or near copy in PublicTest": [8],
        "exact copy in PrivateTest": [0, 5, 7],
        "exact or near copy in PrivateTest": [0, 1, 5, 7],
        "flat": [7, 8],
        "not a face (5 or more of 10 votes)": [7],
        "FER+ votes clearly for another class": [1, 5],
    }
    counts = by_hand.counts()
    assert (counts["exact_groups"], counts["largest_exact_group"], counts["conflicting_groups"]) == (2, 3, 1)
    assert counts["test_without_exact_or_near_copies"] == 0
    assert counts["exact copy in Training"]["classes"]["neutral"] == 1
    assert counts["probable label error"] == "not done"


def test_lists_contain_image_part_and_label(by_hand: study.Audit) -> None:
    tables = lists(by_hand)
    assert tables["duplicates"].values.tolist()[:3] == [
        [1, "row 1", "Training", "neutral", True],
        [1, "row 5", "PrivateTest", "neutral", True],
        [1, "row 6", "Training", "angry", True],
    ]
    [near] = tables["near_duplicates"].to_dict("records")
    assert (near["image_1"], near["part_2"], near["mirrored"]) == ("row 2", "PrivateTest", False)
    assert near["correlation"] > 0.97
    assert tables["not_a_face"].values.tolist() == [["row 8", "PublicTest", "neutral", 5]]
    assert tables["votes_disagree"]["voted"].tolist() == ["happy", "neutral"]
    assert "label_errors" not in tables


def test_near_copies_include_their_exact_copies() -> None:
    generated = np.asarray(draw_faces(70, seed=3).images[:4])
    shifted = np.roll(generated[1], 1, axis=1)
    found = study.audit(face_arrays([*generated, generated[1], shifted, shifted], [6] * 7, ["Training"] * 7))
    _, near = found.links
    assert sorted(map(sorted, near.tolist())) == [[1, 5], [1, 6], [4, 5], [4, 6]]
    assert len(lists(found)["near_duplicates"]) == 4


def test_flat_images() -> None:
    sign = np.zeros((48, 48), np.uint8)
    sign[20:30, 20:40] = 255
    gradient = np.tile(np.arange(48, dtype=np.uint8) * 5, (48, 1))
    faint = gradient // 20
    assert study.flat_images(np.stack([sign, gradient, faint])).tolist() == [True, False, True]
    orange = np.broadcast_to(np.array([250, 130, 0], np.uint8), (48, 48, 3))  # far from gray, but one colour
    coloured = np.stack([gradient, gradient.T, 255 - gradient], axis=-1)
    assert study.flat_images(np.stack([orange, coloured])).tolist() == [True, False]


def test_only_a_clear_majority_of_votes_contradicts_the_label() -> None:
    # neutral happiness surprise sadness anger disgust fear contempt unknown NF; every label is angry
    votes = [
        [7, 0, 0, 0, 2, 0, 0, 0, 1, 0],  # 7 to 2
        [6, 0, 0, 0, 2, 0, 0, 0, 2, 0],  # 6 to 2: only 4 more
        [5, 0, 0, 0, 0, 0, 0, 0, 5, 0],  # no majority
        [0, 0, 0, 0, 0, 0, 0, 10, 0, 0],  # contempt is not one of the seven
        [0, 0, 0, 0, 10, 0, 0, 0, 0, 0],
    ]
    other = study.clearly_other(np.array(votes, np.float32), np.zeros(5, np.int64))
    assert other.tolist() == [EMOTIONS.index("neutral"), -1, -1, -1, -1]


def test_label_errors_are_found_with_predictions() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 7, 1000)
    predicted = np.full((1000, 7), 0.05, np.float32)
    predicted[np.arange(1000), true] = 0.7
    predicted = (predicted + rng.uniform(0, 0.2, predicted.shape)).astype(np.float32)
    predicted /= predicted.sum(axis=1, keepdims=True)
    given = true.copy()
    given[:60] = (given[:60] + 1) % 7
    predicted[:20] = np.nan
    errors = study.label_errors(given, predicted)
    assert set(errors.tolist()) <= set(range(20, 60))
    assert len(errors) >= 35
    with pytest.raises(ValueError, match="label 3"):
        study.label_errors(np.where(given == 3, 2, given), predicted)


def test_small_trainings_reveal_flipped_labels(composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generated = draw_faces(1400, seed=1, image_size=24)
    classes = ("happy", "surprise", "neutral")
    selected = np.isin(generated.labels, [EMOTIONS.index(name) for name in classes])
    usage = generated.usage[selected]
    true = np.array([classes.index(EMOTIONS[label]) for label in generated.labels[selected]])
    flipped = np.random.default_rng(0).choice(np.flatnonzero(usage != "PrivateTest"), 50, replace=False)
    labels = true.copy()
    labels[flipped] = (labels[flipped] + 1) % 3
    faces = face_arrays(generated.images[selected], labels, usage, classes=classes)

    def flipped_faces(**_) -> FaceArrays:
        return faces

    flipped_faces.__module__ = "fer_lightning.data.sources.synthetic"  # passes the check of what may be built
    monkeypatch.setattr("fer_lightning.data.sources.synthetic.synthetic_faces", flipped_faces)
    for fold in (0, 1):
        train(
            composed(
                "data=synthetic", "data.image_size=24", "model=sequential_cnn", "model.image_size=24",
                "protocol=kfold", "protocol.folds=2", f"protocol.fold={fold}", "eval.split=val", "eval.bootstrap=20",
                "trainer.max_epochs=10", "trainer.batch_size=16", "trainer.precision=32-true", "tracking=none",
                "loss=label_smoothing", f"paths.output_dir={tmp_path}/runs/{fold}",
            )
        )  # fmt: skip
    predicted = study.out_of_fold(tmp_path / "runs", faces)
    assert np.array_equal(np.isnan(predicted[:, 0]), faces.usage == "PrivateTest")
    found = study.audit(faces, predicted)
    assert found.errors is not None
    assert np.isin(found.errors[:100], flipped).sum() >= 35
    record = {"command": "c", "commit": "c", "counts": found.counts(), "accuracy_by_copies": {}}
    write_report(tmp_path / "report", found, record)
    errors = pd.read_csv(tmp_path / "report" / "label_errors.csv")
    assert errors["image"].tolist() == [f"row {i + 1}" for i in found.errors]
    assert (errors["p_predicted"] >= errors["p_label"]).all()
    assert "label_errors.png" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({}, "trained on"),
        ({"data_fingerprint": "f"}, "other data"),
        ({"protocol": "leaky_pooled"}, "leaky_pooled"),
        ({"evaluation": {"split": "train"}}, "train of kfold"),
    ],
)
def test_predictions_on_training_images_are_refused(
    record: dict, expected: str, tmp_path: Path, by_hand: study.Audit
) -> None:
    faces = by_hand.faces
    valid = {
        "data": "by_hand",
        "data_fingerprint": faces.fingerprint,
        "protocol": "kfold(fold=0 of 5)",
        "evaluation": {"split": "val"},
    }
    if record:
        (tmp_path / "record.json").write_text(json.dumps(valid | record))
        pd.DataFrame({"index": [0]}).to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(ValueError, match=expected if record else r"contains no predictions\.parquet"):
        study.out_of_fold(tmp_path, faces)


def test_predictions_of_one_image_are_averaged(tmp_path: Path, by_hand: study.Audit) -> None:
    for seed, p in enumerate((0.2, 0.6)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        record = {
            "data": "by_hand",
            "data_fingerprint": by_hand.faces.fingerprint,
            "protocol": "official",
            "evaluation": {"split": "test"},
        }
        (folder / "record.json").write_text(json.dumps(record))
        columns = {"index": [4], "label": ["happy"], "predicted": ["sad"], **{f"p_{c}": [p] for c in EMOTIONS}}
        pd.DataFrame(columns).to_parquet(folder / "predictions.parquet")
    predicted = study.out_of_fold(tmp_path, by_hand.faces)
    assert np.allclose(predicted[4], 0.4)
    assert np.isnan(predicted[[0, 1, 2, 3, 5, 6, 7, 8]]).all()


def test_a_published_page_shows_no_image_of_the_data(by_hand: study.Audit, tmp_path: Path) -> None:
    record = {"command": "audit write", "commit": "c" * 40, "counts": by_hand.counts(), "accuracy_by_copies": {}}
    write_report(tmp_path / "report", by_hand, record, tmp_path / "docs")
    assert "![conflicts](conflicts.png)" in (tmp_path / "report" / "report.md").read_text()
    assert [path.name for path in (tmp_path / "docs").rglob("*")] == ["AUDIT.md"]
    published = (tmp_path / "docs" / "AUDIT.md").read_text()
    assert "![" not in published
    assert "Images of the data set are not published here" in published


def test_the_report_lists_the_checks_that_were_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert entry.main(["audit", "data=synthetic", "data.count=80"]) == 0
    assert "not done" in capsys.readouterr().out
    folder = tmp_path / "outputs" / "audit_synthetic"
    report = (folder / "report.md").read_text()
    assert "protocol=kfold protocol.fold=0,1,2,3,4 eval.split=val" in report
    for figure in [line[line.index("(") + 1 : -1] for line in report.splitlines() if line.startswith("![")]:
        assert (folder / figure).exists()
    record = json.loads((folder / "audit.json").read_text())
    assert record["counts"]["images"] == 80
    assert record["data"] == "synthetic"
    assert {path.name for path in folder.glob("*.csv")} >= {"duplicates.csv", "near_duplicates.csv", "flat.csv"}


def test_an_audit_whose_report_cannot_be_written_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("outputs").touch()
    monkeypatch.setattr("fer_lightning.studies.audit.command.audit", lambda *_: pytest.fail("the audit started"))
    assert entry.main(["audit", "data=synthetic", "data.count=80"]) == 2
    assert "outputs cannot be written to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data=fer2013", "data.path=nowhere.csv"], "nowhere.csv"),
        (["data=synthetic", "data.count=80", "predictions=nowhere"], "predictions=nowhere"),
        (["data=synthetic", "colour=red"], "colour"),
        (["everything"], "everything"),
    ],
)
def test_wrong_arguments_give_a_message_of_one_line(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert entry.main(["audit", *arguments]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("fer audit: ")
    assert expected in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("rows_changed", [0, 2])
def test_the_exact_copies_of_fer2013(
    rows_changed: int, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kaggle's JPEGs have the number of copies in the literature; two rows of the csv repeat the image of another."""
    name = "fer2013.csv.xz" if rows_changed else "fer2013-kaggle.zip"
    monkeypatch.setattr(study, "find_near_duplicates", lambda images, positions: NOTHING_NEAR)
    (tmp_path / name).symlink_to(real_data / name)
    read = read_fer2013 if rows_changed else read_faces
    options = {"votes_path": real_data / "fer2013new.csv"} if rows_changed else {}
    found = study.audit(read(tmp_path / name, **options))
    counts = found.counts()
    assert counts["exact copy of an earlier image"]["all"] == 1853 + rows_changed
    assert counts["exact_groups"] == 1516 + rows_changed
    assert counts["conflicting_groups"] == 57 + rows_changed
    assert counts["largest_exact_group"] == 12
    assert counts["exact copy in Training"]["PublicTest"] == 280
    assert counts["exact copy in Training"]["PrivateTest"] == 288
    assert counts["exact copy in PublicTest"]["PrivateTest"] == 44
    if rows_changed:
        assert counts["not a face (5 or more of 10 votes)"] == {
            "all": 176, "Training": 150, "PublicTest": 10, "PrivateTest": 16,
            "classes": counts["not a face (5 or more of 10 votes)"]["classes"],
        }  # fmt: skip


NOTHING_NEAR = study.NearDuplicates(np.empty((0, 2), np.int64), np.empty(0, np.float32), np.empty(0, np.bool_))
