"""`python -m fer_lightning predict photo.jpg folder/ video.mp4`: expressions in pictures, folders and videos."""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fer_lightning.files import atomic_write, check_place, error_message
from fer_lightning.inference.images import MAX_BYTES, PictureError, Pixels, printable, read_picture, to_uint8
from fer_lightning.inference.predict import BATCH, FERPredictor, Prediction
from fer_lightning.inference.video import frames

if TYPE_CHECKING:
    from fer_lightning.inference.detect import FaceDetector

PICTURES: Final = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".gif", ".avif")
)
VIDEOS: Final = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"))
YELLOW: Final = "#ffd400"
OUTPUTS: Final = (".csv", ".json", ".jsonl", ".parquet")

Row = dict[str, Any]
"""One face, or one picture without any: `picture`, `seconds` (of a video), `face` counted from 1, `x`, `y`, `width`,
`height` in pixels, `label`, `confidence`, and `p_CLASS` of every class; None where there is nothing to say."""


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
                if not file.startswith(".") and Path(file).suffix.lower() in PICTURES | VIDEOS:
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


@dataclass
class Timeline:
    """The timeline of a video: stretches over which the largest face keeps one label."""

    stretches: list[tuple[str, float, float]] = field(default_factory=list)

    def add(self, seconds: float, faces: Sequence[Prediction]) -> None:
        """The faces of one frame."""
        largest = max(faces, key=lambda face: face.box[2] * face.box[3] if face.box else 0, default=None)
        label = largest.label if largest else "no face"
        if self.stretches and self.stretches[-1][0] == label:
            self.stretches[-1] = (label, self.stretches[-1][1], seconds)
        else:
            self.stretches.append((label, seconds, seconds))

    def __str__(self) -> str:
        return ", ".join(f"{_clock(start)}-{_clock(end)} {label}" for label, start, end in self.stretches)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{seconds % 60:04.1f}"


def rows_of(source: Source, faces: Sequence[Prediction], classes: Sequence[str]) -> list[Row]:
    """The rows of one picture; one row without a label where it has no face."""
    head = {"picture": source.name, "seconds": source.seconds}
    keys = ("face", "x", "y", "width", "height", "label", "confidence", *(f"p_{name}" for name in classes))
    if not faces:
        return [head | dict.fromkeys(keys)]
    return [
        head
        | {"face": number, **dict(zip(("x", "y", "width", "height"), face.box or [None] * 4, strict=True))}
        | {"label": face.label, "confidence": face.confidence}
        | {f"p_{name}": face.probabilities[name] for name in classes}
        for number, face in enumerate(faces, start=1)
    ]


def line_of(source: Source, number: int, face: Prediction) -> str:
    """One face for a person to read: where, and its three best classes."""
    where = source.name if source.seconds is None else f"{source.name} {_clock(source.seconds)}"
    box = " at {},{} {}x{}".format(*face.box) if face.box else ""
    best, *others = face.top(3)
    answers = "  ".join([f"{best[0]} {best[1]:.0%}", *(f"{name} {share:.0%}" for name, share in others)])
    return f"{where}  face {number}{box}  {answers}"


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """All rows into a .csv, .json, .jsonl or .parquet file, whole or not at all."""
    with atomic_write(path) as aside:
        if path.suffix == ".parquet":
            import pandas as pd

            pd.DataFrame(rows).to_parquet(aside, index=False)
        else:
            with aside.open("w", encoding="utf-8", newline="") as file:
                if path.suffix == ".json":
                    json.dump(rows, file, indent=1)
                elif path.suffix == ".jsonl":
                    file.writelines(json.dumps(row) + "\n" for row in rows)
                else:
                    table = csv.DictWriter(file, list(rows[0]) if rows else ["picture"])
                    table.writeheader()
                    table.writerows(rows)


class Annotator:
    """Saves pictures with their faces boxed and named.

    Args:
        folder: Where to; a picture keeps its place below the folder that was named on the command line.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._taken: set[Path] = set()

    def save(self, source: Source, faces: Sequence[Prediction]) -> Path:
        """Draws and saves as PNG; two pictures of one name get different names."""
        picture = Image.fromarray(to_uint8(read_picture(source.image))).convert("RGB")
        draw = ImageDraw.Draw(picture)
        size = max(10, min(picture.size) // 24)
        font = ImageFont.load_default(size)
        for face in faces:
            x, y, width, height = face.box or (0, 0, *picture.size)
            draw.rectangle((x, y, x + width - 1, y + height - 1), outline=YELLOW, width=max(2, size // 8))
            text = f"{face.label} {face.confidence:.0%}"
            _, _, right, bottom = (int(side) + 3 for side in draw.textbbox((0, 0), text, font))
            x = max(0, min(x, picture.width - right))
            y = y - bottom if y >= bottom else max(0, y)  # above the box, or in it at the picture's upper edge
            draw.rectangle((x, y, x + right, y + bottom), fill=YELLOW)
            draw.text((x + 2, y + 1), text, "black", font)
        path = self._free(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        return path

    def _free(self, source: Source) -> Path:
        stem = source.below.stem if source.seconds is None else f"{source.below.stem}_{source.seconds:09.3f}s"
        below = self.folder / source.below.parent
        path, number = below / f"{stem}_faces.png", 1
        while path in self._taken:
            number += 1
            path = below / f"{stem}_faces_{number}.png"
        self._taken.add(path)
        return path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="fer predict",
        description="Names the expression of every face in pictures, folders of them, and videos.",
        epilog="At a terminal each face is a line with its three best classes; into a pipe goes csv. "
        "Exit status: 0 all was read, 1 some could not be, 2 wrong use.",
    )
    made.add_argument("inputs", nargs="+", metavar="FILE", help="picture, video or folder; - reads one from stdin")
    made.add_argument("--model", default="default", help="a bundled model's name, or a bundle's folder or zip")
    made.add_argument("--graph", default="float", help="float, or int8 where the bundle has it")
    how = made.add_mutually_exclusive_group()
    how.add_argument("--detect", dest="detect", action="store_true", default=True, help="find the faces (default)")
    how.add_argument("--whole", dest="detect", action="store_false", help="each picture is one face already cut out")
    made.add_argument("--detector", choices=("opencv", "mediapipe"), default="opencv", help="what finds the faces")
    made.add_argument(
        "--detector_model", type=Path, metavar="FILE", help="MediaPipe's model file, else downloaded once"
    )
    made.add_argument("--fps", type=float, default=1.0, help="frames a second to look at in videos (1)")
    made.add_argument("--out", type=Path, metavar="FILE", help=f"results as {', '.join(OUTPUTS)}")
    made.add_argument("--format", choices=("text", "csv", "jsonl"), help="of what goes to stdout")
    made.add_argument("--annotate", type=Path, metavar="FOLDER", help="save pictures with the faces boxed and named")
    return made


def main(arguments: Sequence[str]) -> int:
    """The verb; returns its exit status."""
    command = parser()
    options = command.parse_args(arguments)
    if options.out and options.out.suffix not in OUTPUTS:
        command.error(f"--out {options.out} must end in {', '.join(OUTPUTS)}")
    if options.out and options.out.suffix == ".parquet" and not (find_spec("pandas") and find_spec("pyarrow")):
        command.error(f"--out {options.out} needs pandas and pyarrow: pip install pandas pyarrow, or take .csv")
    if not 0 < options.fps < math.inf:
        command.error(f"--fps {options.fps:g} must be a number above 0")
    if options.annotate and options.annotate.resolve() in {Path(name).resolve() for name in options.inputs}:
        command.error(f"--annotate {options.annotate} is where pictures are read from: give another folder")
    try:
        if options.out:
            check_place(options.out, "--out")
        if options.annotate:
            check_place(options.annotate / "picture", "--annotate")
        return _run(options)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, ImportError, OSError) as error:
        print(f"fer predict: {error_message(error)}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    predictor = FERPredictor.load(options.model, graph=options.graph)
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    unread = 0

    def complain(sentence: str) -> None:
        nonlocal unread
        unread += 1
        errors.print(f"fer predict: {sentence}")

    classes = predictor.bundle.classes
    reader = Reader(options.fps, complain, options.annotate)
    listed = reader.listed(options.inputs)
    for file, below in listed:
        if options.annotate and (options.annotate / below.parent).resolve() == Path(file).resolve().parent:
            raise ValueError(f"--annotate {options.annotate} would write beside {file}: give another folder")
    annotator = Annotator(options.annotate) if options.annotate else None
    form = options.format or ("text" if sys.stdout.isatty() else "csv")
    show = _shower(form, classes) if options.out is None or options.format else None
    kept: list[Row] = []
    timelines: dict[str, Timeline] = {}
    waiting: deque[Source] = deque()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # rich would else send what is meant for a file to the terminal that stderr is
    progress = Progress(
        *columns,
        console=errors,
        disable=not errors.is_terminal,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )
    with progress:
        task = progress.add_task("reading", total=len(listed))

        def images() -> Iterator[Path | bytes | Pixels]:
            for file, below in listed:
                for source in reader.sources(file, below):
                    waiting.append(source)
                    yield source.image
                progress.advance(task)

        ahead = 4 if annotator else BATCH  # frames wait with their pixels for the box to be drawn
        answers = predictor.stream(images(), options.detect, detector=_finder(options), errors="return", batch=ahead)
        for answer in answers:
            source = waiting.popleft()
            if isinstance(answer, PictureError):
                sentence = str(answer)  # of a path it begins with the name, of others with their number
                named = isinstance(source.image, Path)
                complain(sentence if named else f"{source.name}: {sentence.partition(': ')[2]}")
                continue
            faces = answer if options.detect else [answer]
            if source.seconds is not None:
                timelines.setdefault(source.name, Timeline()).add(source.seconds, faces)
            elif not faces:
                errors.print(f"fer predict: {source.name}: no face found")
            if show:
                show(source, faces)
            if options.out:
                kept += rows_of(source, faces, classes)
            if annotator:
                annotator.save(source, faces)
    for name, timeline in timelines.items():
        errors.print(f"{name}: {timeline}")
    if options.out:
        write_rows(kept, options.out)
        pictures, found = (
            len({(row["picture"], row["seconds"]) for row in kept}),
            sum(bool(row["face"]) for row in kept),
        )
        errors.print(f"{_counted(found, 'face')} in {_counted(pictures, 'picture')}: {options.out}")
    sys.stdout.flush()
    return 1 if unread else 0


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _finder(options: argparse.Namespace) -> FaceDetector | str:
    """What finds the faces, or its name.

    Raises:
        ValueError: Another detector than MediaPipe is to take a model file.
    """
    if not options.detector_model:
        return str(options.detector)
    if options.detector != "mediapipe":
        raise ValueError("--detector_model is a file for --detector mediapipe")
    from fer_lightning.inference import detect  # which needs OpenCV

    return detect.detector(options.detector, model=options.detector_model)


def _shower(form: str, classes: Sequence[str]) -> Callable[[Source, Sequence[Prediction]], None]:
    """What prints the faces of one picture to stdout."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    if form == "csv":
        table.writerow(rows_of(Source("", b"", Path()), [], classes)[0])

    def show(source: Source, faces: Sequence[Prediction]) -> None:
        if form == "text":
            for number, face in enumerate(faces, start=1):
                print(line_of(source, number, face))
            return
        for row in rows_of(source, faces, classes):
            if form == "csv":
                table.writerow(row.values())
            else:
                print(json.dumps(row))

    return show
