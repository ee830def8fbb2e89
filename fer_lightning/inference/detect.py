"""Faces in a picture, and the crop of one as FER2013 cut its own."""

from __future__ import annotations

import hashlib
import math
import os
import threading
import urllib.request
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from fer_lightning.files import atomic_write, user_cache

Image = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""x, y, width and height in pixels of the picture; it may reach beyond the picture's edge."""

Eyes = tuple[tuple[float, float], tuple[float, float]]
"""x and y of the eye that lies left in the picture, then of the other."""

MARGIN: Final = 1.04
"""Side of the crop over the side of the box: on FER2013's own pictures the cascade's box is 0.96 of the side."""

BLAZEFACE_SIDE: Final = 1.23
BLAZEFACE_RISE: Final = 0.11
"""FER2013's pictures are so many times as large as BlazeFace's box, and their middle lies so much of it higher: medians
over faces of Training, pasted on gray."""

MAX_ROLL: Final = 30.0
"""Degrees. A cascade for upright faces finds none that is turned more: then an eye was mistaken."""

MEDIAPIPE_URL: Final = (
    "https://storage.googleapis.com/mediapipe-models/face_detector/blaze_face_short_range/float16/1/"
    "blaze_face_short_range.tflite"
)
MEDIAPIPE_SHA256: Final = "b4578f35940bf5a1a655214a1cce5cab13eba73c1297cd78e1a04c2380b0152f"


@dataclass(frozen=True)
class DetectedFace:
    """A face that was found.

    Attributes:
        box: Where it is.
        eyes: The two eyes, or None where the detector did not see both.
    """

    box: Box
    eyes: Eyes | None = None


class FaceDetector(Protocol):
    """Finds faces."""

    def __call__(self, image: Image) -> list[DetectedFace]:
        """The faces of a picture, the largest first, none mostly inside another; an empty list where there is none.

        Args:
            image: uint8 (H, W) gray or (H, W, 3) RGB.
        """
        ...


def detector(name: str = "opencv", **options: Any) -> FaceDetector:
    """The detector of that name.

    Args:
        name: `opencv` (no download) or `mediapipe` (an extra package and a model file).
        options: Of `OpenCVDetector` or `MediaPipeDetector`.

    Raises:
        ValueError: There is no such detector.
    """
    detectors: dict[str, Callable[..., FaceDetector]] = {"opencv": OpenCVDetector, "mediapipe": MediaPipeDetector}
    if name not in detectors:
        raise ValueError(f"there is no face detector {name!r}; there are {' and '.join(detectors)}")
    return detectors[name](**options)


class OpenCVDetector:
    """The Haar cascade that comes with OpenCV (Viola and Jones 2001; Lienhart and Maydt 2002).

    It finds faces that look at the camera and are turned by at most some 20 degrees. May be called from any thread.

    Args:
        longest_side: Pixels. Larger pictures are searched at this size, which decides the speed; the smallest face
            that is found has a sixteenth of it.
        step: Ratio of one size of face that is looked for to the next, above 1; 1.1 finds some more and takes twice as
            long.
    """

    def __init__(self, longest_side: int = 480, step: float = 1.2) -> None:
        self._longest_side = longest_side
        self._step = step
        self._faces = _cascade("frontalface_alt2")
        self._eyes = _cascade("eye")
        self._lock = threading.Lock()  # a cascade holds the picture that it searches

    def __call__(self, image: Image) -> list[DetectedFace]:
        """As `FaceDetector`."""
        gray = _gray(image)
        scale = min(1.0, self._longest_side / max(gray.shape))
        size = [max(1, round(side * scale)) for side in reversed(gray.shape)]
        small = cv2.resize(gray, size, interpolation=cv2.INTER_AREA) if scale < 1 else gray
        edge = max(small.shape) // 10  # a face that fills the picture has its box at the very edge, or beyond
        small = np.asarray(cv2.copyMakeBorder(small, edge, edge, edge, edge, cv2.BORDER_REPLICATE), np.uint8)
        smallest = max(20, min(self._longest_side, max(small.shape)) // 16)  # 20 is the cascade's own window
        with self._lock:
            found = self._faces.detectMultiScale(small, self._step, 3, minSize=(smallest, smallest))
            boxes = _merged([(int(x), int(y), int(w), int(h)) for x, y, w, h in found])
            eyes = [self._eyes_in(small, box) for box in boxes]
        return [_scaled(DetectedFace(box, pair), 1 / scale, -edge) for box, pair in zip(boxes, eyes, strict=True)]

    def _eyes_in(self, gray: Image, box: Box) -> Eyes | None:
        """Each eye is looked for in its own half of the face, between forehead and nose."""
        x, y, width, height = box
        rows = slice(y + height // 5, y + height * 3 // 5)
        centres = []
        for left in (x, x + width // 2):
            half = gray[rows, left : left + width // 2]
            found = self._eyes.detectMultiScale(
                half, 1.1, 3, minSize=(width * 3 // 20, width * 3 // 20), maxSize=(width * 2 // 5, width * 2 // 5)
            )
            if not len(found):
                return None
            ex, ey, ew, eh = max(found, key=lambda eye: int(eye[2]))
            centres.append((left + ex + ew / 2, rows.start + ey + eh / 2))
        return centres[0], centres[1]


class MediaPipeDetector:
    """MediaPipe's BlazeFace for faces within two metres (Bazarevsky et al. 2019); `pip install mediapipe`.

    Args:
        model: `blaze_face_short_range.tflite`; None takes the one in `~/.cache/fer_lightning`, where it is put on the
            first use.

    Raises:
        ValueError: MediaPipe is not installed, or there is no model file and none can be had.
    """

    def __init__(self, model: str | Path | None = None) -> None:
        try:
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision
        except ImportError as error:
            raise ValueError(f"detector mediapipe needs a package ({error}): pip install -e '.[mediapipe]'") from None
        content = mediapipe_model() if model is None else _bytes_of(Path(model))
        self._mediapipe: Any = mediapipe
        self._lock = threading.Lock()
        try:
            with _silence():
                options = vision.FaceDetectorOptions(BaseOptions(model_asset_buffer=content))
                self._detector = vision.FaceDetector.create_from_options(options)
                weakref.finalize(self, _close, self._detector)
                self(np.zeros((128, 128), np.uint8))  # the first picture has it say more
        except (RuntimeError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), "")
            raise ValueError(f"MediaPipe cannot use {model or MEDIAPIPE_URL} as a face detector: {reason}") from None

    def __call__(self, image: Image) -> list[DetectedFace]:
        """As `FaceDetector`."""
        gray = _gray(image)
        rgb = cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else np.ascontiguousarray(image)
        picture = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=rgb)
        with self._lock:
            found = self._detector.detect(picture).detections
        height, width = gray.shape
        eyes: dict[Box, Eyes] = {}
        for detection in found:
            frame = detection.bounding_box
            first, second = sorted((point.x * width, point.y * height) for point in detection.keypoints[:2])
            eyes[_widened(frame.origin_x, frame.origin_y, frame.width, frame.height)] = first, second
        return [DetectedFace(box, eyes[box]) for box in _merged(list(eyes))]


def _widened(x: int, y: int, width: int, height: int) -> Box:
    """BlazeFace's box, which ends at the brows, as the cascade would have drawn it."""
    side = max(width, height)
    whole = round(side * BLAZEFACE_SIDE / MARGIN)
    return round(x + (width - whole) / 2), round(y + (height - whole) / 2 - BLAZEFACE_RISE * side), whole, whole


def _close(task: Any) -> None:
    """Closes a task of MediaPipe; at exit its threads are gone already, and left alone it would print a traceback."""
    try:
        task.close()
    except RuntimeError:
        task._handle = None


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps what native libraries write of their own to the terminal away from it."""
    before = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def crop(image: Image, face: DetectedFace) -> Image:
    """Cuts a face out as FER2013's are: square, filled by the face, the eyes level.

    What lies beyond the picture's edge is filled with the edge's pixels.

    Args:
        image: uint8 (H, W) or (H, W, 3).
        face: A face of it.

    Returns:
        uint8 (S, S) or (S, S, 3).
    """
    x, y, width, height = face.box
    side = max(1, round(MARGIN * max(width, height)))
    centre = np.array([x + width / 2, y + height / 2])
    roll = _roll(face.eyes)
    reach = math.ceil(side / math.sqrt(2)) + 2  # as far as a corner comes when it is turned
    low = np.clip(np.floor(centre) - reach, 0, np.array(image.shape[1::-1]) - 1).astype(int)
    high = np.maximum(low + 1, np.ceil(centre) + reach).astype(int)
    near = image[low[1] : high[1], low[0] : high[0]]
    matrix = cv2.getRotationMatrix2D((float(centre[0] - low[0]), float(centre[1] - low[1])), roll, 1.0)
    matrix[:, 2] -= np.round(centre - side / 2) - low  # whole pixels: what is not turned is copied as it is
    return np.asarray(
        cv2.warpAffine(near, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def mediapipe_model() -> bytes:
    """MediaPipe's face detector, downloaded once and verified.

    Raises:
        ValueError: It cannot be had, or is another file than it should be.
    """
    path = user_cache() / Path(MEDIAPIPE_URL).name
    advice = f"fetch {MEDIAPIPE_URL} on a machine with network, and give it as model=PATH, or --detector_model PATH"
    if path.is_file() and hashlib.sha256(content := path.read_bytes()).hexdigest() == MEDIAPIPE_SHA256:
        return content
    try:
        with urllib.request.urlopen(MEDIAPIPE_URL, timeout=20) as answer:
            content = bytes(answer.read())
    except OSError as error:
        raise ValueError(f"MediaPipe's model is not at {path} and cannot be downloaded ({error}): {advice}") from None
    if (sha256 := hashlib.sha256(content).hexdigest()) != MEDIAPIPE_SHA256:
        raise ValueError(f"what {MEDIAPIPE_URL} gave is not MediaPipe's model (sha256 {sha256}): {advice}")
    with atomic_write(path) as aside:
        aside.write_bytes(content)
    return content


def _bytes_of(model: Path) -> bytes:
    try:
        return model.read_bytes()
    except OSError as error:
        raise ValueError(f"MediaPipe's model {model} cannot be read: {error.strerror}") from None


def _cascade(name: str) -> cv2.CascadeClassifier:
    folder = getattr(getattr(cv2, "data", None), "haarcascades", "")
    cascade = cv2.CascadeClassifier(f"{folder}haarcascade_{name}.xml")
    if cascade.empty():
        raise ValueError(f"OpenCV {cv2.__version__} has no Haar cascades: pip install 'opencv-python-headless<5'")
    return cascade


def _gray(image: Image) -> Image:
    """uint8 (H, W); a gray picture as it is."""
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.shape[2:] == (3,)) or not image.size:
        raise ValueError(
            f"a picture must be uint8 (H, W) or (H, W, 3) and not empty; this is {image.dtype} {image.shape}"
        )
    return image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def _merged(boxes: Sequence[Box]) -> list[Box]:
    """Of boxes that share more than half of the smaller one the largest, in order of size."""
    kept: list[Box] = []
    for box in sorted(boxes, key=lambda b: (-b[2] * b[3], b)):
        x, y, width, height = box
        if not any(
            max(0, min(x + width, kx + kw) - max(x, kx)) * max(0, min(y + height, ky + kh) - max(y, ky))
            > width * height / 2
            for kx, ky, kw, kh in kept
        ):
            kept.append(box)
    return kept


def _scaled(face: DetectedFace, scale: float, shift: int) -> DetectedFace:
    """The face in a picture that is shifted first and then `scale` times as large."""
    x, y, width, height = face.box
    box = (round((x + shift) * scale), round((y + shift) * scale), round(width * scale), round(height * scale))
    if face.eyes is None:
        return DetectedFace(box)
    left, right = (((ex + shift) * scale, (ey + shift) * scale) for ex, ey in face.eyes)
    return DetectedFace(box, (left, right))


def _roll(eyes: Eyes | None) -> float:
    """Degrees by which the line through the eyes goes down to the right; 0 where that is not to be believed."""
    if eyes is None:
        return 0.0
    (left, top), (right, bottom) = eyes
    roll = math.degrees(math.atan2(bottom - top, right - left))
    return roll if abs(roll) <= MAX_ROLL else 0.0
