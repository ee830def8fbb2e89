"""Frames of a video at a constant rate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fer_lightning.inference.images import MAX_PIXELS, ImageError, printable, reason_of


def frames(path: Path, fps: float) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Yield the first frame and then `fps` frames per second, or fewer if the video has fewer.

    Args:
        path: A video that OpenCV's FFmpeg can read.
        fps: Frames per second, above 0.

    Yields:
        Time in seconds since the start, and the frame as uint8 (H, W, 3) RGB.

    Raises:
        ImageError: The file is missing or not a video.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # the error below replaces its messages
    import cv2
    import cv2.utils.logging

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)

    name = printable(str(path))
    try:
        path.open("rb").close()
    except OSError as error:
        raise ImageError(f"{name}: {reason_of(error)}") from None
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        width, height = video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if width * height > MAX_PIXELS:
            raise ImageError(f"{name}: its frames are {width:g}x{height:g} pixels, the limit is {MAX_PIXELS:,}")
        number, next_time, file_fps = 0, 0.0, video.get(cv2.CAP_PROP_FPS) or 25.0
        while video.grab():
            # some files have no time stamps
            seconds = video.get(cv2.CAP_PROP_POS_MSEC) / 1000 or number / file_fps
            number += 1
            if seconds >= next_time - 1e-6:
                next_time += (int((seconds - next_time + 1e-6) * fps) + 1) / fps
                good, frame = video.retrieve()
                if good:
                    yield seconds, np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        if number == 0:
            raise ImageError(f"{name}: it is not a video that OpenCV can read")
    finally:
        video.release()
