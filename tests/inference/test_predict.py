"""From images to predictions."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.images import UNREADABLE, encoded, noise
from helpers.predictions import probabilities_of
from helpers.processes import run_python
from PIL import Image

from fer_lightning.config import ROOT
from fer_lightning.inference.detect import DetectedFace, crop
from fer_lightning.inference.images import ImageError, read_image
from fer_lightning.inference.predict import Prediction
from fer_lightning.labels import EMOTIONS


def reference(network, pixels: np.ndarray) -> np.ndarray:
    """Probabilities of the network itself for pixels (H, W) or (H, W, 3)."""
    image = torch.from_numpy(pixels).float() / 255
    image = image[None] if image.ndim == 2 else image.permute(2, 0, 1)
    with torch.no_grad():
        return network(image[None]).softmax(dim=1)[0].numpy()


@pytest.mark.parametrize("shape", [(48, 48), (48, 48, 3), (200, 130), (97, 211, 3), (20, 30), (30, 90, 3)])
def test_images_of_any_size_get_the_predictions_of_the_network(predictor, small_network, shape) -> None:
    pixels = noise(*shape, seed=1)
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
    path.write_bytes(encoded(gray))
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
    (tmp_path / "a.png").write_bytes(encoded(gray))
    [one] = predictor.predict(tmp_path / "a.png")
    assert predictor.predict(np.stack([gray] * 3)[..., None]) == [one] * 3
    assert predictor.predict(torch.from_numpy(np.stack([gray] * 2))[:, None]) == [one] * 2
    assert predictor.predict(pd.Series([str(tmp_path / "a.png")] * 2)) == [one] * 2
    assert predictor.predict([]) == []
    with pytest.raises(ImageError, match=r"shape \(100, 48, 48\) is not an image"):
        predictor.predict(np.zeros((100, 48, 48), np.uint8))


def test_predictions_are_in_the_order_of_images(predictor) -> None:
    many = noise(300, 48, 48)
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


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_image_gives_a_one_line_error(predictor, tmp_path: Path, name: str) -> None:
    content, message = UNREADABLE[name]
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
    locked.write_bytes(encoded(noise(64, 64, 3)))
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
        (np.zeros(48 * 48, np.uint8), "is not an image"),
        (object(), "a object is not an image"),
        (3, "a int is not an image"),
    ],
)
def test_an_invalid_array_is_refused(predictor, array: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        predictor.predict(array)


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


def detector_of(count: int):
    """A detector that finds `count` faces in any image."""

    def detect(image: np.ndarray) -> list[DetectedFace]:
        assert image.dtype == np.uint8
        return [DetectedFace((20 * number, 10, 40, 40)) for number in range(count)]

    return detect


def test_every_detected_face_gets_a_prediction(predictor) -> None:
    photo = noise(120, 160, 3)
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
    (tmp_path / "face.png").write_bytes(encoded(noise(64, 64, 3)))
    code = BLOCKER + (
        "from fer_lightning.inference.predict import FERPredictor\n"
        f"print(FERPredictor.load({str(small_bundle)!r}).predict({str(tmp_path / 'face.png')!r})[0].label)\n"
    )
    done = run_python("-c", code, cwd=ROOT)
    assert done.stdout.strip() in EMOTIONS


def test_without_onnx_runtime_the_error_is_one_line(small_bundle: Path) -> None:
    code = BLOCKER.replace('"onnx"', '"onnxruntime"') + (
        "from fer_lightning.__main__ import main\n"
        f"sys.exit(main(['predict', 'x.png', '--model', {str(small_bundle)!r}]))\n"
    )
    done = run_python("-c", code, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == "fer predict: prediction needs ONNX Runtime: pip install onnxruntime\n"
