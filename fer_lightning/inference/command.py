"""`python -m fer_lightning predict photo.jpg folder/ video.mp4`: expressions in pictures, folders and videos."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fer_lightning.files import check_writable, error_message
from fer_lightning.inference.annotate import Annotator
from fer_lightning.inference.images import PictureError, Pixels
from fer_lightning.inference.media import Reader, Source
from fer_lightning.inference.predict import BATCH, FERPredictor, Prediction
from fer_lightning.inference.results import OUTPUTS, Row, Timeline, printer, rows_of, write_rows

if TYPE_CHECKING:
    from fer_lightning.inference.detect import FaceDetector


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
            check_writable(options.out, "--out")
        if options.annotate:
            check_writable(options.annotate / "picture", "--annotate")
        return _run(options)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, ImportError, OSError) as error:
        print(f"fer predict: {error_message(error)}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    predictor = FERPredictor.load(options.model, graph=options.graph)
    messages = _Messages()
    reader = Reader(options.fps, messages.unreadable, options.annotate)
    listed = reader.listed(options.inputs)
    if options.annotate:
        _refuse_beside(options.annotate, listed)
    results = _Results(options, predictor.bundle.classes, messages)
    with _progress(messages.console) as progress:
        task = progress.add_task("reading", total=len(listed))

        def sources() -> Iterator[Source]:
            for file, below in listed:
                yield from reader.sources(file, below)
                progress.advance(task)

        for source, answer in _answers(predictor, sources(), options):
            if isinstance(answer, PictureError):
                messages.unreadable(_sentence(source, answer))
            else:
                results.add(source, answer)
    results.finish()
    sys.stdout.flush()
    return 1 if messages.unread else 0


class _Messages:
    """Messages on stderr, one a line.

    Attributes:
        console: Writes to stderr.
        unread: How many inputs could not be read.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        self.unread = 0

    def unreadable(self, sentence: str) -> None:
        """Says why an input could not be read, and counts it."""
        self.unread += 1
        self.warn(sentence)

    def warn(self, sentence: str) -> None:
        """Says something about an input."""
        self.console.print(f"fer predict: {sentence}")


class _Results:
    """Where predictions go: stdout, a file, annotated pictures, and the timelines of videos.

    Args:
        options: The command line.
        classes: In the order of the bundle.
        messages: Gets what is no result.
    """

    def __init__(self, options: argparse.Namespace, classes: Sequence[str], messages: _Messages) -> None:
        self._out: Path | None = options.out
        self._classes = classes
        self._messages = messages
        self._annotator = Annotator(options.annotate) if options.annotate else None
        form = options.format or ("text" if sys.stdout.isatty() else "csv")
        self._show = printer(form, classes) if options.out is None or options.format else None
        self._rows: list[Row] = []
        self._timelines: dict[str, Timeline] = {}

    def add(self, source: Source, faces: Sequence[Prediction]) -> None:
        """The faces of one picture or frame."""
        if source.seconds is not None:
            self._timelines.setdefault(source.name, Timeline()).add(source.seconds, faces)
        elif not faces:
            self._messages.warn(f"{source.name}: no face found")
        if self._show:
            self._show(source, faces)
        if self._out:
            self._rows += rows_of(source, faces, self._classes)
        if self._annotator:
            self._annotator.save(source, faces)

    def finish(self) -> None:
        """Prints the timelines and writes the file."""
        for name, timeline in self._timelines.items():
            self._messages.console.print(f"{name}: {timeline}")
        if self._out:
            write_rows(self._rows, self._out)
            pictures = len({(row["picture"], row["seconds"]) for row in self._rows})
            found = sum(bool(row["face"]) for row in self._rows)
            counts = f"{_counted(found, 'face')} in {_counted(pictures, 'picture')}"
            self._messages.console.print(f"{counts}: {self._out}")


def _answers(
    predictor: FERPredictor, sources: Iterable[Source], options: argparse.Namespace
) -> Iterator[tuple[Source, list[Prediction] | PictureError]]:
    """Every picture with its faces, or with why it could not be read."""
    waiting: deque[Source] = deque()

    def images() -> Iterator[Path | bytes | Pixels]:
        for source in sources:
            waiting.append(source)
            yield source.image

    ahead = 4 if options.annotate else BATCH  # frames wait with their pixels for the box to be drawn
    answers = predictor.stream(images(), options.detect, detector=_finder(options), errors="return", batch=ahead)
    for answer in answers:
        whole = isinstance(answer, Prediction)  # the only face of its picture
        yield waiting.popleft(), [answer] if whole else answer


def _sentence(source: Source, error: PictureError) -> str:
    """What is wrong with a picture; begins with its name."""
    if isinstance(source.image, Path):
        return str(error)
    return f"{source.name}: {str(error).partition(': ')[2]}"  # in place of its number


def _progress(errors: Console) -> Progress:
    """A bar that counts files, at a terminal alone."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=errors,
        disable=not errors.is_terminal,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # rich would else send what is meant for a file to stderr's terminal
    )


def _refuse_beside(folder: Path, listed: Sequence[tuple[Path | str, Path]]) -> None:
    """Refuses to save annotated pictures beside the pictures that they are of.

    Raises:
        ValueError: The folder is where one of these files, with its place below what was named, lies.
    """
    for file, below in listed:
        if (folder / below.parent).resolve() == Path(file).resolve().parent:
            raise ValueError(f"--annotate {folder} would write beside {file}: give another folder")


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
