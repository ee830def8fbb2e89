import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from PIL import Image

from fer_lightning import __main__ as entry
from fer_lightning.inference import images
from fer_lightning.inference.detect import DetectedFace, crop
from fer_lightning.inference.images import ImageError, read_image, to_input
from fer_lightning.inference.predict import FERPredictor, Prediction
from fer_lightning.inference.results import Timeline
from fer_lightning.inference.video import frames
from fer_lightning.labels import EMOTIONS


@pytest.fixture(scope="module")
def predictor(small_bundle: Path) -> FERPredictor:
    return FERPredictor.load(small_bundle)


@pytest.fixture
def gray() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)


def png(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, options.pop("format", "PNG"), **options)
    return file.getvalue()


def reference(network, pixels: np.ndarray) -> np.ndarray:
    """Probabilities of the network itself for pixels (H, W) or (H, W, 3)."""
    image = torch.from_numpy(pixels).float() / 255
    image = image[None] if image.ndim == 2 else image.permute(2, 0, 1)
    with torch.no_grad():
        return network(image[None]).softmax(dim=1)[0].numpy()


def probabilities_of(prediction: Prediction) -> np.ndarray:
    return np.array(list(prediction.probabilities.values()))


@pytest.mark.parametrize("shape", [(48, 48), (48, 48, 3), (200, 130), (97, 211, 3), (20, 30), (30, 90, 3)])
def test_images_of_any_size_get_the_predictions_of_the_network(predictor, small_network, shape) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    [prediction] = predictor.predict(pixels)
    np.testing.assert_allclose(probabilities_of(prediction), reference(small_network, pixels), atol=1e-5)


def test_a_prediction_has_label_confidence_and_probabilities(predictor, gray) -> None:
    [prediction] = predictor.predict(gray)
    assert tuple(prediction.probabilities) == EMOTIONS
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert prediction.confidence == prediction.probabilities[prediction.label] == max(prediction.probabilities.values())
    assert prediction.box is None
    top = prediction.top()
    assert top[0] == (prediction.label, prediction.confidence)
    assert [probability for _, probability in top] == sorted(prediction.probabilities.values(), reverse=True)[:3]


def test_every_type_of_input_gives_the_same_prediction(predictor, gray, tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    path.write_bytes(png(gray))
    colour = np.repeat(gray[..., None], 3, axis=2)
    opaque = np.dstack([colour, np.full_like(gray, 255)])
    unit = gray.astype(np.float32) / 255
    tensor = torch.from_numpy(unit)[None]
    inputs = [
        gray, gray[..., None], colour, opaque, gray.astype(np.int64), gray.astype(np.uint16) * 257, unit,
        unit.astype(np.float64), colour.astype(np.float32) / 255, tensor, tensor.expand(3, -1, -1),
        tensor.clone().requires_grad_(), tensor[0], path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()),
        Image.fromarray(gray), Image.fromarray(colour), gray[None],
    ]  # fmt: skip
    predictions = np.array([probabilities_of(prediction) for prediction in predictor.predict(inputs)])
    np.testing.assert_allclose(predictions, np.broadcast_to(predictions[0], predictions.shape), atol=1e-6)


def test_single_images_and_batches(predictor, gray, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(gray))
    [one] = predictor.predict(tmp_path / "a.png")
    assert predictor.predict(np.stack([gray] * 3)[..., None]) == [one] * 3
    assert predictor.predict(torch.from_numpy(np.stack([gray] * 2))[:, None]) == [one] * 2
    assert predictor.predict(pd.Series([str(tmp_path / "a.png")] * 2)) == [one] * 2
    assert predictor.predict([]) == []
    with pytest.raises(ImageError, match=r"shape \(100, 48, 48\) is not an image"):
        predictor.predict(np.zeros((100, 48, 48), np.uint8))


def test_predictions_are_in_the_order_of_images(predictor) -> None:
    many = np.random.default_rng(2).integers(0, 256, (300, 48, 48), dtype=np.uint8)
    predictions = predictor.predict(list(many))
    assert len(predictions) == 300
    for position in (0, 63, 64, 65, 127, 128, 299):
        np.testing.assert_allclose(
            probabilities_of(predictions[position]), probabilities_of(predictor.predict(many[position])[0]), atol=1e-6
        )


def test_images_are_read_lazily(predictor, gray) -> None:
    taken = []

    def endless():
        while True:
            taken.append(gray)
            yield gray

    next(predictor.stream(endless()))
    assert len(taken) == 64


def exif_rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to see it upright
    return png(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64).astype(np.uint8), exif=exif)


def header_of(width: int, height: int) -> bytes:
    """A PNG whose header has a larger size than its data."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b""))
    )


NOISE = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
BAD = {
    "cut.jpg": (png(NOISE, format="JPEG")[:1000], "truncated"),
    "text.jpg": (b"this is not an image", "not an image in a known format"),
    "empty.jpg": (b"", "the file is empty"),
    "1x1.png": (png(np.zeros((1, 1), np.uint8)), "1x1 pixels are too few"),
    "20000x20000.png": (header_of(20_000, 20_000), "pixels"),
    "9000x9000.png": (header_of(9_000, 9_000), "9000x9000 pixels, the limit is 50,000,000"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_unreadable_image_gives_a_one_line_error(predictor, tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=message) as raised:
            predictor.predict(tmp_path / name)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_files_and_permissions_are_reported(predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.jpg: there is no such file"):
        predictor.predict(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="it is a folder"):
        predictor.predict(tmp_path)
    locked = tmp_path / "locked.jpg"
    locked.write_bytes(png(NOISE))
    locked.chmod(0)
    if os.access(locked, os.R_OK):  # root reads everything

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageError, match=r"locked\.jpg: no permission to read it"):
        read_image(locked)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((48, 48), 2.0), r"float pixels must lie in \[0, 1\]"),
        (np.full((48, 48), np.nan), r"float pixels must lie in \[0, 1\]"),
        (np.full((48, 48), 300), "integers from 0 to 255"),
        (np.full((48, 48), -1), "integers from 0 to 255"),
        (np.full((48, 48), 1j), "integers from 0 to 255"),
        (np.zeros((48, 48, 2), np.uint8), "is not an image"),
        (np.zeros((0, 48), np.uint8), "is not an image"),
        (np.zeros(48 * 48, np.uint8), "0-dimensional|is not an image|too few|uint8"),
        (object(), "a object is not an image"),
        (3, "a int is not an image"),
    ],
)
def test_an_invalid_array_is_refused(predictor, array: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        predictor.predict(array)


def test_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    (tmp_path / "large.png").write_bytes(png(NOISE))
    with pytest.raises(ImageError, match="more than 100 bytes"):
        read_image(tmp_path / "large.png")


def test_errors_can_be_returned_instead_of_raised(predictor, gray) -> None:
    many: list[object] = [gray] * 1000
    many[500] = b"not an image"
    with pytest.raises(ImageError, match="image 501"):
        predictor.predict(many)
    predictions = predictor.predict(many, errors="return")
    assert isinstance(predictions[500], ImageError)
    assert sum(isinstance(prediction, Prediction) for prediction in predictions) == 999
    with pytest.raises(ValueError, match="errors is 'ignore'"):
        predictor.predict(gray, errors="ignore")


def test_the_exif_orientation_is_applied() -> None:
    upright = read_image(exif_rotated())
    as_stored = np.asarray(Image.open(io.BytesIO(exif_rotated())))
    np.testing.assert_array_equal(upright, np.rot90(as_stored, k=-1))


def test_16_bits_are_scaled_to_8() -> None:
    ramp = np.linspace(0, 65535, 48 * 48).reshape(48, 48).astype(np.uint16)
    np.testing.assert_array_equal(read_image(png(ramp)), np.rint(ramp / 257))


def test_cmyk_becomes_rgb() -> None:
    file = io.BytesIO()
    Image.new("CMYK", (48, 48), (0, 255, 255, 0)).save(file, "JPEG", quality=100)
    pixels = read_image(file.getvalue())
    assert pixels.shape == (48, 48, 3)
    np.testing.assert_allclose(pixels.reshape(-1, 3).mean(axis=0), [255, 0, 0], atol=3)


def test_the_first_frame_of_an_animation_is_used() -> None:
    file = io.BytesIO()
    first, second = (Image.new("L", (48, 48), shade) for shade in (40, 200))
    first.save(file, "GIF", save_all=True, append_images=[second])
    assert np.unique(read_image(file.getvalue())).tolist() == [40]


def test_transparency_palettes_and_masks_are_read() -> None:
    clear = np.dstack([NOISE, np.zeros((64, 64), np.uint8)])
    np.testing.assert_array_equal(read_image(png(clear)), NOISE)
    palette = Image.fromarray(NOISE).quantize(16)
    np.testing.assert_array_equal(read_image(palette), np.asarray(palette.convert("RGB")))
    mask = Image.fromarray(NOISE[..., 0] > 127)
    assert set(np.unique(read_image(mask))) == {0, 255}


def test_gray_follows_bt601() -> None:
    for colour, weight in zip(np.eye(3, dtype=np.uint8) * 255, (0.299, 0.587, 0.114), strict=True):
        gray = to_input(np.broadcast_to(colour, (50, 70, 3)).astype(np.uint8), 48, 1)
        assert gray.shape == (1, 48, 48)
        np.testing.assert_allclose(gray, weight, atol=1e-6)
    assert to_input(NOISE[..., 0], 48, 3).shape == (3, 48, 48)


def detector_of(count: int):
    """A detector that finds `count` faces in any image."""

    def detect(image: np.ndarray) -> list[DetectedFace]:
        assert image.dtype == np.uint8
        return [DetectedFace((20 * number, 10, 40, 40)) for number in range(count)]

    return detect


def test_every_detected_face_gets_a_prediction(predictor) -> None:
    photo = np.random.default_rng(4).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    predictions = predictor.predict([photo, photo / 255], detect=True, detector=detector_of(3))
    assert [[face.box for face in faces] for faces in predictions] == [
        [(0, 10, 40, 40), (20, 10, 40, 40), (40, 10, 40, 40)]
    ] * 2
    for face in predictions[0]:  # each is the prediction for its crop
        [expected] = predictor.predict(crop(photo, DetectedFace(face.box)))
        np.testing.assert_allclose(probabilities_of(face), probabilities_of(expected), atol=1e-6)
    assert len({face.confidence for face in predictions[0]}) == 3
    assert predictor.predict(photo, detect=True, detector=detector_of(0)) == [[]]
    mixed = predictor.predict([photo, b"", photo], detect=True, detector=detector_of(1), errors="return")
    assert [type(prediction) for prediction in mixed] == [list, ImageError, list]


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "hydra", "omegaconf", "pytorch_lightning", "mlflow", "optuna",
                                  "timm", "pandas", "matplotlib", "cv2", "onnx"}:
            raise ModuleNotFoundError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
"""


def test_training_packages_are_not_needed(small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "face.png").write_bytes(png(NOISE))
    code = BLOCKER + (
        "from fer_lightning.inference.predict import FERPredictor\n"
        f"print(FERPredictor.load({str(small_bundle)!r}).predict({str(tmp_path / 'face.png')!r})[0].label)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() in EMOTIONS


def test_without_onnx_runtime_the_error_is_one_line(small_bundle: Path) -> None:
    code = BLOCKER.replace('"onnx"', '"onnxruntime"') + (
        "from fer_lightning.__main__ import main\n"
        f"sys.exit(main(['predict', 'x.png', '--model', {str(small_bundle)!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (
        2,
        "fer predict: prediction needs ONNX Runtime: pip install onnxruntime\n",
    )


# the command line


@pytest.fixture
def folder(tmp_path: Path, gray: np.ndarray) -> Path:
    """A folder of images and other files."""
    images = tmp_path / "images"
    (images / "deeper").mkdir(parents=True)
    (images / "a.png").write_bytes(png(gray))
    (images / "deeper" / "b.jpg").write_bytes(png(NOISE, format="JPEG"))
    (images / "notes.txt").write_text("not an image")
    (images / ".hidden.png").write_bytes(b"")
    return images


def predict(*arguments: object) -> int:
    return entry.main(["predict", *map(str, arguments)])


def test_a_folder_as_csv(small_bundle, predictor, folder, capfd) -> None:
    assert predict(folder, "--whole", "--model", small_bundle) == 0
    shown = capfd.readouterr()
    rows = pd.read_csv(io.StringIO(shown.out))
    assert rows["image"].tolist() == [str(folder / "a.png"), str(folder / "deeper" / "b.jpg")]
    predictions = predictor.predict([folder / "a.png", folder / "deeper" / "b.jpg"])
    assert rows["label"].tolist() == [prediction.label for prediction in predictions]
    np.testing.assert_allclose(
        rows[[f"p_{name}" for name in EMOTIONS]], [probabilities_of(prediction) for prediction in predictions]
    )
    assert shown.err == ""


@pytest.mark.parametrize("form", ["jsonl", "text"])
def test_rows_go_to_stdout_and_the_progress_bar_to_the_terminal(small_bundle, folder, tmp_path, form: str) -> None:
    terminal, of_child = os.openpty()
    command = [sys.executable, "-m", "fer_lightning", "predict", folder, "--whole", "--model", small_bundle]
    with (tmp_path / "rows").open("wb") as rows:
        done = subprocess.run([*command, "--format", form], stdout=rows, stderr=of_child, cwd=ROOT)
    os.close(of_child)
    os.close(terminal)
    assert done.returncode == 0
    assert len((tmp_path / "rows").read_text().splitlines()) == 2


def test_each_unreadable_image_is_one_line_and_the_others_are_processed(small_bundle, folder, capfd) -> None:
    for name, (content, _) in BAD.items():
        (folder / name).write_bytes(content)
    nowhere = folder / "nowhere.jpg"
    assert predict(folder, nowhere, "--whole", "--model", small_bundle, "--format", "jsonl") == 1
    shown = capfd.readouterr()
    assert len([json.loads(line) for line in shown.out.splitlines()]) == 2
    lines = shown.err.splitlines()
    assert len(lines) == len(BAD) + 1
    for name, (_, message) in BAD.items():
        assert any(f"{name}: " in line and message in line for line in lines), name
    assert f"fer predict: {nowhere}: there is no such file" in lines


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_results_are_written_to_a_file(small_bundle, folder, capfd, suffix: str) -> None:
    out = folder.parent / "new" / f"results.{suffix}"
    assert predict(folder, "--whole", "--model", small_bundle, "--out", out) == 0
    readers = {
        "csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet,
        "jsonl": lambda path: pd.read_json(path, lines=True),
    }  # fmt: skip
    table = readers[suffix](out)
    assert list(table.columns[:4]) == ["image", "seconds", "face", "x"]
    assert table["face"].tolist() == [1, 1]
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert capfd.readouterr().out == ""


def test_an_image_is_read_from_stdin(small_bundle, predictor, gray) -> None:
    command = [sys.executable, "-m", "fer_lightning", "predict", "-", "--whole", "--model", str(small_bundle)]
    done = subprocess.run([*command, "--format", "text"], input=png(gray), capture_output=True, cwd=ROOT, check=True)
    [prediction] = predictor.predict(gray)
    assert done.stdout.decode().startswith(f"-  face 1  {prediction.label} {prediction.confidence:.0%}  ")
    bad = subprocess.run(command, input=b"", capture_output=True, cwd=ROOT)
    assert (bad.returncode, bad.stderr) == (1, b"fer predict: -: the file is empty\n")


def test_a_closed_pipe_is_not_an_error(small_bundle, folder) -> None:
    for number in range(300):
        (folder / f"{number}.png").write_bytes((folder / "a.png").read_bytes())
    command = f"{sys.executable} -m fer_lightning predict {folder} --whole --model {small_bundle} | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, cwd=ROOT, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("image,")


def test_annotated_images_keep_their_relative_paths(small_bundle, folder, gray, capfd) -> None:
    (folder / "a.jpg").write_bytes(png(NOISE, format="JPEG"))
    notes = folder / "annotated"
    for _ in range(2):  # earlier annotated images are not read
        assert predict(folder, "--whole", "--model", small_bundle, "--annotate", notes) == 0
        made = sorted(str(path.relative_to(notes)) for path in notes.rglob("*.png"))
        assert made == ["images/a_faces.png", "images/a_faces_2.png", "images/deeper/b_faces.png"]
    drawn = np.asarray(Image.open(notes / "images" / "a_faces_2.png"))
    assert (drawn == (255, 212, 0)).all(axis=2).any()
    np.testing.assert_array_equal(read_image(folder / "a.png"), gray)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Two seconds at 10 frames a second, each frame brighter than the previous one."""
    path = tmp_path / "short.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 64))
    assert writer.isOpened()
    for number in range(20):
        writer.write(np.full((64, 64, 3), 10 * number, np.uint8))
    writer.release()
    return path


def test_frames_are_read_at_the_given_rate(small_bundle, video, capfd) -> None:
    assert predict(video, "--whole", "--fps", 2, "--model", small_bundle) == 0
    shown = capfd.readouterr()
    assert pd.read_csv(io.StringIO(shown.out))["seconds"].tolist() == [0, 0.5, 1, 1.5]
    assert shown.err.startswith(f"{video}: 0:00.0-")


def test_a_timeline_rounds_times_to_tenths_with_carry() -> None:
    timeline = Timeline()
    for seconds in (0.0, 59.96, 61.0, 119.97):
        timeline.add(seconds, [])
    assert str(timeline) == "0:00.0-2:00.0 no face"


def test_a_video_with_a_late_start_and_a_gap_keeps_the_rate(video, monkeypatch) -> None:
    times = [10 + number / 25 for number in range(50)] + [14 + number / 25 for number in range(50)]

    class Capture:
        at = -1

        def grab(self) -> bool:
            self.at += 1
            return self.at < len(times)

        def retrieve(self) -> tuple[bool, np.ndarray]:
            return True, np.zeros((2, 2, 3), np.uint8)

        def get(self, what: int) -> float:
            return {cv2.CAP_PROP_POS_MSEC: 1000 * times[max(0, self.at)], cv2.CAP_PROP_FPS: 25.0}.get(what, 2.0)

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: Capture())
    assert [seconds for seconds, _ in frames(video, fps=1)] == [10, 11, 14, 15]


def test_unreadable_videos_and_empty_folders_are_reported(small_bundle, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "fer_lightning", "predict", "--whole", "--model", str(small_bundle)]
    inputs = [str(tmp_path / name) for name in ("text.mp4", "no.mp4", "empty")]
    done = subprocess.run([*command, *inputs], capture_output=True, cwd=ROOT, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"fer predict: {tmp_path}/empty: contains no image or video",
        f"fer predict: {tmp_path}/text.mp4: it is not a video that OpenCV can read",
        f"fer predict: {tmp_path}/no.mp4: there is no such file",
    ]


def test_an_image_without_a_face_gets_a_row_without_a_label(small_bundle, tmp_path: Path, capfd) -> None:
    (tmp_path / "sky.png").write_bytes(png(np.full((200, 200), 200, np.uint8)))
    assert predict(tmp_path / "sky.png", "--model", small_bundle) == 0
    shown = capfd.readouterr()
    assert shown.err == f"fer predict: {tmp_path}/sky.png: no face found\n"
    [row] = pd.read_csv(io.StringIO(shown.out)).to_dict("records")
    assert row["image"] == f"{tmp_path}/sky.png"
    assert pd.isna(row["label"])
    assert pd.isna(row["face"])


def test_the_model_of_the_detector_can_be_given(small_bundle, folder, monkeypatch, capfd) -> None:
    given = []

    def made(name: str, **options: object):
        given.append((name, options))
        return lambda image: []

    monkeypatch.setattr("fer_lightning.inference.detect.detector", made)
    arguments = ["--detector", "mediapipe", "--detector_model", "net.tflite"]
    assert predict(folder / "a.png", *arguments, "--model", small_bundle) == 0
    assert given == [("mediapipe", {"model": Path("net.tflite")})]
    assert "no face found" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.png", "--model", "nobody"], "no model 'nobody'"),
        (["x.png", "--out", "results.txt"], "must end in .csv"),
        (["x.png", "--fps", "0"], "above 0"),
        (["clip.mp4", "--fps", "inf"], "must be a number above 0"),
        (["photos", "--annotate", "photos/"], "is also an input"),
        (["x.png", "--detector", "eyes"], "invalid choice: 'eyes'"),
        (["x.png", "--whole", "--detect"], "not allowed with"),
        (["x.png", "--detector_model", "net.tflite"], "--detector_model needs --detector mediapipe"),
        ([], "required"),
    ],
)
def test_usage_errors_exit_with_status_2(arguments: list[str], message: str, capfd) -> None:
    with pytest.raises(SystemExit) as ended:
        sys.exit(predict(*arguments))
    assert ended.value.code == 2
    shown = capfd.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
