"""The app: its flows through Streamlit's AppTest, and once in a browser."""

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

SCRIPT = ROOT / "fer_lightning" / "app" / "script.py"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to start the app in, and empty caches."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(models.MODEL_VARIABLE, raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(models, "bundled", list)  # whatever comes with the package
    st.cache_data.clear()
    st.cache_resource.clear()
    return tmp_path


@pytest.fixture
def two_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that finds two in every picture."""
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
        "provenance": {"picture": [48, 48]},
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


def picture(side: int = 160, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def huge_png() -> bytes:
    """The header of a PNG of 20,000 x 20,000 pixels, and no more than that."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def opened(*uploads: tuple[str, bytes]) -> AppTest:
    app = AppTest.from_file(str(SCRIPT), default_timeout=60).run()
    if uploads:
        app.file_uploader[0].set_value([(name, data, "image/jpeg") for name, data in uploads])
        app.run()
    assert not app.exception
    return app


def results() -> AppTest:
    """The second page; AppTest reaches pages in files only."""

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


def test_it_opens_and_says_what_it_cannot_do_and_that_nothing_is_kept(bundle) -> None:
    app = opened()
    assert "does not know what anybody feels" in texts(app.caption)
    assert "nothing is written to disk" in texts(app.info)
    assert "50.0% of the test pictures" in texts(app.caption)


def test_every_face_gets_its_three_most_probable_classes(bundle, two_faces) -> None:
    app = opened(("a.png", picture()))
    assert "**2 faces** in 1 picture" in texts(app.markdown)
    assert len(cards(app)) == 2
    first = cards(app)[0]
    assert first.count("fer-bar") >= 3
    assert sum(f"<span>{name}</span>" in first for name in EMOTIONS) == 3
    app.toggle[0].set_value(True).run()  # all classes
    assert all(f"<span>{name}</span>" in cards(app)[0] for name in EMOTIONS)


def test_an_unsure_answer_is_called_so(bundle, two_faces, monkeypatch) -> None:
    from fer_lightning.app import cards as drawing

    for limit, said in ((0.0, False), (1.1, True)):
        monkeypatch.setattr(drawing, "UNSURE", limit)
        assert ("Unsure. It could also be" in cards(opened(("a.png", picture())))[0]) == said


def test_bad_uploads_are_messages_and_the_rest_goes_through(bundle, two_faces) -> None:
    app = opened(
        ("text.jpg", b"no picture"),
        ("empty.jpg", b""),
        ("cut.jpg", picture(kind="JPEG")[:2000]),
        ("huge.png", huge_png()),
        ("dot.png", picture(1)),
        ("*good*.jpg", picture(kind="JPEG")),
    )
    said = [error.value for error in app.error]
    assert len(said) == 5
    for part, sentence in zip(("no picture", "empty", "cannot be read", "far more pixels", "1x1"), said, strict=True):
        assert part in sentence.replace("\\", "")
        assert "Traceback" not in sentence
    assert len(cards(app)) == 2


def test_no_face_is_said_and_a_cropped_face_can_be_taken_whole(bundle) -> None:
    app = opened(("flat.png", picture(64)))
    assert "No face was found" in texts(app.warning)
    assert cards(app) == []
    app.toggle[2].set_value(True).run()
    assert not app.warning
    assert len(cards(app)) == 1


def test_a_removed_picture_is_forgotten(bundle, two_faces) -> None:
    app = opened(("a.png", picture()), ("b.png", picture(200)))
    assert len(app.session_state["looked"]) == 2
    app.file_uploader[0].clear().run()
    app.file_uploader[0].set_value([("b.png", picture(200), "image/png")]).run()
    assert [kept.name for kept in app.session_state["looked"].values()] == ["b.png"]
    assert [len(kept) for kept in app.session_state["answers"].values()] == [1]


def test_many_pictures_come_in_pages(bundle, two_faces) -> None:
    app = opened(*((f"{n}.png", picture(150 + n)) for n in range(10)))
    assert "**20 faces** in 10 pictures" in texts(app.markdown)
    assert len(cards(app)) == 16
    app.get("pagination")[0].set_value(2).run()
    assert len(cards(app)) == 4


def test_two_models_stand_side_by_side_with_their_heat_maps(bundle, two_faces, run_with_checkpoint) -> None:
    app = opened(("a.png", picture()))
    assert "Run: small seed=0 (62.5%)" in app.selectbox[1].options
    app.selectbox[1].select("Run: small seed=0 (62.5%)")
    app.toggle[1].set_value(True).run()
    assert not app.exception
    by_bundle, by_run, *_ = cards(app)
    assert "Occlusion map" in by_bundle
    assert "Grad-CAM" in by_run
    assert len(cards(app)) == 4
    answers = [card.split("fer-answer")[1].split("</div>")[0] for card in (by_bundle, by_run)]
    assert answers[0] == answers[1]  # the bundle was exported from this network


def test_the_table_has_a_row_for_each_face_and_model_and_each_picture_without(two_faces, bundle) -> None:
    app = opened(("a.png", picture()), ("text.jpg", b"no picture"))
    looked = list(app.session_state["looked"].values())
    [by_key] = app.session_state["answers"].values()
    table = faces_page.as_table(looked, {"x": list(by_key.values())})
    table = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    assert list(table["picture"]) == ["a.png", "a.png", "text.jpg"]
    assert table.loc[1, ["x", "y", "width", "height"]].tolist() == [90, 20, 40, 40]
    assert table.loc[0, [f"p_{name}" for name in EMOTIONS]].sum() == pytest.approx(1)
    assert table.loc[0, "confidence"] == table.loc[0, f"p_{table.loc[0, 'label']}"]
    assert "no picture of a known kind" in table.loc[2, "problem"]


def test_without_a_model_it_says_how_to_get_one() -> None:
    app = opened()
    assert "python train.py" in texts(app.error)
    assert not app.file_uploader


def test_a_damaged_checkpoint_is_a_message(run_with_checkpoint: Path) -> None:
    (run_with_checkpoint / "checkpoints" / "best.ckpt").write_bytes(b"damaged")
    app = opened()
    assert "It cannot be loaded" in texts(app.error)
    assert "not a checkpoint that this project wrote" in texts(app.error)


def test_a_model_of_drawn_faces_is_marked_and_comes_last(run_with_checkpoint: Path) -> None:
    drawn = run_with_checkpoint.with_name("10-00-01_drawn")
    shutil.copytree(run_with_checkpoint, drawn)
    record = json.loads((drawn / "record.json").read_text()) | {"name": "drawn", "synthetic": True}
    (drawn / "record.json").write_text(json.dumps(record))
    app = opened()
    assert app.selectbox[0].options == ["Run: small seed=0 (62.5%)", "Run: drawn (62.5%)"]
    assert not app.warning
    app.selectbox[0].select_index(1).run()
    assert "means nothing" in texts(app.warning)


def test_two_runs_of_one_name_and_score_are_told_apart(run_with_checkpoint: Path) -> None:
    shutil.copytree(run_with_checkpoint, run_with_checkpoint.with_name("10-00-01_again"))
    labels = [choice.label for choice in models.available()[0]]
    assert sorted(labels) == [
        f"Run: small seed=0 (62.5%), outputs/today/{folder}"
        for folder in sorted(["10-00-01_again", run_with_checkpoint.name])
    ]


def test_the_model_that_was_asked_for_comes_first(run_with_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = run_with_checkpoint.with_name("09-00-00_older")
    shutil.copytree(run_with_checkpoint, again)
    monkeypatch.setenv("FER_APP_MODEL", str(again.absolute()))
    found, _ = models.available()
    assert len(found) == 2
    assert found[0].label == f"Run: small seed=0 (62.5%), outputs/today/{again.name}"


@pytest.mark.parametrize(
    ("picture", "seen"),
    [
        ([24, 24], (1, 24, 24)),
        ([200, 200, 3], (1, 96, 96)),  # no more than it looks at
    ],
)
def test_a_run_sees_pictures_like_those_it_learnt_from(
    run_with_checkpoint: Path, picture: list[int], seen: tuple[int, ...]
) -> None:
    path = run_with_checkpoint / "checkpoints" / "best.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["hyper_parameters"]["model"]["image_size"] = 96
    saved["hyper_parameters"]["provenance"] = {"picture": picture}
    torch.save(saved, path)
    sharp = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    assert models.available()[0][0].load()._input(sharp).shape == seen
    saved["hyper_parameters"]["provenance"] = {}
    torch.save(saved, path)
    with pytest.raises(ValueError, match="lacks the shape of its training images"):
        models.available()[0][0].load()


def test_a_run_trained_on_crops_sees_the_centre_of_a_face(run_with_checkpoint: Path, small_network) -> None:
    path = run_with_checkpoint / "checkpoints" / "best.ckpt"
    saved = torch.load(path, weights_only=True)
    views = {"_target_": "fer_lightning.models.tta.ten_crop", "_partial_": True, "size": 0.75}
    saved["hyper_parameters"]["evaluation"]["views"] = views
    torch.save(saved, path)
    face = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    [answer] = models.available()[0][0].load().predict([face])
    with torch.no_grad():
        wanted = small_network(torch.from_numpy(face[6:42, 6:42] / np.float32(255))[None, None]).softmax(dim=1)[0]
    assert list(answer.probabilities.values()) == pytest.approx(wanted.tolist(), abs=1e-5)


def test_mlflow_s_runs_are_listed_once_and_read_when_chosen(run_with_checkpoint: Path, here: Path, monkeypatch) -> None:
    def run(number: int, name: str, files: list[str]):
        info = types.SimpleNamespace(run_id=f"id{number}", run_name=name)
        data = types.SimpleNamespace(
            tags={"data": "fer2013", "synthetic": "false"}, metrics={"test/accuracy": 0.625}, files=files
        )
        return types.SimpleNamespace(info=info, data=data)

    best = ["checkpoints/best.ckpt"]
    (run_with_checkpoint / ".mlflow_run_id").write_text("id1")
    stored = [run(1, "small seed=0", best), run(2, "only there", best), run(3, "parent", [])]
    asked: list[str] = []

    class Client:
        def search_experiments(self):
            return [types.SimpleNamespace(experiment_id="0")]

        def search_runs(self, *_, **__):
            return stored

        def list_artifacts(self, run_id: str, _: str):
            files = next(run.data.files for run in stored if run.info.run_id == run_id)
            return [types.SimpleNamespace(path=file) for file in files]

        def download_artifacts(self, run_id: str, path: str) -> str:
            asked.append(run_id)
            return str(run_with_checkpoint / path)

    monkeypatch.setattr(models, "_client", Client)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere")
    found, problems = models.available()
    assert [choice.label for choice in found] == ["Run: small seed=0 (62.5%)", "MLflow: only there (62.5%)"]
    assert problems == asked == []
    assert found[1].load().predict([np.zeros((48, 48), np.uint8)])[0].label in EMOTIONS
    assert asked == ["id2"]
    monkeypatch.setattr(models, "_client", lambda: exec("raise OSError('nobody answers')"))
    assert "MLflow's runs are left out: nobody answers" in texts(opened().warning)


@pytest.mark.parametrize(("set_by_user", "seconds"), [(None, "10"), ("5", "5")])
def test_a_page_waits_for_mlflow_no_longer_than_wanted(here: Path, set_by_user: str | None, seconds: str) -> None:
    """10 seconds, where a training waits 30, unless the user has set another time; the local store by default."""
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


def test_the_results_page_shows_what_was_measured_and_the_runs(run_with_checkpoint: Path) -> None:
    Image.new("RGB", (40, 30)).save(run_with_checkpoint / "confusion_matrix.png")
    app = results()
    published, own = (frame.value for frame in app.dataframe)
    assert "custom_cnn" in published["experiment"].tolist()
    assert own.loc[0, ["Run", "Test accuracy"]].tolist() == ["small seed=0", 0.625]
    assert [tab.label for tab in app.tabs] == ["Confusion matrix"]


def test_a_folder_without_runs_is_no_error() -> None:
    app = results()
    assert "no finished run" in texts(app.info)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(command, "serve", lambda *call: calls.append(call) or 0)
    return calls


def test_the_command_says_where_and_that_only_this_machine_can_open_it(served, capsys) -> None:
    port = free_port()
    assert entry.main(["app", "--port", str(port)]) == 0
    assert served == [("localhost", port)]
    assert f"http://localhost:{port} (only this machine can open it" in capsys.readouterr().out
    assert entry.main(["app", "--address", "0.0.0.0"]) == 0
    assert "ANYBODY" in capsys.readouterr().out


def test_the_command_s_mistakes_are_one_sentence(served, capsys, monkeypatch, tmp_path: Path) -> None:
    def refused(*words: str) -> str:
        assert entry.main(["app", *words]) == 2
        [sentence] = capsys.readouterr().err.strip().splitlines()[-1:]
        return sentence

    assert "nowhere" in refused("--model", "nowhere")
    assert "neither a bundle" in refused("--model", str(tmp_path))
    with socket.create_server(("localhost", 0)) as taken:
        assert "choose another with --port" in refused("--port", str(taken.getsockname()[1]))
    assert "--port" in refused("--port", "many")
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert "pip install -e '.[app]'" in refused()
    assert served == []


def test_a_model_is_found_by_bundle_run_folder_and_checkpoint(run_with_checkpoint: Path, small_bundle: Path) -> None:
    checkpoint = run_with_checkpoint / "checkpoints" / "best.ckpt"
    for place in (checkpoint, run_with_checkpoint, Path("outputs")):
        [choice] = models.given(str(place))
        assert (choice.kind, Path(choice.place).resolve()) == ("checkpoint", checkpoint)
    [choice] = models.given(str(small_bundle))
    assert choice.kind == "bundle"


class Chromium:
    """A page of a headless browser with a pretended camera, driven through the DevTools protocol."""

    def __init__(self, program: str, folder: Path, width: int) -> None:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        flags += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        self.process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={folder}", "about:blank"], stderr=subprocess.DEVNULL
        )
        self._numbers = itertools.count(1)
        port = wait_for(lambda: (folder / "DevToolsActivePort").read_text().split("\n")[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            [page] = [page for page in json.load(answer) if page["type"] == "page"]
        self._socket = connect(page["webSocketDebuggerUrl"], max_size=None).__enter__()
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)

    def __call__(self, method: str, **params: object) -> dict:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == number:
                if "error" in answer:  # as when the page was just drawn anew
                    raise LookupError(answer["error"]["message"])
                return answer["result"]

    def value(self, script: str) -> object:
        return self("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def see(self, text: str) -> None:
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


def wait_for(found: Callable[[], Any], told: Callable[[], object] = lambda: "") -> Any:
    deadline = time.monotonic() + 300
    while True:
        try:
            if value := found():
                return value
        except (FileNotFoundError, LookupError):
            pass
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)


@contextmanager
def stopped(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def test_it_works_in_a_browser(small_bundle: Path, real_data: Path, tmp_path: Path, here: Path) -> None:
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
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000), np.uint8)  # a file that is larger than 1 MB
    cv2.imwrite(str(tmp_path / "face.png"), canvas)
    cv2.imwrite(str(tmp_path / "large.bmp"), np.hstack([noise, noise]))
    (tmp_path / "text.jpg").write_text("no picture")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "fer_lightning", "app", "--port", str(port), "--model", str(small_bundle)],
        cwd=work,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
    )
    with stopped(server):
        assert server.stdout is not None
        assert "only this machine" in server.stdout.readline()
        wait_for(lambda: socket.socket().connect_ex(("localhost", port)) == 0)
        page = Chromium(program, tmp_path / "profile", width=390)
        with stopped(page.process):
            page("Page.navigate", url=f"http://localhost:{port}")
            page.see("nothing is written to disk")
            assert page.value("document.documentElement.scrollWidth") <= 390
            page.upload(tmp_path / "face.png", tmp_path / "large.bmp", tmp_path / "text.jpg")
            page.see("1 face in 3 pictures")
            page.see("no picture of a known kind")
            page.see("No face was found")
            assert page.value("document.querySelectorAll('.fer-card .fer-bar').length") == 3
            assert page.value("document.documentElement.scrollWidth") <= 390
            page("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "got"))
            page.click("CSV")
            table = pd.read_csv(io.StringIO(wait_for((tmp_path / "got" / "expressions.csv").read_text)))
            assert table["picture"].tolist() == ["face.png", "large.bmp", "text.jpg"]
            page.click("Camera", "[data-testid=stButtonGroup] *")
            wait_for(lambda: page.value("document.querySelector('video')?.readyState") == 4)
            page.click("Take Photo")
            page.see("0 faces in 1 picture")  # Chromium's camera shows a clock
            assert page.screenshot().std() > 10
            page("Page.navigate", url=f"http://localhost:{port}/results")
            page.see("Measured systems")
        assert not list(work.rglob("*"))
