"""Pictures in what a command line names: files, folders, videos, stdin."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fer_lightning.inference.images import MAX_BYTES, PictureError, Pixels, printable
from fer_lightning.inference.video import frames

PICTURES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm", ".pgm")
VIDEOS: Final = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")


@dataclass(frozen=True)
class Source:
    """One picture on its way to the predictor.

    Attributes:
        name: What the results call it.
        image: A path, bytes or pixels.
        seconds: When it is shown, for a frame of a video.
        below: Where it stands under what was named on the command line, for the names of annotated pictures.
    """

    name: str
    image: Path | bytes | Pixels
    below: Path
    seconds: float | None = None


@dataclass
class Reader:
    """Walks through what the command line names.

    Attributes:
        fps: Frames a second of video to look at.
        complain: Is told of what cannot be read.
        skip: A folder that is not walked into.
    """

    fps: float
    complain: Callable[[str], None]
    skip: Path | None = None

    def listed(self, names: Sequence[str]) -> list[tuple[Path | str, Path]]:
        """Every file with its place below what was named, in order; `-` stays `-`."""
        found: list[tuple[Path | str, Path]] = []
        for name in names:
            path = Path(name)
            if name == "-":
                found.append((name, Path("stdin")))
            elif path.is_dir():
                inside = list(self._walk(path))
                if not inside:
                    self.complain(f"{printable(name)}: holds no picture and no video")
                below = Path(os.path.abspath(path)).name  # of `..` too
                found += [(file, below / file.relative_to(path)) for file in inside]
            else:
                found.append((path, Path(path.name)))
        return found

    def _walk(self, folder: Path) -> Iterator[Path]:
        def unreadable(error: OSError) -> None:
            self.complain(f"{printable(error.filename)}: {error.strerror}")

        for above, folders, files in os.walk(folder, onerror=unreadable):
            folders[:] = sorted(f for f in folders if not f.startswith(".") and not self._is_skipped(Path(above, f)))
            for file in sorted(files):
                if not file.startswith(".") and Path(file).suffix.lower() in PICTURES + VIDEOS:
                    yield Path(above, file)

    def _is_skipped(self, folder: Path) -> bool:
        return self.skip is not None and folder.resolve() == self.skip.resolve()

    def sources(self, file: Path | str, below: Path) -> Iterator[Source]:
        """The pictures in one file: one, or as many as the video has."""
        name = printable(str(file))
        if file == "-":
            yield Source("-", sys.stdin.buffer.read(MAX_BYTES + 1), below)
        elif Path(file).suffix.lower() in VIDEOS:
            try:
                for seconds, pixels in frames(Path(file), self.fps):
                    yield Source(name, pixels, below, seconds)
            except PictureError as error:
                self.complain(str(error))
        else:
            yield Source(name, Path(file), below)
