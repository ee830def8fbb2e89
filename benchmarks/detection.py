"""How many 640x480 frames per second are searched for faces and classified, and how accurate is the result?

    python benchmarks/detection.py fer2013-kaggle.zip [--model BUNDLE] [--mediapipe blaze_face_short_range.tflite]
        [--frames 60] [--out benchmarks/results/detection.json]

The frames are photographs that come with scikit-learn, a building and a flower, with two faces of FER2013's PublicTest
pasted into each, 64 to 220 pixels per side. Those faces are cropped so tightly that a cascade finds fewer of them than
of faces with hair and neck. `found` is the fraction of them whose centre is in a box of half to one and a half times
their size; `false_a_frame` counts the other boxes. `right` is the accuracy on the found faces with the detector's
crops, `right_as_cropped` that on the same faces with FER2013's crops: the difference is the effect of the detector's
box. The settings are measured alternately, frame by frame, so that load on the machine affects all of them equally;
medians are compared. `cpu_ms` is the processor time of all threads, which load affects less than wall-clock time.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from harness import finish, new_parser
from sklearn.datasets import load_sample_images

from fer_lightning.data.sources.readers import read_faces
from fer_lightning.inference.detect import FaceDetector, crop, detector
from fer_lightning.inference.predict import FERPredictor

SIDES = (320, 480, 640)
Square = tuple[int, int, int]
"""x, y and side of a pasted face."""


@dataclass
class DetectorResult:
    """Counts and times of one detector.

    Attributes:
        found: Faces that were found.
        false: Boxes without a pasted face.
        right: Found faces that are classified correctly with its crops.
        right_as_cropped: The same faces with FER2013's crops.
        detection: Seconds of detection per frame.
        whole: Seconds per frame with cropping and classification.
        cpu: Processor seconds per frame.
    """

    found: int = 0
    false: int = 0
    right: int = 0
    right_as_cropped: int = 0
    detection: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def figures(self, name: str, frames: int) -> dict[str, float | str]:
        return {
            "detector": name,
            "found": self.found / 2 / frames,
            "false_a_frame": self.false / frames,
            "right": self.right / max(1, self.found),
            "right_as_cropped": self.right_as_cropped / max(1, self.found),
            "detection_ms": 1000 * statistics.median(self.detection),
            "cpu_ms": 1000 * statistics.median(self.cpu),
            "frames_a_second": 1 / statistics.median(self.whole),
        }


def create_frames(path: Path, count: int) -> list[tuple[np.ndarray, dict[Square, str]]]:
    """Create frames, each with the squares of its faces and their labels."""
    rng = np.random.default_rng(0)
    faces = read_faces(path, cache=False)
    test = np.flatnonzero(faces.usage == "PublicTest")
    backgrounds = [cv2.resize(photo, (640, 480)) for photo in load_sample_images().images]
    frames = []
    for number in range(count):
        frame, labels = backgrounds[number % len(backgrounds)].copy(), {}
        for half in (0, 320):
            side = int(rng.integers(64, 220))
            x, y = half + int(rng.integers(320 - side)), int(rng.integers(480 - side))
            index = rng.choice(test)
            face = cv2.resize(faces.images[index], (side, side), interpolation=cv2.INTER_CUBIC)
            frame[y : y + side, x : x + side] = face[..., None]
            labels[x, y, side] = faces.classes[faces.labels[index]]
        frames.append((frame, labels))
    return frames


def matches(box: tuple[int, ...], square: Square) -> bool:
    x, y, width, height = box
    left, top, side = square
    inside = left < x + width / 2 < left + side and top < y + height / 2 < top + side
    return inside and 0.5 < width / side < 1.5


def process_frame(
    find: FaceDetector, predictor: FERPredictor, frame: np.ndarray, labels: dict[Square, str], result: DetectorResult
) -> None:
    """Detect and classify the faces of a frame, and add counts and times to the result."""
    start, cpu = time.perf_counter(), time.process_time()
    faces = find(frame)
    result.detection.append(time.perf_counter() - start)
    predictions = predictor.predict([crop(frame, face) for face in faces])
    result.whole.append(time.perf_counter() - start)
    result.cpu.append(time.process_time() - cpu)
    found = {
        square: prediction
        for square in labels
        for face, prediction in zip(faces, predictions, strict=True)
        if matches(face.box, square)
    }
    original_crops = [frame[y : y + side, x : x + side] for x, y, side in found]
    result.found += len(found)
    result.false += len(faces) - len(found)
    result.right += sum(prediction.label == labels[square] for square, prediction in found.items())
    result.right_as_cropped += sum(
        prediction.label == labels[square]
        for square, prediction in zip(found, predictor.predict(original_crops), strict=True)
    )


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("path", type=Path, help="FER2013 in any format")
    parser.add_argument("--model", default="default", help="name of a bundled model, or a bundle")
    parser.add_argument("--mediapipe", type=Path, help="MediaPipe's model file, to include that detector")
    parser.add_argument("--frames", type=int, default=60)
    options = parser.parse_args()
    predictor = FERPredictor.load(options.model)
    detectors = {f"OpenCV, {side} px": detector(longest_side=side) for side in SIDES}
    if options.mediapipe:
        detectors["MediaPipe"] = detector("mediapipe", model=options.mediapipe)
    frames = create_frames(options.path, options.frames)
    for find in detectors.values():
        process_frame(find, predictor, *frames[0], DetectorResult())  # the first call creates threads
    results = {name: DetectorResult() for name in detectors}
    for frame, labels in frames:
        for name, find in detectors.items():
            process_frame(find, predictor, frame, labels, results[name])
    result = {
        "model": predictor.bundle.name,
        "frames": len(frames),
        "figures": [row.figures(name, len(frames)) for name, row in results.items()],
        "opencv": cv2.__version__,
    }
    finish("detection", __doc__, result, options.out)


if __name__ == "__main__":
    main()
