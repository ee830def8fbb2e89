"""The page of predictions."""

import io
import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
from helpers.app_pages import cards, open_app, texts
from helpers.images import UNREADABLE, encoded, noise

from fer_lightning.app import choices, faces_page
from fer_lightning.app.cards import escaped
from fer_lightning.inference.detect import DetectedFace
from fer_lightning.labels import EMOTIONS


@pytest.fixture
def two_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that finds two faces in every image."""
    found = [DetectedFace((10, 10, 60, 60)), DetectedFace((90, 20, 40, 40))]
    monkeypatch.setattr(faces_page, "detector", lambda **_: lambda image: found)


def test_the_first_page_states_its_limits_and_that_nothing_is_written(bundle) -> None:
    app = open_app()
    assert "does not know what anybody feels" in texts(app.caption)
    assert "nothing is written to disk" in texts(app.info)
    assert escaped("test accuracy 50.0%") in texts(app.caption)


def test_every_face_has_its_three_most_probable_classes(bundle, two_faces) -> None:
    app = open_app(("a.png", encoded(noise(160, 160, 3))))
    assert "**2 faces** in 1 image" in texts(app.markdown)
    assert len(cards(app)) == 2
    first = cards(app)[0]
    assert first.count("fer-bar") >= 3
    assert sum(f"<span>{name}</span>" in first for name in EMOTIONS) == 3
    app.toggle[0].set_value(True).run()  # all classes
    assert all(f"<span>{name}</span>" in cards(app)[0] for name in EMOTIONS)


def test_an_unsure_prediction_is_marked(bundle, two_faces, monkeypatch) -> None:
    for limit, unsure in ((0.0, False), (1.1, True)):
        monkeypatch.setattr("fer_lightning.app.cards.UNSURE", limit)
        assert ("Unsure. It could also be" in cards(open_app(("a.png", encoded(noise(160, 160, 3)))))[0]) == unsure


def test_unreadable_uploads_are_reported_and_the_others_processed(bundle, two_faces) -> None:
    unreadable = {name: content for name, (content, _) in UNREADABLE.items()}
    app = open_app(*unreadable.items(), ("*good*.jpg", encoded(noise(160, 160, 3), "JPEG")))
    errors = [error.value for error in app.error]
    assert len(errors) == len(unreadable)
    for (_, reason), message in zip(UNREADABLE.values(), errors, strict=True):
        assert reason in message.replace("\\", "")
        assert "Traceback" not in message
    assert len(cards(app)) == 2


def test_a_source_of_models_that_cannot_be_read_is_reported(bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere")
    monkeypatch.setattr(choices, "_client", Mock(side_effect=OSError("no [connection]")))
    assert escaped("MLflow's runs are not listed: no [connection]") in texts(open_app().warning)


def test_a_missing_face_is_reported_and_images_can_be_cropped_faces(bundle) -> None:
    app = open_app(("flat.png", encoded(noise(64, 64, 3))))
    assert "No face was found" in texts(app.warning)
    assert cards(app) == []
    app.toggle[2].set_value(True).run()
    assert not app.warning
    assert len(cards(app)) == 1


def test_results_of_a_removed_image_are_deleted(bundle, two_faces) -> None:
    app = open_app(("a.png", encoded(noise(160, 160, 3))), ("b.png", encoded(noise(200, 200, 3))))
    assert len(app.session_state["uploads"]) == 2
    app.file_uploader[0].clear().run()
    app.file_uploader[0].set_value([("b.png", encoded(noise(200, 200, 3)), "image/png")]).run()
    assert [upload.name for upload in app.session_state["uploads"].values()] == ["b.png"]
    assert [len(cached) for cached in app.session_state["predictions"].values()] == [1]


def test_many_images_are_paginated(bundle, two_faces) -> None:
    app = open_app(*((f"{n}.png", encoded(noise(150 + n, 150 + n, 3))) for n in range(10)))
    assert "**20 faces** in 10 images" in texts(app.markdown)
    assert len(cards(app)) == 16
    app.get("pagination")[0].set_value(2).run()
    assert len(cards(app)) == 4


def test_two_models_are_shown_side_by_side_with_heat_maps(bundle, two_faces, run_with_checkpoint) -> None:
    app = open_app(("a.png", encoded(noise(160, 160, 3))))
    assert "Run: small seed=0 (62.5%)" in app.selectbox[1].options
    app.selectbox[1].select("Run: small seed=0 (62.5%)")
    app.toggle[1].set_value(True).run()
    assert not app.exception
    by_bundle, by_run, *_ = cards(app)
    assert "Occlusion map" in by_bundle
    assert "Grad-CAM" in by_run
    assert len(cards(app)) == 4
    predictions = [card.split("fer-prediction")[1].split("</div>")[0] for card in (by_bundle, by_run)]
    assert predictions[0] == predictions[1]  # the bundle was exported from this network


def test_the_table_has_a_row_for_each_face_and_each_image_without_a_face(two_faces, bundle) -> None:
    app = open_app(("a.png", encoded(noise(160, 160, 3))), ("text.jpg", b"not an image"))
    uploads = list(app.session_state["uploads"].values())
    [by_key] = app.session_state["predictions"].values()
    table = faces_page.to_table(uploads, {"x": list(by_key.values())})
    table = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    assert list(table["image"]) == ["a.png", "a.png", "text.jpg"]
    assert table.loc[1, ["x", "y", "width", "height"]].tolist() == [90, 20, 40, 40]
    assert table.loc[0, [f"p_{name}" for name in EMOTIONS]].sum() == pytest.approx(1)
    assert table.loc[0, "confidence"] == table.loc[0, f"p_{table.loc[0, 'label']}"]
    assert "not an image in a known format" in table.loc[2, "problem"]


def test_without_a_model_the_error_names_the_remedy() -> None:
    app = open_app()
    assert "python train.py" in texts(app.error)
    assert not app.file_uploader


def test_a_damaged_checkpoint_is_reported(run_with_checkpoint: Path) -> None:
    (run_with_checkpoint / "checkpoints" / "best.ckpt").write_bytes(b"damaged")
    app = open_app()
    assert "The model cannot be loaded" in texts(app.error)
    assert "not a checkpoint that this project wrote" in texts(app.error)


def test_a_model_trained_on_synthetic_faces_is_marked_and_listed_last(run_with_checkpoint: Path) -> None:
    drawn = run_with_checkpoint.with_name("10-00-01_drawn")
    shutil.copytree(run_with_checkpoint, drawn)
    record = json.loads((drawn / "record.json").read_text()) | {"name": "drawn", "synthetic": True}
    (drawn / "record.json").write_text(json.dumps(record))
    app = open_app()
    assert app.selectbox[0].options == ["Run: small seed=0 (62.5%)", "Run: drawn (62.5%)"]
    assert not app.warning
    app.selectbox[0].select_index(1).run()
    assert "are meaningless" in texts(app.warning)
