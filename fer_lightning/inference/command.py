"""`python -m fer_lightning predict photo.jpg folder/ video.mp4`: facial expressions in images, folders and videos."""

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
from fer_lightning.inference.images import ImageError, Pixels
from fer_lightning.inference.media import Reader, Source
from fer_lightning.inference.predict import BATCH, FERPredictor, Prediction
from fer_lightning.inference.results import OUTPUTS, Row, Timeline, printer, rows_of, write_rows

if TYPE_CHECKING:
    from fer_lightning.inference.detect import FaceDetector


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(
        prog="fer predict",
        usage="python -m fer_lightning predict [options] FILE ...",
        description="Predicts the facial expression of every face in images, folders and videos.",
        epilog="Prints one line per face with its three most probable classes at a terminal, csv otherwise. "
        "Exit status: 0 all images read, 1 some could not be read, 2 usage error.",
    )
    parser.add_argument("inputs", nargs="+", metavar="FILE", help="image, video or folder; - reads an image from stdin")
    parser.add_argument(
        "--model", default="default", help="name of a bundled model, or path of a bundle (default: default)"
    )
    parser.add_argument("--graph", default="float", help="float, or int8 if the bundle has it (default: float)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--detect", dest="detect", action="store_true", default=True, help="detect faces first (default)")
    mode.add_argument("--whole", dest="detect", action="store_false", help="each image is one cropped face")
    parser.add_argument(
        "--detector", choices=("opencv", "mediapipe"), default="opencv", help="face detector (default: opencv)"
    )
    parser.add_argument(
        "--detector_model", type=Path, metavar="FILE", help="MediaPipe's model file; downloaded once if not given"
    )
    parser.add_argument("--fps", type=float, default=1.0, help="frames per second to read from videos (default: 1)")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"write results to {', '.join(OUTPUTS)}")
    parser.add_argument("--format", choices=("text", "csv", "jsonl"), help="format of stdout")
    parser.add_argument(
        "--annotate", type=Path, metavar="FOLDER", help="save images with boxes and labels drawn around faces"
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand and return its exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.out and options.out.suffix not in OUTPUTS:
        parser.error(f"--out {options.out} must end in {', '.join(OUTPUTS)}")
    if options.out and options.out.suffix == ".parquet" and not (find_spec("pandas") and find_spec("pyarrow")):
        parser.error(f"--out {options.out} needs pandas and pyarrow: pip install pandas pyarrow, or use .csv")
    if not 0 < options.fps < math.inf:
        parser.error(f"--fps {options.fps:g} must be a number above 0")
    if options.annotate and options.annotate.resolve() in {Path(name).resolve() for name in options.inputs}:
        parser.error(f"--annotate {options.annotate} is also an input: give another folder")
    try:
        if options.out:
            check_writable(options.out, "--out")
        if options.annotate:
            check_writable(options.annotate / "image", "--annotate")
        return _run(options)
    except BrokenPipeError:  # the reader of the pipe has closed it, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, ImportError, OSError) as error:
        print(f"fer predict: {error_message(error)}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    predictor = FERPredictor.load(options.model, graph=options.graph)
    messages = _Messages()
    reader = Reader(options.fps, messages.unreadable, options.annotate)
    files = reader.list_files(options.inputs)
    if options.annotate:
        _check_not_beside_inputs(options.annotate, files)
    results = _Results(options, predictor.bundle.classes, messages)
    with _progress(messages.console) as progress:
        task = progress.add_task("reading", total=len(files))

        def sources() -> Iterator[Source]:
            for file, relative_path in files:
                yield from reader.sources(file, relative_path)
                progress.advance(task)

        for source, result in _predictions(predictor, sources(), options):
            if isinstance(result, ImageError):
                messages.unreadable(_error_text(source, result))
            else:
                results.add(source, result)
    results.finish()
    sys.stdout.flush()
    return 1 if messages.unreadable_count else 0


class _Messages:
    """Prints messages to stderr, one per line.

    Attributes:
        console: Writes to stderr.
        unreadable_count: Number of inputs that could not be read.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        self.unreadable_count = 0

    def unreadable(self, message: str) -> None:
        """Report why an input could not be read, and count it."""
        self.unreadable_count += 1
        self.warn(message)

    def warn(self, message: str) -> None:
        """Print a message about an input."""
        self.console.print(f"fer predict: {message}")


class _Results:
    """Writes predictions to stdout, a file, annotated images and the timelines of videos.

    Args:
        options: The parsed command line.
        classes: Class names in the order of the bundle.
        messages: Prints warnings and the summary.
    """

    def __init__(self, options: argparse.Namespace, classes: Sequence[str], messages: _Messages) -> None:
        self._out: Path | None = options.out
        self._classes = classes
        self._messages = messages
        self._annotator = Annotator(options.annotate) if options.annotate else None
        format_name = options.format or ("text" if sys.stdout.isatty() else "csv")
        self._show = printer(format_name, classes) if options.out is None or options.format else None
        self._rows: list[Row] = []
        self._timelines: dict[str, Timeline] = {}

    def add(self, source: Source, faces: Sequence[Prediction]) -> None:
        """Add the faces of one image or frame."""
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
        """Print the timelines and write the output file."""
        for name, timeline in self._timelines.items():
            self._messages.console.print(f"{name}: {timeline}")
        if self._out:
            write_rows(self._rows, self._out)
            images = len({(row["image"], row["seconds"]) for row in self._rows})
            faces = sum(bool(row["face"]) for row in self._rows)
            counts = f"{_count(faces, 'face')} in {_count(images, 'image')}"
            self._messages.console.print(f"{counts}: {self._out}")


def _predictions(
    predictor: FERPredictor, sources: Iterable[Source], options: argparse.Namespace
) -> Iterator[tuple[Source, list[Prediction] | ImageError]]:
    """Yield every image with the predictions for its faces, or with the error that occurred."""
    pending: deque[Source] = deque()

    def images() -> Iterator[Path | bytes | Pixels]:
        for source in sources:
            pending.append(source)
            yield source.image

    batch = 4 if options.annotate else BATCH  # pending frames hold their pixels in memory
    results = predictor.stream(images(), options.detect, detector=_detector(options), errors="return", batch=batch)
    for result in results:
        yield pending.popleft(), [result] if isinstance(result, Prediction) else result


def _error_text(source: Source, error: ImageError) -> str:
    """Return the error message of an image, starting with its name."""
    if isinstance(source.image, Path):
        return str(error)
    return f"{source.name}: {str(error).partition(': ')[2]}"  # instead of its number


def _progress(errors: Console) -> Progress:
    """Return a progress bar that counts files; disabled if stderr is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=errors,
        disable=not errors.is_terminal,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # otherwise rich sends redirected stdout to the terminal
    )


def _check_not_beside_inputs(folder: Path, files: Sequence[tuple[Path | str, Path]]) -> None:
    """Check that no annotated image would be saved in the folder of its original.

    Args:
        folder: Of `--annotate`.
        files: Input files with their relative paths, as from `Reader.list_files`.

    Raises:
        ValueError: An annotated image would be saved beside its original.
    """
    for file, relative_path in files:
        if (folder / relative_path.parent).resolve() == Path(file).resolve().parent:
            raise ValueError(f"--annotate {folder} would write to the folder of {file}: give another folder")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _detector(options: argparse.Namespace) -> FaceDetector | str:
    """Return the face detector, or its name.

    Raises:
        ValueError: A model file is given for a detector other than MediaPipe.
    """
    if not options.detector_model:
        return str(options.detector)
    if options.detector != "mediapipe":
        raise ValueError("--detector_model needs --detector mediapipe")
    from fer_lightning.inference import detect  # needs OpenCV

    return detect.detector(options.detector, model=options.detector_model)
