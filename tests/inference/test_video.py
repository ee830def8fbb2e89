"""Frames of a video at a given rate."""

import io
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from fer_lightning import __main__ as entry
from fer_lightning.inference.results import Timeline
from fer_lightning.inference.video import frames


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
    assert entry.main(["predict", str(video), "--whole", "--fps", "2", "--model", str(small_bundle)]) == 0
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
