"""Images in the files, folders, videos and stdin that a command line names."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fer_lightning.inference.images import MAX_BYTES, ImageError, Pixels, printable
from fer_lightning.inference.video import frames

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm", ".pgm")
VIDEO_SUFFIXES: Final = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")


@dataclass(frozen=True)
class Source:
    """One image to predict.

    Attributes:
        name: Name in the results.
        image: A path, bytes or pixels.
        seconds: Time of a video frame.
        relative_path: Path below the argument on the command line, for the names of annotated images.
    """

    name: str
    image: Path | bytes | Pixels
    relative_path: Path
    seconds: float | None = None


@dataclass
class Reader:
    """Reads the inputs that the command line names.

    Attributes:
        fps: Frames per second to read from videos.
        on_error: Called with a message for each input that cannot be read.
        skip: A folder to ignore.
    """

    fps: float
    on_error: Callable[[str], None]
    skip: Path | None = None

    def list_files(self, names: Sequence[str]) -> list[tuple[Path | str, Path]]:
        """List every file, or `-` for stdin, with its relative path (see `Source`), in order."""
        found: list[tuple[Path | str, Path]] = []
        for name in names:
            path = Path(name)
            if name == "-":
                found.append((name, Path("stdin")))
            elif path.is_dir():
                inside = list(self._walk(path))
                if not inside:
                    self.on_error(f"{printable(name)}: contains no image or video")
                folder_name = Path(os.path.abspath(path)).name  # also for `..`
                found += [(file, folder_name / file.relative_to(path)) for file in inside]
            else:
                found.append((path, Path(path.name)))
        return found

    def _walk(self, folder: Path) -> Iterator[Path]:
        def unreadable(error: OSError) -> None:
            self.on_error(f"{printable(error.filename)}: {error.strerror}")

        for parent, folders, files in os.walk(folder, onerror=unreadable):
            folders[:] = sorted(f for f in folders if not f.startswith(".") and not self._is_skipped(Path(parent, f)))
            for file in sorted(files):
                if not file.startswith(".") and Path(file).suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
                    yield Path(parent, file)

    def _is_skipped(self, folder: Path) -> bool:
        return self.skip is not None and folder.resolve() == self.skip.resolve()

    def sources(self, file: Path | str, relative_path: Path) -> Iterator[Source]:
        """Yield the image in a file, or the sampled frames of a video."""
        name = printable(str(file))
        if file == "-":
            yield Source("-", sys.stdin.buffer.read(MAX_BYTES + 1), relative_path)
        elif Path(file).suffix.lower() in VIDEO_SUFFIXES:
            try:
                for seconds, pixels in frames(Path(file), self.fps):
                    yield Source(name, pixels, relative_path, seconds)
            except ImageError as error:
                self.on_error(str(error))
        else:
            yield Source(name, Path(file), relative_path)
