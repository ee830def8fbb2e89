"""Frames of a video at an even pace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fer_lightning.inference.images import MAX_PIXELS, PictureError, printable, reason_of


def frames(path: Path, fps: float) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Frames with their times, the first one and then `fps` a second; fewer where the video has fewer.

    Args:
        path: A video that OpenCV's FFmpeg reads.
        fps: Frames a second, above 0.

    Yields:
        Seconds since the start, and the frame as uint8 (H, W, 3) RGB.

    Raises:
        PictureError: It is missing or no video.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # one clear line is said here
    import cv2
    import cv2.utils.logging

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)

    name = printable(str(path))
    try:
        path.open("rb").close()
    except OSError as error:
        raise PictureError(f"{name}: {reason_of(error)}") from None
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        if (width := video.get(cv2.CAP_PROP_FRAME_WIDTH)) * video.get(cv2.CAP_PROP_FRAME_HEIGHT) > MAX_PIXELS:
            raise PictureError(f"{name}: frames of {width:g} pixels' width, at most {MAX_PIXELS:,} pixels are read")
        number, wanted, pace = 0, 0.0, video.get(cv2.CAP_PROP_FPS) or 25.0
        while video.grab():
            # what the file says of each frame, or counted where it says nothing
            seconds = video.get(cv2.CAP_PROP_POS_MSEC) / 1000 or number / pace
            number += 1
            if seconds >= wanted - 1e-6:
                wanted += (int((seconds - wanted + 1e-6) * fps) + 1) / fps  # the next even time to come
                good, frame = video.retrieve()
                if good:
                    yield seconds, np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        if number == 0:
            raise PictureError(f"{name}: it is no video that OpenCV can read")
    finally:
        video.release()
