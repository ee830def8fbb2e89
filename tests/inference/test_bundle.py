import json
import shutil
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

from fer_lightning.inference import bundle as bundles
from fer_lightning.inference.bundle import Bundle, BundleError, bundled
from fer_lightning.inference.predict import FERPredictor
from fer_lightning.labels import EMOTIONS


@pytest.fixture
def copied(small_bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_bundle, tmp_path / "copy")


def zipped(folder: Path, archive: Path, below: str = "") -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in folder.iterdir():
            file.write(path, below + path.name)
    return archive


def test_a_bundle_tells_what_it_is(small_bundle: Path) -> None:
    bundle = Bundle.load(small_bundle)
    assert (bundle.name, bundle.classes, bundle.input_size, bundle.channels) == ("small", EMOTIONS, 48, 1)
    assert bundle.card == "# small\n"
    assert bundle.scores["test"]["accuracy"] == 0.5
    assert bundle.read_graph() == (small_bundle / "model.onnx").read_bytes()


@pytest.mark.parametrize("below", ["", "small/"])
def test_a_zip_is_read_where_it_lies(small_bundle: Path, tmp_path: Path, below: str) -> None:
    archive = zipped(small_bundle, tmp_path / "small.zip", below)
    assert Bundle.load(archive).read_graph() == Bundle.load(str(small_bundle)).read_graph()
    assert list(tmp_path.iterdir()) == [archive]


def test_an_altered_graph_is_refused(copied: Path, tmp_path: Path) -> None:
    graph = bytearray((copied / "model.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (copied / "model.onnx").write_bytes(graph)
    for place in (copied, zipped(copied, tmp_path / "altered.zip")):
        with pytest.raises(BundleError, match=r"model\.onnx is not the file that was exported"):
            FERPredictor.load(place)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "has format 2"),
        ({"name": None}, "no name"),
        ({"classes": []}, "no class names"),
        ({"classes": ["happy", "happy"]}, "twice"),
        ({"input": {"size": 48, "channels": 2}}, "1 or 3 channels"),
        ({"input": {"size": 10**6, "channels": 1}}, "pixels a side"),
        ({"graphs": {}}, "no graph"),
        ({"graphs": {"float": {"file": "model.onnx"}}}, "sha256"),
        ({"graphs": {"float": {"file": "../model.onnx", "sha256": "0"}}}, "outside of the bundle"),
        ({"graphs": {"float": {"file": "..\\model.onnx", "sha256": "0"}}}, "outside of the bundle"),
        ({"graphs": {"float": {"file": "/etc/passwd", "sha256": "0"}}}, "outside of the bundle"),
    ],
)
def test_a_wrong_description_is_named(copied: Path, describe, changes: dict, said: str) -> None:
    describe(copied, **changes)
    with pytest.raises(BundleError, match=said):
        Bundle.load(copied)


@pytest.mark.parametrize(
    "changes",
    [{"classes": ["yes", "no"]}, {"input": {"size": 64, "channels": 1}}, {"input": {"size": 48, "channels": 3}}],
)
def test_a_graph_must_fit_its_description(copied: Path, describe, changes: dict) -> None:
    describe(copied, **changes)
    with pytest.raises(BundleError, match="does not fit"):
        FERPredictor.load(copied)


def test_what_is_no_graph_is_refused(copied: Path, describe) -> None:
    (copied / "model.onnx").write_bytes(b"no graph")
    describe(copied)
    with pytest.raises(BundleError, match="cannot run"):
        FERPredictor.load(copied)


def test_the_readme_says_how_good_the_model_in_the_box_is() -> None:
    accuracy = Bundle.load("default").scores["test"]["accuracy"]
    assert f"right on {accuracy:.1%} of PrivateTest" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/../../b", "..\\b"])
def test_a_zip_that_climbs_out_is_refused(small_bundle: Path, tmp_path: Path, name: str) -> None:
    archive = zipped(small_bundle, tmp_path / "evil.zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(name, b"")
    with pytest.raises(BundleError, match="climb out"):
        Bundle.load(archive)


def test_a_link_out_of_a_folder_is_refused(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (copied / "MODEL_CARD.md").unlink()
    (copied / "MODEL_CARD.md").symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match="is a link out of the bundle"):
        _ = Bundle.load(str(copied)).card


def test_sizes_are_bounded(small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bundle.json", b" " * 50_000_000)
        file.writestr("MODEL_CARD.md", b"")
    assert archive.stat().st_size < 100_000
    with pytest.raises(BundleError, match="more than the 1,000,000 bytes"):
        Bundle.load(archive)
    monkeypatch.setattr(bundles, "MAX_GRAPH_BYTES", 1000)
    with pytest.raises(BundleError, match="more than the 1,000 bytes"):
        Bundle.load(small_bundle).read_graph()


def test_what_is_no_bundle_is_told_so(small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.zip").write_text("hello")
    zipped(tmp_path / "folder", tmp_path / "empty.zip")
    whole = zipped(small_bundle, tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    broken = shutil.copytree(small_bundle, tmp_path / "broken")
    (broken / "bundle.json").write_text("{")
    for name in ("folder", "text.zip", "empty.zip", "cut.zip", "broken"):
        with pytest.raises(BundleError, match=name):
            Bundle.load(tmp_path / name)
    (broken / "bundle.json").write_text(json.dumps([]))
    with pytest.raises(BundleError, match="does not describe"):
        Bundle.load(broken)


def test_names_mean_what_comes_with_the_package(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "BUNDLED", tmp_path)
    with pytest.raises(BundleError, match=r"no model is bundled.*fer_lightning export"):
        FERPredictor.load()
    shutil.copytree(small_bundle, tmp_path / "default")
    shutil.copytree(small_bundle, tmp_path / "other")
    assert bundled() == ["default", "other"]
    assert FERPredictor.load().bundle.place == tmp_path / "default"
    with pytest.raises(BundleError, match=r"no model 'happy'.*default, other"):
        Bundle.load("happy")
    with pytest.raises(BundleError, match="has no int8 graph; it has float"):
        FERPredictor.load("other", graph="int8")


@pytest.mark.parametrize("name", bundled())
def test_every_bundled_model_answers(name: str) -> None:
    predictor = FERPredictor.load(name)
    face = predictor.prepare(bytes_of_a_gray_face())
    for graph in predictor.bundle.graphs:
        shown = FERPredictor.load(name, graph=graph).probabilities(face[None])
        assert shown.shape == (1, len(predictor.bundle.classes))
    assert predictor.bundle.scores["test"]["n"] == 3589
    assert "Intended use" in predictor.bundle.card


def bytes_of_a_gray_face() -> bytes:
    return b"P5 48 48 255\n" + bytes(range(48)) * 48
