"""The app, tested with Streamlit's AppTest and in a browser."""

import base64
import io
import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import types
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, free_port
from PIL import Image

from fer_lightning import __main__ as entry
from fer_lightning.app import choices as models
from fer_lightning.app import command
from fer_lightning.inference.detect import DetectedFace
from fer_lightning.labels import EMOTIONS
from fer_lightning.training.module import FERModule

st = pytest.importorskip("streamlit", reason="the app needs Streamlit: pip install -e '.[app]'")

from streamlit.testing.v1 import AppTest  # noqa: E402
from websockets.sync.client import connect  # noqa: E402  # Streamlit needs it too

from fer_lightning.app import faces_page  # noqa: E402
from fer_lightning.app.cards import escaped  # noqa: E402

SCRIPT = ROOT / "fer_lightning" / "app" / "script.py"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and empty caches."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(models.MODEL_VARIABLE, raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(models, "bundled_models", list)  # independent of the models in the package
    st.cache_data.clear()
    st.cache_resource.clear()
    return tmp_path


@pytest.fixture
def two_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that finds two faces in every image."""
    found = [DetectedFace((10, 10, 60, 60)), DetectedFace((90, 20, 40, 40))]
    monkeypatch.setattr(faces_page, "detector", lambda **_: lambda image: found)


@pytest.fixture
def run_with_checkpoint(here: Path, small_network) -> Path:
    """A finished run in outputs/ of a network with random weights."""
    run = here / "outputs" / "today" / "10-00-00_small"
    hyperparameters = {
        "model": {
            "_target_": "fer_lightning.models.small_resnet.SmallResNet",
            **{"image_size": 48, "channels": 1, "mean": 0.5, "std": 0.25},
            **{"widths": [8, 16], "depths": [1, 1], "stem_stride": 2},
        },
        "loss": {"_target_": "fer_lightning.training.losses.CrossEntropyLoss"},
        "optimizer": {},
        "scheduler": {},
        "evaluation": {
            "views": {"_target_": "fer_lightning.models.tta.flip", "_partial_": True},
            **{"validation": None, "average": "probabilities"},
        },
        "classes": list(EMOTIONS),
        "class_counts": [1] * 7,
        "provenance": {"image_shape": [48, 48]},
    }
    module = FERModule(**hyperparameters)
    module.network.load_state_dict(small_network.state_dict())
    (run / "checkpoints").mkdir(parents=True)
    checkpoint = {"hyper_parameters": hyperparameters, "state_dict": module.state_dict(), "history": []}
    torch.save(checkpoint, run / "checkpoints" / "best.ckpt")
    test = {"accuracy": 0.625, "accuracy_interval": [0.6, 0.65], "macro_f1": 0.5}
    record = {"name": "small seed=0", "data": "fer2013", "protocol": "official", "synthetic": False, "test": test}
    record |= {"val": {"accuracy": 0.61}, "command": "python train.py", "minutes": 3.5}
    (run / "record.json").write_text(json.dumps(record))
    return run


def image_bytes(side: int = 160, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def huge_png() -> bytes:
    """Only the header of a PNG of 20,000 x 20,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def open_app(*uploads: tuple[str, bytes]) -> AppTest:
    app = AppTest.from_file(str(SCRIPT), default_timeout=60).run()
    if uploads:
        app.file_uploader[0].set_value([(name, data, "image/jpeg") for name, data in uploads])
        app.run()
    assert not app.exception
    return app


def open_results() -> AppTest:
    """The second page; AppTest can only open pages that are files."""

    def show() -> None:
        from fer_lightning.app import runs_page

        runs_page.page()

    app = AppTest.from_function(show, default_timeout=60).run()
    assert not app.exception
    return app


def cards(app: AppTest) -> list[str]:
    return [
        html.proto.body for html in app.get("html") if "fer-card" in html.proto.body and "<style" not in html.proto.body
    ]


def texts(elements) -> str:
    return " ".join(element.value for element in elements)


@pytest.fixture
def bundle(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(models.MODEL_VARIABLE, str(small_bundle))
    return small_bundle


def test_the_first_page_states_its_limits_and_that_nothing_is_written(bundle) -> None:
    app = open_app()
    assert "does not know what anybody feels" in texts(app.caption)
    assert "nothing is written to disk" in texts(app.info)
    assert escaped("test accuracy 50.0%") in texts(app.caption)


def test_every_face_has_its_three_most_probable_classes(bundle, two_faces) -> None:
    app = open_app(("a.png", image_bytes()))
    assert "**2 faces** in 1 image" in texts(app.markdown)
    assert len(cards(app)) == 2
    first = cards(app)[0]
    assert first.count("fer-bar") >= 3
    assert sum(f"<span>{name}</span>" in first for name in EMOTIONS) == 3
    app.toggle[0].set_value(True).run()  # all classes
    assert all(f"<span>{name}</span>" in cards(app)[0] for name in EMOTIONS)


def test_an_unsure_prediction_is_marked(bundle, two_faces, monkeypatch) -> None:
    from fer_lightning.app import cards as cards_module

    for limit, unsure in ((0.0, False), (1.1, True)):
        monkeypatch.setattr(cards_module, "UNSURE", limit)
        assert ("Unsure. It could also be" in cards(open_app(("a.png", image_bytes())))[0]) == unsure


def test_unreadable_uploads_are_reported_and_the_others_processed(bundle, two_faces) -> None:
    app = open_app(
        ("text.jpg", b"not an image"),
        ("empty.jpg", b""),
        ("cut.jpg", image_bytes(kind="JPEG")[:2000]),
        ("huge.png", huge_png()),
        ("dot.png", image_bytes(1)),
        ("*good*.jpg", image_bytes(kind="JPEG")),
    )
    errors = [error.value for error in app.error]
    assert len(errors) == 5
    for part, message in zip(
        ("not an image", "empty", "cannot be read", "far more pixels", "1x1"), errors, strict=True
    ):
        assert part in message.replace("\\", "")
        assert "Traceback" not in message
    assert len(cards(app)) == 2


def test_a_missing_face_is_reported_and_images_can_be_cropped_faces(bundle) -> None:
    app = open_app(("flat.png", image_bytes(64)))
    assert "No face was found" in texts(app.warning)
    assert cards(app) == []
    app.toggle[2].set_value(True).run()
    assert not app.warning
    assert len(cards(app)) == 1


def test_results_of_a_removed_image_are_deleted(bundle, two_faces) -> None:
    app = open_app(("a.png", image_bytes()), ("b.png", image_bytes(200)))
    assert len(app.session_state["uploads"]) == 2
    app.file_uploader[0].clear().run()
    app.file_uploader[0].set_value([("b.png", image_bytes(200), "image/png")]).run()
    assert [upload.name for upload in app.session_state["uploads"].values()] == ["b.png"]
    assert [len(cached) for cached in app.session_state["predictions"].values()] == [1]


def test_many_images_are_paginated(bundle, two_faces) -> None:
    app = open_app(*((f"{n}.png", image_bytes(150 + n)) for n in range(10)))
    assert "**20 faces** in 10 images" in texts(app.markdown)
    assert len(cards(app)) == 16
    app.get("pagination")[0].set_value(2).run()
    assert len(cards(app)) == 4


def test_two_models_are_shown_side_by_side_with_heat_maps(bundle, two_faces, run_with_checkpoint) -> None:
    app = open_app(("a.png", image_bytes()))
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
    app = open_app(("a.png", image_bytes()), ("text.jpg", b"not an image"))
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


def test_runs_with_the_same_name_and_score_have_different_labels(run_with_checkpoint: Path) -> None:
    shutil.copytree(run_with_checkpoint, run_with_checkpoint.with_name("10-00-01_again"))
    labels = [choice.label for choice in models.available_choices()[0]]
    assert sorted(labels) == [
        f"Run: small seed=0 (62.5%), outputs/today/{folder}"
        for folder in sorted(["10-00-01_again", run_with_checkpoint.name])
    ]


def test_the_requested_model_is_listed_first(run_with_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = run_with_checkpoint.with_name("09-00-00_older")
    shutil.copytree(run_with_checkpoint, again)
    monkeypatch.setenv("FER_APP_MODEL", str(again.absolute()))
    found, _ = models.available_choices()
    assert len(found) == 2
    assert found[0].label == f"Run: small seed=0 (62.5%), outputs/today/{again.name}"


def test_the_score_of_the_best_epoch_is_not_shown_for_the_last(run_with_checkpoint: Path, monkeypatch) -> None:
    last = run_with_checkpoint / "checkpoints" / "last.ckpt"
    shutil.copy(last.with_name("best.ckpt"), last)
    monkeypatch.setenv("FER_APP_MODEL", str(last))
    found, _ = models.available_choices()
    assert [choice.label for choice in found] == ["Run: small seed=0, last.ckpt", "Run: small seed=0 (62.5%)"]
    assert found[0].about == "Trained on fer2013, protocol official."


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ([24, 24], (1, 24, 24)),
        ([200, 200, 3], (1, 96, 96)),  # at most the input size of the network
    ],
)
def test_a_run_gets_images_of_the_training_resolution(
    run_with_checkpoint: Path, shape: list[int], expected: tuple[int, ...]
) -> None:
    path = run_with_checkpoint / "checkpoints" / "best.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["hyper_parameters"]["model"]["image_size"] = 96
    saved["hyper_parameters"]["provenance"] = {"image_shape": shape}
    torch.save(saved, path)
    sharp = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    assert models.available_choices()[0][0].load()._input(sharp).shape == expected
    saved["hyper_parameters"]["provenance"] = {}
    torch.save(saved, path)
    with pytest.raises(ValueError, match="lacks the shape of its training images"):
        models.available_choices()[0][0].load()


def test_a_run_trained_on_crops_gets_the_centre_of_a_face(run_with_checkpoint: Path, small_network) -> None:
    path = run_with_checkpoint / "checkpoints" / "best.ckpt"
    saved = torch.load(path, weights_only=True)
    views = {"_target_": "fer_lightning.models.tta.ten_crop", "_partial_": True, "size": 0.75}
    saved["hyper_parameters"]["evaluation"]["views"] = views
    torch.save(saved, path)
    face = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    [prediction] = models.available_choices()[0][0].load().predict([face])
    with torch.no_grad():
        expected = small_network(torch.from_numpy(face[6:42, 6:42] / np.float32(255))[None, None]).softmax(dim=1)[0]
    assert list(prediction.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-5)


def test_mlflow_s_runs_are_listed_once_and_downloaded_when_selected(
    run_with_checkpoint: Path, here: Path, monkeypatch
) -> None:
    def run(number: int, name: str, files: list[str]):
        info = types.SimpleNamespace(run_id=f"id{number}", run_name=name)
        data = types.SimpleNamespace(
            tags={"data": "fer2013", "synthetic": "false"}, metrics={"test/accuracy": 0.625}, files=files
        )
        return types.SimpleNamespace(info=info, data=data)

    best = ["checkpoints/best.ckpt"]
    (run_with_checkpoint / ".mlflow_run_id").write_text("id1")
    stored = [run(1, "small seed=0", best), run(2, "only there", best), run(3, "parent", [])]
    downloaded: list[str] = []

    class Client:
        def search_experiments(self):
            return [types.SimpleNamespace(experiment_id="0")]

        def search_runs(self, *_, **__):
            return stored

        def list_artifacts(self, run_id: str, _: str):
            files = next(run.data.files for run in stored if run.info.run_id == run_id)
            return [types.SimpleNamespace(path=file) for file in files]

        def download_artifacts(self, run_id: str, path: str) -> str:
            downloaded.append(run_id)
            return str(run_with_checkpoint / path)

    monkeypatch.setattr(models, "_client", Client)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere")
    found, problems = models.available_choices()
    assert [choice.label for choice in found] == ["Run: small seed=0 (62.5%)", "MLflow: only there (62.5%)"]
    assert problems == downloaded == []
    assert found[1].load().predict([np.zeros((48, 48), np.uint8)])[0].label in EMOTIONS
    assert downloaded == ["id2"]
    monkeypatch.setattr(models, "_client", lambda: exec("raise OSError('no connection')"))
    assert escaped("MLflow's runs are not listed: no connection") in texts(open_app().warning)


@pytest.mark.parametrize(("set_by_user", "seconds"), [(None, "10"), ("5", "5")])
def test_mlflow_requests_of_a_page_have_a_short_timeout(here: Path, set_by_user: str | None, seconds: str) -> None:
    """10 seconds (30 in training) unless set by the user; the local store is the default."""
    code = (
        "import os, sys, types\n"
        "sys.modules['mlflow'] = types.SimpleNamespace(MlflowClient=str)\n"
        "from fer_lightning.app import choices\n"
        "print(choices._client(), os.environ['MLFLOW_HTTP_REQUEST_TIMEOUT'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {"PYTHONPATH": str(ROOT)} | ({"MLFLOW_HTTP_REQUEST_TIMEOUT": set_by_user} if set_by_user else {})
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["sqlite:///mlruns/mlflow.db", seconds]


def test_the_results_page_shows_measured_systems_and_runs(run_with_checkpoint: Path) -> None:
    Image.new("RGB", (40, 30)).save(run_with_checkpoint / "confusion_matrix.png")
    app = open_results()
    published, own = (frame.value for frame in app.dataframe)
    assert "custom_cnn" in published["experiment"].tolist()
    assert own.loc[0, ["Run", "Test accuracy"]].tolist() == ["small seed=0", 0.625]
    assert [tab.label for tab in app.tabs] == ["Confusion matrix"]
    assert not app.code
    app.selectbox[0].select("custom_cnn, seed 0").run()
    assert app.code[0].value == "python train.py experiment=custom_cnn paths.results_dir=results"
    assert len(app.get("image")) == 2  # the run's and the system's confusion matrix


def test_every_run_can_be_selected(run_with_checkpoint: Path) -> None:
    other = run_with_checkpoint.parents[1] / "yesterday" / run_with_checkpoint.name
    shutil.copytree(run_with_checkpoint, other)
    os.utime(other / "record.json", (0, 0))
    app = open_results()
    [report] = [box for box in app.selectbox if box.label == "Report of"]
    labels = [f"small seed=0, {day}/{other.name}" for day in ("today", "yesterday")]
    assert report.options == labels
    report.select(labels[1]).run()
    assert escaped(f"outputs/yesterday/{other.name}, ") in texts(app.caption)


@pytest.mark.parametrize("test", [{"n": 5}, {"accuracy": "high"}, {"accuracy": 0.5, "accuracy_interval": [0.4]}])
def test_a_bundle_with_invalid_scores_is_skipped(here: Path, small_bundle: Path, describe, test, capsys) -> None:
    folder = here / "outputs" / "bundle"
    shutil.copytree(small_bundle, folder)
    describe(folder, scores={"test": test})
    assert models.available_choices() == ([], [])
    assert entry.main(["app", "--model", str(folder)]) == 2
    assert f"{folder}: bundle.json has invalid scores; export the model again" in capsys.readouterr().err


def test_text_of_records_is_not_rendered_as_markdown(run_with_checkpoint: Path) -> None:
    path = run_with_checkpoint / "record.json"
    image = "![](https://example.org/seen)"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": image, "command": image}))
    for app in (open_app(), open_results()):
        assert "example" in texts(app.caption)
        assert image not in texts(app.caption)


def test_a_folder_without_runs_is_not_an_error() -> None:
    app = open_results()
    assert "no finished run" in texts(app.info)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(command, "serve", lambda *call: calls.append(call) or 0)
    return calls


def test_the_command_prints_the_url_and_who_can_open_it(served, capsys) -> None:
    port = free_port()
    assert entry.main(["app", "--port", str(port)]) == 0
    assert served == [("localhost", port)]
    assert f"http://localhost:{port} (only this machine can open it" in capsys.readouterr().out
    assert entry.main(["app", "--address", "0.0.0.0"]) == 0
    assert "ANYBODY" in capsys.readouterr().out


def test_usage_errors_are_one_sentence(served, capsys, monkeypatch, tmp_path: Path) -> None:
    def error_of(*arguments: str) -> str:
        assert entry.main(["app", *arguments]) == 2
        [sentence] = capsys.readouterr().err.strip().splitlines()[-1:]
        return sentence

    assert "nowhere" in error_of("--model", "nowhere")
    assert "neither a bundle" in error_of("--model", str(tmp_path))
    with socket.create_server(("localhost", 0)) as taken:
        assert "choose another with --port" in error_of("--port", str(taken.getsockname()[1]))
    assert "--port" in error_of("--port", "many")
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert "pip install -e '.[app]'" in error_of()
    assert served == []


def test_models_are_found_by_bundle_run_folder_and_checkpoint(run_with_checkpoint: Path, small_bundle: Path) -> None:
    checkpoint = run_with_checkpoint / "checkpoints" / "best.ckpt"
    for path in (checkpoint, run_with_checkpoint, Path("outputs")):
        [choice] = models.choices_from(str(path))
        assert (choice.kind, Path(choice.location).resolve()) == ("checkpoint", checkpoint)
    [choice] = models.choices_from(str(small_bundle))
    assert choice.kind == "bundle"


class Chromium:
    """A page of a headless browser with a fake camera, controlled through the DevTools protocol."""

    def __init__(self, program: str, folder: Path, width: int) -> None:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        flags += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        self.process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={folder}", "about:blank"], stderr=subprocess.DEVNULL
        )
        self._numbers = itertools.count(1)
        port = wait_for(lambda: (folder / "DevToolsActivePort").read_text().split("\n")[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as response:
            [page] = [page for page in json.load(response) if page["type"] == "page"]
        self._socket = connect(page["webSocketDebuggerUrl"], max_size=None).__enter__()
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)

    def __call__(self, method: str, **params: object) -> dict:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            response = json.loads(self._socket.recv(timeout=60))
            if response.get("id") == number:
                if "error" in response:  # for example while the page is rendered again
                    raise LookupError(response["error"]["message"])
                return response["result"]

    def value(self, script: str) -> object:
        return self("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait_for_text(self, text: str) -> None:
        wait_for(
            lambda: text in str(self.value("document.body.innerText")), lambda: self.value("document.body.innerText")
        )

    def click(self, text: str, where: str = "button") -> None:
        element = f"[...document.querySelectorAll('{where}')].filter(e => e.innerText.trim().endsWith('{text}')).pop()"
        wait_for(lambda: self.value(f"{element} && !{element}.disabled"))
        x, y = self.value(
            f"(() => {{const e = {element}; e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def upload(self, *files: Path) -> None:
        def given() -> bool:
            root = self("DOM.getDocument")["root"]["nodeId"]
            node = self("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
            self("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])
            return True

        wait_for(given)

    def screenshot(self) -> np.ndarray:
        data = base64.b64decode(self("Page.captureScreenshot")["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def wait_for(condition: Callable[[], Any], message: Callable[[], object] = lambda: "") -> Any:
    deadline = time.monotonic() + 300
    while True:
        try:
            if value := condition():
                return value
        except (FileNotFoundError, LookupError):
            pass
        assert time.monotonic() < deadline, message()
        time.sleep(0.1)


@contextmanager
def terminated(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def test_the_app_in_a_browser(small_bundle: Path, real_data: Path, tmp_path: Path, here: Path) -> None:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with zipfile.ZipFile(real_data / "fer2013-kaggle.zip") as archive:
        name = next(name for name in sorted(archive.namelist()) if "happy/PublicTest" in name)
        face = np.asarray(Image.open(archive.open(name)))
    from fer_lightning.inference.detect import detector

    canvas = np.full((800, 1000), 128, np.uint8)
    canvas[200:600, 300:700] = cv2.resize(face, (400, 400), interpolation=cv2.INTER_CUBIC)
    assert len(detector()(canvas)) == 1
    work = tmp_path / "work"
    work.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000), np.uint8)  # for a file larger than 1 MB
    cv2.imwrite(str(tmp_path / "face.png"), canvas)
    cv2.imwrite(str(tmp_path / "large.bmp"), np.hstack([noise, noise]))
    (tmp_path / "text.jpg").write_text("not an image")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "fer_lightning", "app", "--port", str(port), "--model", str(small_bundle)],
        cwd=work,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
    )
    with terminated(server):
        assert server.stdout is not None
        assert "only this machine" in server.stdout.readline()
        wait_for(lambda: socket.socket().connect_ex(("localhost", port)) == 0)
        page = Chromium(program, tmp_path / "profile", width=390)
        with terminated(page.process):
            page("Page.navigate", url=f"http://localhost:{port}")
            page.wait_for_text("nothing is written to disk")
            assert page.value("document.documentElement.scrollWidth") <= 390
            page.upload(tmp_path / "face.png", tmp_path / "large.bmp", tmp_path / "text.jpg")
            page.wait_for_text("1 face in 3 images")
            page.wait_for_text("not an image in a known format")
            page.wait_for_text("No face was found")
            assert page.value("document.querySelectorAll('.fer-card .fer-bar').length") == 3
            assert page.value("document.documentElement.scrollWidth") <= 390
            page("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "downloads"))
            page.click("CSV")
            table = pd.read_csv(io.StringIO(wait_for((tmp_path / "downloads" / "expressions.csv").read_text)))
            assert table["image"].tolist() == ["face.png", "large.bmp", "text.jpg"]
            page.click("Camera", "[data-testid=stButtonGroup] *")
            wait_for(lambda: page.value("document.querySelector('video')?.readyState") == 4)
            page.click("Take Photo")
            page.wait_for_text("0 faces in 1 image")  # Chromium's camera shows a clock
            assert page.screenshot().std() > 10
            page("Page.navigate", url=f"http://localhost:{port}/results")
            page.wait_for_text("Measured systems")
        assert not list(work.rglob("*"))
