import json
import shutil
import zipfile
from pathlib import Path

import pytest
from helpers.bundles import describe

from fer_lightning.config import ROOT
from fer_lightning.inference import bundle as bundles
from fer_lightning.inference.bundle import Bundle, BundleError, bundled_models
from fer_lightning.inference.predict import FERPredictor
from fer_lightning.labels import EMOTIONS


@pytest.fixture
def copied(small_bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_bundle, tmp_path / "copy")


def zipped(folder: Path, archive: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in folder.iterdir():
            file.write(path, prefix + path.name)
    return archive


def test_load_reads_the_description_card_and_graph(small_bundle: Path) -> None:
    bundle = Bundle.load(small_bundle)
    assert (bundle.name, bundle.classes, bundle.input_size, bundle.channels) == ("small", EMOTIONS, 48, 1)
    assert bundle.card == "# small\n"
    assert bundle.scores["test"]["accuracy"] == 0.5
    assert bundle.read_graph() == (small_bundle / "model.onnx").read_bytes()


@pytest.mark.parametrize("prefix", ["", "small/"])
def test_a_zip_is_read_without_unpacking(small_bundle: Path, tmp_path: Path, prefix: str) -> None:
    archive = zipped(small_bundle, tmp_path / "small.zip", prefix)
    assert Bundle.load(archive).read_graph() == Bundle.load(str(small_bundle)).read_graph()
    assert list(tmp_path.iterdir()) == [archive]


def test_an_altered_graph_is_refused(copied: Path, tmp_path: Path) -> None:
    graph = bytearray((copied / "model.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (copied / "model.onnx").write_bytes(graph)
    for path in (copied, zipped(copied, tmp_path / "altered.zip")):
        with pytest.raises(BundleError, match=r"model\.onnx is not the file that was exported"):
            FERPredictor.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2"),
        ({"name": None}, "no name"),
        ({"classes": []}, "no class names"),
        ({"classes": ["happy", "happy"]}, "duplicate class name"),
        ({"input": {"size": 48, "channels": 2}}, r"1 or 3 as input\.channels"),
        ({"input": {"size": 10**6, "channels": 1}}, r"1 to 1024 as input\.size"),
        ({"graphs": {}}, "no graph"),
        ({"graphs": {"float": {"file": "model.onnx"}}}, "sha256"),
        ({"graphs": {"float": {"file": "../model.onnx", "sha256": "0"}}}, "outside of the bundle"),
        ({"graphs": {"float": {"file": "..\\model.onnx", "sha256": "0"}}}, "outside of the bundle"),
        ({"graphs": {"float": {"file": "/etc/passwd", "sha256": "0"}}}, "outside of the bundle"),
    ],
)
def test_an_invalid_description_is_refused(copied: Path, changes: dict, message: str) -> None:
    describe(copied, **changes)
    with pytest.raises(BundleError, match=message):
        Bundle.load(copied)


@pytest.mark.parametrize(
    "changes",
    [{"classes": ["yes", "no"]}, {"input": {"size": 64, "channels": 1}}, {"input": {"size": 48, "channels": 3}}],
)
def test_a_graph_must_match_its_description(copied: Path, changes: dict) -> None:
    describe(copied, **changes)
    with pytest.raises(BundleError, match="does not match"):
        FERPredictor.load(copied)


def test_an_invalid_graph_is_refused(copied: Path) -> None:
    (copied / "model.onnx").write_bytes(b"no graph")
    describe(copied)
    with pytest.raises(BundleError, match="cannot run"):
        FERPredictor.load(copied)


def test_the_readme_has_the_accuracy_of_the_bundled_model() -> None:
    accuracy = Bundle.load("default").scores["test"]["accuracy"]
    assert f"right on {accuracy:.1%} of PrivateTest" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/../../b", "..\\b"])
def test_a_zip_with_a_path_outside_of_the_bundle_is_refused(small_bundle: Path, tmp_path: Path, name: str) -> None:
    archive = zipped(small_bundle, tmp_path / "evil.zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(name, b"")
    with pytest.raises(BundleError, match="path outside of the bundle"):
        Bundle.load(archive)


def test_a_link_to_a_file_outside_of_the_bundle_is_refused(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (copied / "MODEL_CARD.md").unlink()
    (copied / "MODEL_CARD.md").symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match="is a link to a file outside of the bundle"):
        _ = Bundle.load(str(copied)).card


def test_file_sizes_are_limited(small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bundle.json", b" " * 50_000_000)
        file.writestr("MODEL_CARD.md", b"")
    assert archive.stat().st_size < 100_000
    with pytest.raises(BundleError, match="more than 1,000,000 bytes"):
        Bundle.load(archive)
    monkeypatch.setattr(bundles, "MAX_GRAPH_BYTES", 1000)
    with pytest.raises(BundleError, match="more than 1,000 bytes"):
        Bundle.load(small_bundle).read_graph()


def test_anything_else_than_a_bundle_is_refused(small_bundle: Path, tmp_path: Path) -> None:
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


def test_names_are_those_of_bundled_models(small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "BUNDLES_FOLDER", tmp_path)
    with pytest.raises(BundleError, match=r"no model is bundled.*fer_lightning export"):
        FERPredictor.load()
    shutil.copytree(small_bundle, tmp_path / "default")
    shutil.copytree(small_bundle, tmp_path / "other")
    assert bundled_models() == ["default", "other"]
    assert FERPredictor.load().bundle.path == tmp_path / "default"
    with pytest.raises(BundleError, match=r"no model 'happy'.*default, other"):
        Bundle.load("happy")
    with pytest.raises(BundleError, match="has no int8 graph; it has float"):
        FERPredictor.load("other", graph="int8")


@pytest.mark.parametrize("name", bundled_models())
def test_every_bundled_model_predicts(name: str) -> None:
    predictor = FERPredictor.load(name)
    face = predictor.prepare(pgm_of_a_gray_face())
    for graph in predictor.bundle.graphs:
        probabilities = FERPredictor.load(name, graph=graph).probabilities(face[None])
        assert probabilities.shape == (1, len(predictor.bundle.classes))
    assert predictor.bundle.scores["test"]["n"] == 3589
    assert "Intended use" in predictor.bundle.card


def pgm_of_a_gray_face() -> bytes:
    return b"P5 48 48 255\n" + bytes(range(48)) * 48
