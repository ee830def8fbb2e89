"""How many frames of 640x480 pixels a second are searched for faces and classified, and how many faces are found?

    python benchmarks/detection.py fer2013-kaggle.zip [--model BUNDLE] [--frames 60] [--out detection.json]

The frames are photographs that come with scikit-learn, a building and a flower, with two faces of FER2013's PublicTest
pasted into each, 64 to 220 pixels a side. Those faces are cropped so tightly that a cascade finds fewer of them than of
faces with hair and neck. `found` is the share of them whose middle lies in a box of half to one and a half times their
size; `false` is the number of other boxes a frame. The settings take turns, frame after frame, so that a busy moment of
the machine hits all alike; medians are compared. `cpu ms` is the processor time of all threads, which a busy machine
changes less than the clock: a thousand by it are the frames a second of one free core. Classifying needs a bundle;
without one only detection is measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_sample_images

from fer_lightning.data.sources import read_faces
from fer_lightning.inference.bundle import BundleError
from fer_lightning.inference.detect import crop, detector
from fer_lightning.inference.predict import FERPredictor
from fer_lightning.reporting import records

SIDES = (320, 480, 640)
DEFAULT = 480


def frames_of(path: Path, count: int) -> list[tuple[np.ndarray, list[tuple[int, int, int]]]]:
    """Frames, each with x, y and side of its faces."""
    rng = np.random.default_rng(0)
    faces = read_faces(path, cache=False)
    pictures = faces.images[faces.usage == "PublicTest"]
    backgrounds = [cv2.resize(photo, (640, 480)) for photo in load_sample_images().images]
    frames = []
    for number in range(count):
        frame, places = backgrounds[number % len(backgrounds)].copy(), []
        for half in (0, 320):
            side = int(rng.integers(64, 220))
            x, y = half + int(rng.integers(320 - side)), int(rng.integers(480 - side))
            face = cv2.resize(pictures[rng.integers(len(pictures))], (side, side), interpolation=cv2.INTER_CUBIC)
            frame[y : y + side, x : x + side] = face[..., None]
            places.append((x, y, side))
        frames.append((frame, places))
    return frames


def hit(box: tuple[int, ...], place: tuple[int, int, int]) -> bool:
    x, y, width, height = box
    left, top, side = place
    inside = left < x + width / 2 < left + side and top < y + height / 2 < top + side
    return inside and 0.5 < width / side < 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="FER2013 in any form")
    parser.add_argument("--model", default="default", help="a bundled model's name or a bundle")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    try:
        predictor = FERPredictor.load(options.model)
    except (BundleError, ModuleNotFoundError) as error:
        print(f"classifying is left out: {error}")
        predictor = None
    frames = frames_of(options.path, options.frames)
    finders = {side: detector(longest_side=side) for side in SIDES}
    finders[DEFAULT](frames[0][0])  # the first call makes threads
    seen = {side: {"found": 0, "false": 0, "detect": [], "all": [], "cpu": []} for side in SIDES}
    for frame, places in frames:
        for side, find in finders.items():
            start, cpu = time.perf_counter(), time.process_time()
            faces = find(frame)
            seen[side]["detect"].append(time.perf_counter() - start)
            crops = [crop(frame, face) for face in faces]
            if predictor:
                predictor.predict(crops)
            seen[side]["all"].append(time.perf_counter() - start)
            seen[side]["cpu"].append(time.process_time() - cpu)
            hits = {place for place in places for face in faces if hit(face.box, place)}
            seen[side]["found"] += len(hits)
            seen[side]["false"] += len(faces) - len(hits)
    figures = []
    for side, row in seen.items():
        figures.append(
            {
                "longest_side": side,
                "found": row["found"] / 2 / len(frames),
                "false_a_frame": row["false"] / len(frames),
                "detection_ms": 1000 * statistics.median(row["detect"]),
                "cpu_ms": 1000 * statistics.median(row["cpu"]),
                "frames_a_second": 1 / statistics.median(row["all"]),
            }
        )
    what = f"detection and {predictor.bundle.name}" if predictor else "detection alone"
    print(f"{'longest side':>12} {'found':>7} {'false':>7} {'detection ms':>13} {'cpu ms':>7}   frames/s, {what}")
    for row in figures:
        print(
            f"{row['longest_side']:>12} {row['found']:>7.1%} {row['false_a_frame']:>7.2f} {row['detection_ms']:>13.1f}"
            f" {row['cpu_ms']:>7.1f} {row['frames_a_second']:>10.1f}"
        )
    if options.out:
        result = {
            "question": __doc__.splitlines()[0],
            "measured": what,
            "load_average": os.getloadavg()[0],
            "frames": len(frames),
            "figures": figures,
            "opencv": cv2.__version__,
            "machine": records.machine(),
            "versions": records.versions(),
            "commit": records.commit(),
        }
        records.write_json(options.out, result)


if __name__ == "__main__":
    main()
