import hashlib
import itertools
import os
import sys
import threading
import types
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fer_lightning.inference import detect
from fer_lightning.inference.detect import MARGIN, DetectedFace, crop, detector


@pytest.fixture(scope="module")
def frontal(real_data: Path) -> list[np.ndarray]:
    """Some faces of FER2013 that the cascade detects, 48 x 48."""
    find = detector()
    with zipfile.ZipFile(real_data / "fer2013-kaggle.zip") as archive:
        names = sorted(name for name in archive.namelist() if "happy/PublicTest" in name)
        faces = (np.asarray(Image.open(archive.open(name))) for name in names)
        found = (face for face in faces if find(enlarged(face, 120)))
        return list(itertools.islice(found, 6))


def enlarged(face: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(face, (side, side), interpolation=cv2.INTER_CUBIC)


def pasted(*faces: tuple[np.ndarray, int, int, int], size: tuple[int, int] = (480, 640)) -> np.ndarray:
    """A gray canvas with faces, each as image, x, y and side."""
    canvas = np.full(size, 128, np.uint8)
    for face, x, y, side in faces:
        canvas[y : y + side, x : x + side] = enlarged(face, side)
    return canvas


def test_faces_are_located_and_sorted_by_size(frontal) -> None:
    boxes = [(60, 40, 120), (380, 200, 200)]
    canvas = pasted(*((face, *box) for face, box in zip(frontal, boxes, strict=False)))
    for image in (canvas, np.repeat(canvas[..., None], 3, axis=2)):
        large, small = detector()(image)
        for found, (x, y, side) in ((large, boxes[1]), (small, boxes[0])):
            left, top, width, height = found.box
            assert width == height == pytest.approx(side, rel=0.25)
            assert left + width / 2 == pytest.approx(x + side / 2, abs=0.15 * side)
            assert top + height / 2 == pytest.approx(y + side / 2, abs=0.15 * side)


def test_boxes_of_a_large_image_are_in_its_own_pixels(frontal) -> None:
    canvas = pasted((frontal[0], 200, 120, 240))
    [original] = detector()(canvas)
    [larger] = detector()(cv2.resize(canvas, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC))
    assert np.array(larger.box) / 4 == pytest.approx(np.array(original.box), abs=16)


def test_the_crop_of_a_face_that_fills_the_image_is_the_image(frontal) -> None:
    ratios = []
    for face in frontal:
        image = enlarged(face, 120)
        [found, *_] = detector()(image)
        ratios.append(crop(image, found).shape[0] / 120)
    assert np.median(ratios) == pytest.approx(1, abs=0.12)  # as FER2013's own crop


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((480, 640), np.uint8),
        np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8),
        np.zeros((1, 1), np.uint8),
        np.zeros((3, 40_000), np.uint8),
        np.zeros((20, 20, 3), np.uint8),
    ],
)
def test_without_a_face_the_list_is_empty(image) -> None:
    assert detector()(image) == []


@pytest.mark.parametrize(
    "image", [np.zeros((9, 9), np.float32), np.zeros((9, 9, 4), np.uint8), np.zeros((0, 9), np.uint8)]
)
def test_arrays_that_are_not_images_are_refused(image) -> None:
    with pytest.raises(ValueError, match=r"an image must be uint8"):
        detector()(image)


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'dlib'; there are opencv and mediapipe"):
        detector("dlib")


def test_threads_share_a_detector(frontal) -> None:
    find, canvas = detector(), pasted((frontal[0], 200, 120, 240))
    expected, results = find(canvas), []
    threads = [threading.Thread(target=lambda: results.append(find(canvas))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


def test_of_overlapping_boxes_only_the_largest_remains() -> None:
    inside, apart, large = (30, 30, 40, 40), (200, 0, 50, 50), (0, 0, 100, 100)
    touching = (90, 90, 60, 60)  # overlaps by 100 of its 3,600 pixels
    assert detect._suppress_overlaps([inside, apart, touching, large]) == [large, touching, apart]


def test_an_upright_crop_copies_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    assert round(MARGIN * 25) == 26
    cut = crop(image, DetectedFace((20, 10, 25, 25)))
    np.testing.assert_array_equal(cut, image[10:36, 20:46])  # 12.5 - 13 rounds to the even pixel
    assert crop(image[..., 0], DetectedFace((20, 10, 25, 25))).shape == (26, 26)


def test_pixels_outside_of_the_image_repeat_its_edge() -> None:
    image = np.arange(40, dtype=np.uint8)[:, None].repeat(40, axis=1)
    cut = crop(image, DetectedFace((-10, -10, 48, 48)))
    assert cut.shape == (50, 50)
    assert (cut[:11] == 0).all()
    assert cut[-1, 20] == cut[-1, 0] == 38
    assert crop(image, DetectedFace((100, 100, 20, 20))).min() == 39  # completely outside: the nearest pixel


def test_a_wide_box_gives_a_square_around_its_centre() -> None:
    image = np.zeros((200, 200), np.uint8)
    image[100, 100] = 255
    cut = crop(image, DetectedFace((50, 80, 100, 40)))
    assert cut.shape == (104, 104)
    assert cut[52, 52] == 255


@pytest.mark.parametrize("degrees", [-20.0, 12.0])
def test_crops_have_level_eyes(degrees: float) -> None:
    turn = np.deg2rad(degrees)
    centre, half = np.array([100.0, 90.0]), 20 * np.array([np.cos(turn), np.sin(turn)])
    image = np.zeros((200, 200), np.uint8)
    for x, y in (centre - half, centre + half):
        cv2.circle(image, (round(x), round(y)), 4, 255, cv2.FILLED)
    face = DetectedFace((60, 60, 80, 80), (tuple(centre - half), tuple(centre + half)))
    heights = np.nonzero(crop(image, face) > 128)
    left, right = (heights[0][side].mean() for side in (heights[1] < 41, heights[1] > 41))
    assert left == pytest.approx(right, abs=1)


def test_implausible_eyes_are_ignored() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 60), np.uint8)
    box = (10, 10, 30, 30)
    implausible = DetectedFace(box, ((20.0, 10.0), (25.0, 35.0)))
    np.testing.assert_array_equal(crop(image, implausible), crop(image, DetectedFace(box)))


def test_crops_of_rotated_faces_are_more_upright(frontal) -> None:
    rolls = []
    for face in frontal:
        canvas = pasted((face, 60, 60, 160), size=(280, 280))
        for degrees in (-12, 12):
            matrix = cv2.getRotationMatrix2D((140, 140), degrees, 1)
            for found in detector()(cv2.warpAffine(canvas, matrix, (280, 280), borderValue=128))[:1]:
                if found.eyes:
                    rolls.append(abs(-degrees - detect._roll(found.eyes)))
    assert len(rolls) >= 3
    assert np.median(rolls) < 9  # of 12


class FakeMediaPipe:
    """The used part of MediaPipe's interface; detects two faces, one inside the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images: list[np.ndarray] = []
        self.model = b""
        self.closed = 0
        vision = types.SimpleNamespace(FaceDetectorOptions=lambda base: base, FaceDetector=self)
        tasks = types.ModuleType("mediapipe.tasks.python")
        tasks.BaseOptions, tasks.vision = lambda model_asset_buffer: model_asset_buffer, vision
        package = types.ModuleType("mediapipe")
        package.ImageFormat = types.SimpleNamespace(SRGB="srgb")
        package.Image = lambda image_format, data: data
        for name, module in {
            "mediapipe": package,
            "mediapipe.tasks": types.ModuleType("mediapipe.tasks"),
            "mediapipe.tasks.python": tasks,
        }.items():
            monkeypatch.setitem(sys.modules, name, module)

    def create_from_options(self, model: bytes):
        if model == b"not a model":
            raise RuntimeError("The model is not a valid Flatbuffer buffer\nmore")
        self.model = model
        return self

    def close(self):
        self.closed += 1

    def detect(self, image: np.ndarray):
        self.images.append(image)

        def face(x, y, side):
            box = types.SimpleNamespace(origin_x=x, origin_y=y, width=side, height=side)
            points = [types.SimpleNamespace(x=x, y=0.25) for x in (0.6, 0.4, 0.5)]
            return types.SimpleNamespace(bounding_box=box, keypoints=points)

        return types.SimpleNamespace(detections=[face(12, 12, 10), face(10, 10, 40)])


def test_mediapipe_returns_boxes_and_eyes(monkeypatch, tmp_path: Path) -> None:
    fake = FakeMediaPipe(monkeypatch)
    model = tmp_path / "model.tflite"
    model.write_bytes(b"weights")
    find = detector("mediapipe", model=model)
    assert fake.model == b"weights"
    assert find(np.zeros((100, 200), np.uint8)) == [DetectedFace((6, 2, 47, 47), ((80.0, 25.0), (120.0, 25.0)))]
    assert fake.images[-1].shape == (100, 200, 3)
    del find
    assert fake.closed == 1


def test_mediapipe_s_model_is_downloaded_once_and_verified(monkeypatch, tmp_path: Path) -> None:
    fake = FakeMediaPipe(monkeypatch)
    source = tmp_path / "there.tflite"
    source.write_bytes(b"the model")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(detect, "MEDIAPIPE_URL", source.as_uri())
    with pytest.raises(ValueError, match=r"is not MediaPipe's model \(sha256 .*pass it as model=PATH"):
        detector("mediapipe")
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(detect, "MEDIAPIPE_SHA256", hashlib.sha256(b"the model").hexdigest())
    detector("mediapipe")
    source.unlink()
    detector("mediapipe")  # from the cache
    assert fake.model == b"the model"
    [cached] = (tmp_path / "cache" / "fer_lightning").iterdir()
    cached.write_bytes(b"half")  # damaged: downloaded again, which fails here
    with pytest.raises(ValueError, match="cannot be downloaded"):
        detector("mediapipe")


def test_missing_parts_of_mediapipe_are_reported(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[mediapipe\]'"):
        detector("mediapipe")
    FakeMediaPipe(monkeypatch)
    with pytest.raises(ValueError, match=r"nowhere.tflite cannot be read: No such file"):
        detector("mediapipe", model=tmp_path / "nowhere.tflite")
    (tmp_path / "text").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"as a face detector: The model is not a valid Flatbuffer buffer$"):
        detector("mediapipe", model=tmp_path / "text")


def test_the_real_mediapipe_crops_faces_like_fer2013(frontal) -> None:
    pytest.importorskip("mediapipe", reason="needs pip install -e '.[mediapipe]'")
    if not (model := os.environ.get("FER_MEDIAPIPE_MODEL")):
        pytest.skip("needs MediaPipe's model: FER_MEDIAPIPE_MODEL=blaze_face_short_range.tflite")
    find = detector("mediapipe", model=model)
    ratios, rises = [], []
    for face in frontal:
        for found in find(pasted((face, 220, 130, 200))):
            _, y, width, height = found.box
            assert width == height
            ratios.append(MARGIN * width / 200)
            rises.append((y + height / 2 - 230) / 200)
            (left, _), (right, _) = found.eyes
            assert 220 < left < right < 420
    assert len(ratios) >= 4
    assert np.median(ratios) == pytest.approx(1, abs=0.15)
    assert np.median(rises) == pytest.approx(0, abs=0.08)
    assert find(np.zeros((1, 1), np.uint8)) == []
