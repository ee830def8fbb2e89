"""Face detection, and cropping of faces in the way of FER2013."""

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
from fer_lightning.inference.predict import Box

Image = NDArray[np.uint8]

Eyes = tuple[tuple[float, float], tuple[float, float]]
"""x and y of the eye on the left of the image, then of the other."""

MARGIN: Final = 1.04
"""Side of the crop relative to the side of the box: in FER2013's images the cascade's box has 0.96 of the side."""

BLAZEFACE_SCALE: Final = 1.23
BLAZEFACE_SHIFT: Final = 0.11
"""Side of FER2013's images relative to BlazeFace's box, and the distance of their centre above the box's, as a fraction
of the box's side. Medians over faces of Training, pasted on gray."""

MAX_ROLL: Final = 30.0
"""Degrees. The cascade detects only upright faces, so a larger roll means that an eye was detected wrongly."""

MEDIAPIPE_URL: Final = (
    "https://storage.googleapis.com/mediapipe-models/face_detector/blaze_face_short_range/float16/1/"
    "blaze_face_short_range.tflite"
)
MEDIAPIPE_SHA256: Final = "b4578f35940bf5a1a655214a1cce5cab13eba73c1297cd78e1a04c2380b0152f"


@dataclass(frozen=True)
class DetectedFace:
    """A detected face.

    Attributes:
        box: Bounding box; may extend beyond the image.
        eyes: Positions of both eyes; None if the detector did not find both.
    """

    box: Box
    eyes: Eyes | None = None


class FaceDetector(Protocol):
    """Interface of a face detector."""

    def __call__(self, image: Image) -> list[DetectedFace]:
        """Detect the faces of an image.

        Args:
            image: uint8 (H, W) gray or (H, W, 3) RGB.

        Returns:
            The faces, largest first, none mostly inside another; empty if there is none.
        """
        ...


def detector(name: str = "opencv", **options: Any) -> FaceDetector:
    """Create a face detector by name.

    Args:
        name: `opencv` (no download) or `mediapipe` (an extra package and a model file).
        options: Arguments of `OpenCVDetector` or `MediaPipeDetector`.

    Raises:
        ValueError: There is no such detector.
    """
    detectors: dict[str, Callable[..., FaceDetector]] = {"opencv": OpenCVDetector, "mediapipe": MediaPipeDetector}
    if name not in detectors:
        raise ValueError(f"there is no face detector {name!r}; there are {' and '.join(detectors)}")
    return detectors[name](**options)


class OpenCVDetector:
    """The Haar cascade that comes with OpenCV (Viola and Jones 2001; Lienhart and Maydt 2002).

    It detects frontal faces with a roll of at most about 20 degrees. Thread-safe.

    Args:
        longest_side: Pixels. Larger images are shrunk to this size, which determines the speed; the smallest face that
            can be detected has a sixteenth of it.
        step: Ratio between successive sizes of the search window, above 1; 1.1 detects some more faces and takes twice
            as long.
    """

    def __init__(self, longest_side: int = 480, step: float = 1.2) -> None:
        self._longest_side = longest_side
        self._step = step
        self._faces = _cascade("frontalface_alt2")
        self._eyes = _cascade("eye")
        self._lock = threading.Lock()  # a cascade stores the image that it searches

    def __call__(self, image: Image) -> list[DetectedFace]:
        """See `FaceDetector`."""
        gray = _to_gray(image)
        scale = min(1.0, self._longest_side / max(gray.shape))
        size = [max(1, round(side * scale)) for side in reversed(gray.shape)]
        small = cv2.resize(gray, size, interpolation=cv2.INTER_AREA) if scale < 1 else gray
        edge = max(small.shape) // 10  # the box of a face that fills the image lies at the edge or beyond
        small = np.asarray(cv2.copyMakeBorder(small, edge, edge, edge, edge, cv2.BORDER_REPLICATE), np.uint8)
        smallest = max(20, min(self._longest_side, max(small.shape)) // 16)  # 20 is the window of the cascade
        with self._lock:
            found = self._faces.detectMultiScale(small, self._step, 3, minSize=(smallest, smallest))
            boxes = _suppress_overlaps([(int(x), int(y), int(w), int(h)) for x, y, w, h in found])
            eyes = [self._eyes_in(small, box) for box in boxes]
        return [_rescale(DetectedFace(box, pair), 1 / scale, -edge) for box, pair in zip(boxes, eyes, strict=True)]

    def _eyes_in(self, gray: Image, box: Box) -> Eyes | None:
        """Search each eye in its half of the face, between forehead and nose."""
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
        model: `blaze_face_short_range.tflite`; None uses the one in `~/.cache/fer_lightning`, downloaded on first use.

    Raises:
        ValueError: MediaPipe is not installed, or the model file is missing, invalid or cannot be downloaded.
    """

    def __init__(self, model: str | Path | None = None) -> None:
        try:
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision
        except ImportError as error:
            raise ValueError(f"detector mediapipe needs a package ({error}): pip install -e '.[mediapipe]'") from None
        content = mediapipe_model() if model is None else _read_model(Path(model))
        self._mediapipe: Any = mediapipe
        self._lock = threading.Lock()
        try:
            with _silence_stderr():
                options = vision.FaceDetectorOptions(BaseOptions(model_asset_buffer=content))
                self._detector = vision.FaceDetector.create_from_options(options)
                weakref.finalize(self, _close, self._detector)
                self(np.zeros((128, 128), np.uint8))  # more log messages appear at the first image
        except (RuntimeError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), "")
            raise ValueError(f"MediaPipe cannot use {model or MEDIAPIPE_URL} as a face detector: {reason}") from None

    def __call__(self, image: Image) -> list[DetectedFace]:
        """See `FaceDetector`."""
        gray = _to_gray(image)
        rgb = cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else np.ascontiguousarray(image)
        mediapipe_image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=rgb)
        with self._lock:
            found = self._detector.detect(mediapipe_image).detections
        height, width = gray.shape
        eyes: dict[Box, Eyes] = {}
        for detection in found:
            frame = detection.bounding_box
            first, second = sorted((point.x * width, point.y * height) for point in detection.keypoints[:2])
            eyes[_to_cascade_box(frame.origin_x, frame.origin_y, frame.width, frame.height)] = first, second
        return [DetectedFace(box, eyes[box]) for box in _suppress_overlaps(list(eyes))]


def _to_cascade_box(x: int, y: int, width: int, height: int) -> Box:
    """Convert BlazeFace's box, which ends at the brows, to the extent of the cascade's boxes."""
    side = max(width, height)
    new_side = round(side * BLAZEFACE_SCALE / MARGIN)
    left = round(x + (width - new_side) / 2)
    top = round(y + (height - new_side) / 2 - BLAZEFACE_SHIFT * side)
    return left, top, new_side, new_side


def _close(task: Any) -> None:
    """Close a MediaPipe task; at exit its threads have already stopped, which would print a traceback."""
    try:
        task.close()
    except RuntimeError:
        task._handle = None


@contextmanager
def _silence_stderr() -> Iterator[None]:
    """Suppress what native libraries write to stderr."""
    before = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def crop(image: Image, face: DetectedFace) -> Image:
    """Crop a face as in FER2013: square, filled by the face, with the eyes level.

    Pixels outside of the image repeat those at its edge.

    Args:
        image: uint8 (H, W) or (H, W, 3).
        face: A face detected in it.

    Returns:
        uint8 (S, S) or (S, S, 3).
    """
    x, y, width, height = face.box
    side = max(1, round(MARGIN * max(width, height)))
    centre = np.array([x + width / 2, y + height / 2])
    roll = _roll(face.eyes)
    reach = math.ceil(side / math.sqrt(2)) + 2  # distance of a rotated corner from the centre
    low = np.clip(np.floor(centre) - reach, 0, np.array(image.shape[1::-1]) - 1).astype(int)
    high = np.maximum(low + 1, np.ceil(centre) + reach).astype(int)
    near = image[low[1] : high[1], low[0] : high[0]]
    matrix = cv2.getRotationMatrix2D((float(centre[0] - low[0]), float(centre[1] - low[1])), roll, 1.0)
    matrix[:, 2] -= np.round(centre - side / 2) - low  # whole pixels, so that unrotated crops copy the image exactly
    return np.asarray(
        cv2.warpAffine(near, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def mediapipe_model() -> bytes:
    """Return MediaPipe's face detection model from the cache, or download and verify it.

    Raises:
        ValueError: The download failed, or the file has another sha256.
    """
    path = user_cache() / Path(MEDIAPIPE_URL).name
    advice = f"download {MEDIAPIPE_URL} on another machine and pass it as model=PATH or --detector_model PATH"
    if path.is_file() and hashlib.sha256(content := path.read_bytes()).hexdigest() == MEDIAPIPE_SHA256:
        return content
    try:
        with urllib.request.urlopen(MEDIAPIPE_URL, timeout=20) as response:
            content = bytes(response.read())
    except OSError as error:
        raise ValueError(f"MediaPipe's model is not at {path} and cannot be downloaded ({error}): {advice}") from None
    if (sha256 := hashlib.sha256(content).hexdigest()) != MEDIAPIPE_SHA256:
        raise ValueError(f"the file at {MEDIAPIPE_URL} is not MediaPipe's model (sha256 {sha256}): {advice}")
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return content


def _read_model(model: Path) -> bytes:
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


def _to_gray(image: Image) -> Image:
    """Return uint8 (H, W), without a copy if the image is gray."""
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.shape[2:] == (3,)) or not image.size:
        raise ValueError(
            f"an image must be uint8 (H, W) or (H, W, 3) and not empty; this is {image.dtype} {image.shape}"
        )
    return image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def _suppress_overlaps(boxes: Sequence[Box]) -> list[Box]:
    """Remove boxes that overlap a larger one by more than half of their area; return the rest, largest first."""
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


def _rescale(face: DetectedFace, scale: float, shift: int) -> DetectedFace:
    """Shift the coordinates of a face and then multiply them by `scale`."""
    x, y, width, height = face.box
    box = (round((x + shift) * scale), round((y + shift) * scale), round(width * scale), round(height * scale))
    if face.eyes is None:
        return DetectedFace(box)
    left, right = (((ex + shift) * scale, (ey + shift) * scale) for ex, ey in face.eyes)
    return DetectedFace(box, (left, right))


def _roll(eyes: Eyes | None) -> float:
    """Roll in degrees, positive if the right eye of the image is lower; 0 if it exceeds `MAX_ROLL`."""
    if eyes is None:
        return 0.0
    (left, top), (right, bottom) = eyes
    roll = math.degrees(math.atan2(bottom - top, right - left))
    return roll if abs(roll) <= MAX_ROLL else 0.0
