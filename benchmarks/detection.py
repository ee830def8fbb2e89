"""How many frames of 640x480 pixels a second are searched for faces and classified, and how well are faces cut out?

    python benchmarks/detection.py fer2013-kaggle.zip [--model BUNDLE] [--mediapipe blaze_face_short_range.tflite]
        [--frames 60] [--out benchmarks/results/detection.json]

The frames are photographs that come with scikit-learn, a building and a flower, with two faces of FER2013's PublicTest
pasted into each, 64 to 220 pixels a side. Those faces are cropped so tightly that a cascade finds fewer of them than of
faces with hair and neck. `found` is the share of them whose middle lies in a box of half to one and a half times their
size; `false_a_frame` counts the other boxes. `right` is the share of the found faces that are classified as labelled,
cut out by the detector, and `right_as_cropped` that of the same faces as FER2013 cropped them: the gap is what the
detector's frame costs. The settings take turns, frame after frame, so that a busy moment of the machine hits all alike;
medians are compared. `cpu_ms` is the processor time of all threads, which a busy machine changes less than the clock.
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
Place = tuple[int, int, int]
"""x, y and side of a pasted face."""


@dataclass
class Seen:
    """What one detector did.

    Attributes:
        found: Faces that it found.
        false: Boxes that are no pasted face.
        right: Found faces that are classified as labelled, by its crops.
        right_as_cropped: The same faces, as FER2013 cropped them.
        detection: Seconds of each frame.
        whole: Seconds of each frame with cropping and classifying.
        cpu: Processor seconds of each frame.
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


def frames_of(path: Path, count: int) -> list[tuple[np.ndarray, dict[Place, str]]]:
    """Frames, each with the places of its faces and what they are labelled."""
    rng = np.random.default_rng(0)
    faces = read_faces(path, cache=False)
    test = np.flatnonzero(faces.usage == "PublicTest")
    backgrounds = [cv2.resize(photo, (640, 480)) for photo in load_sample_images().images]
    frames = []
    for number in range(count):
        frame, places = backgrounds[number % len(backgrounds)].copy(), {}
        for half in (0, 320):
            side = int(rng.integers(64, 220))
            x, y = half + int(rng.integers(320 - side)), int(rng.integers(480 - side))
            chosen = rng.choice(test)
            face = cv2.resize(faces.images[chosen], (side, side), interpolation=cv2.INTER_CUBIC)
            frame[y : y + side, x : x + side] = face[..., None]
            places[x, y, side] = faces.classes[faces.labels[chosen]]
        frames.append((frame, places))
    return frames


def hit(box: tuple[int, ...], place: Place) -> bool:
    x, y, width, height = box
    left, top, side = place
    inside = left < x + width / 2 < left + side and top < y + height / 2 < top + side
    return inside and 0.5 < width / side < 1.5


def look(find: FaceDetector, predictor: FERPredictor, frame: np.ndarray, places: dict[Place, str], seen: Seen) -> None:
    """Searches and classifies a frame, and adds it to what was seen."""
    start, cpu = time.perf_counter(), time.process_time()
    faces = find(frame)
    seen.detection.append(time.perf_counter() - start)
    answers = predictor.predict([crop(frame, face) for face in faces])
    seen.whole.append(time.perf_counter() - start)
    seen.cpu.append(time.process_time() - cpu)
    hits = {
        place: answer for place in places for face, answer in zip(faces, answers, strict=True) if hit(face.box, place)
    }
    pasted = [frame[y : y + side, x : x + side] for x, y, side in hits]
    seen.found += len(hits)
    seen.false += len(faces) - len(hits)
    seen.right += sum(answer.label == places[place] for place, answer in hits.items())
    seen.right_as_cropped += sum(
        answer.label == places[place] for place, answer in zip(hits, predictor.predict(pasted), strict=True)
    )


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("path", type=Path, help="FER2013 in any form")
    parser.add_argument("--model", default="default", help="a bundled model's name or a bundle")
    parser.add_argument("--mediapipe", type=Path, help="MediaPipe's model file, to measure that detector too")
    parser.add_argument("--frames", type=int, default=60)
    options = parser.parse_args()
    predictor = FERPredictor.load(options.model)
    finders = {f"OpenCV, {side} px": detector(longest_side=side) for side in SIDES}
    if options.mediapipe:
        finders["MediaPipe"] = detector("mediapipe", model=options.mediapipe)
    frames = frames_of(options.path, options.frames)
    for find in finders.values():
        look(find, predictor, *frames[0], Seen())  # the first call makes threads
    seen = {name: Seen() for name in finders}
    for frame, places in frames:
        for name, find in finders.items():
            look(find, predictor, frame, places, seen[name])
    result = {
        "model": predictor.bundle.name,
        "frames": len(frames),
        "figures": [row.figures(name, len(frames)) for name, row in seen.items()],
        "opencv": cv2.__version__,
    }
    finish("detection", __doc__, result, options.out)


if __name__ == "__main__":
    main()
