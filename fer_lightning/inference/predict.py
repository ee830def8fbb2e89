"""FERPredictor: pictures in, expressions out. Needs NumPy, Pillow and ONNX Runtime, and nothing that trains."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fer_lightning.inference.bundle import Bundle, BundleError
from fer_lightning.inference.images import PictureError, Pixels, read_picture, to_input, to_uint8

if TYPE_CHECKING:
    from fer_lightning.inference.detect import FaceDetector

__all__ = ["Box", "FERPredictor", "PictureError", "Prediction"]

Box = tuple[int, int, int, int]
"""x, y, width, height in pixels of the picture, from its upper left corner."""

BATCH: Final = 64
"""Faces that the graph sees at once."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one face.

    Attributes:
        label: The most probable class.
        confidence: Its probability.
        probabilities: Of every class, in the order of the bundle.
        box: Where the face was; None where the whole picture was taken as one face.
    """

    label: str
    confidence: float
    probabilities: dict[str, float]
    box: Box | None = None

    def top(self, count: int = 3) -> list[tuple[str, float]]:
        """The `count` most probable classes with their probabilities, best first."""
        return sorted(self.probabilities.items(), key=lambda pair: -pair[1])[:count]


class FERPredictor:
    """Names the expression of faces in pictures; may be shared by threads.

    Args:
        bundle: The exported network.
        graph: `float`, or `int8` where the bundle has it.
        threads: That one batch may use; None for as many as there are cores.

    Raises:
        BundleError: The graph is damaged or does not fit what the bundle says of it.
        ImportError: ONNX Runtime is not installed.
    """

    def __init__(self, bundle: Bundle, graph: str = "float", threads: int | None = None) -> None:
        self.bundle = bundle
        self.graph = graph
        self._session = _session(bundle, graph, threads)

    @classmethod
    def load(
        cls, name_or_path: str | Path = "default", *, graph: str = "float", threads: int | None = None
    ) -> FERPredictor:
        """A predictor from a bundled model's name, a bundle's folder or its zip; the rest is as for the class."""
        return cls(Bundle.load(name_or_path), graph, threads)

    @overload
    def predict(
        self, images: Any, detect: Literal[False] = ..., *, errors: Literal["raise"] = ...
    ) -> list[Prediction]: ...
    @overload
    def predict(
        self, images: Any, detect: Literal[True], *, detector: FaceDetector | str = ..., errors: Literal["raise"] = ...
    ) -> list[list[Prediction]]: ...
    @overload
    def predict(
        self, images: Any, detect: bool = ..., *, detector: FaceDetector | str = ..., errors: str = ...
    ) -> list[Any]: ...
    def predict(
        self,
        images: Any,
        detect: bool = False,
        *,
        detector: FaceDetector | str = "opencv",
        errors: str = "raise",
    ) -> list[Any]:
        """The expressions in one or many pictures.

        Args:
            images: One picture or an iterable of them, each a path, bytes of a file, an open file, a Pillow image, an
                array or a tensor of any size (`images.read_picture`); an array of four dimensions is many pictures.
                Paths are read as they are needed, so thousands take no more memory than 64 faces.
            detect: Find the faces first; otherwise the whole picture is one face.
            detector: What finds them, or its name for `detect.detector`.
            errors: `raise` stops at the first picture that cannot be used; `return` puts its `PictureError` into its
                place, so that the others go through.

        Returns:
            One answer a picture, in order, also for one picture: a `Prediction`, or with `detect` a list of them,
            empty where no face was found.

        Raises:
            PictureError: A picture cannot be used; it says which and why.
            ValueError: An argument is none of its values.
        """
        return list(self.stream(images, detect, detector=detector, errors=errors))

    def stream(
        self,
        images: Any,
        detect: bool = False,
        *,
        detector: FaceDetector | str = "opencv",
        errors: str = "raise",
        batch: int = BATCH,
    ) -> Iterator[Any]:
        """As `predict`, but each answer comes when its batch is done; takes at most `batch` pictures ahead."""
        if errors not in ("raise", "return"):
            raise ValueError(f"errors is {errors!r}; it must be 'raise' or 'return'")
        find = _detector(detector) if detect else None
        waiting: list[PictureError | list[Box | None]] = []
        faces: list[NDArray[np.float32]] = []
        for number, image in enumerate(_each(images), start=1):
            try:
                found, inputs = self._faces(read_picture(image, f"picture {number}"), find)
            except PictureError as error:
                if errors == "raise":
                    raise
                waiting.append(error)
            else:
                waiting.append(found)
                faces += inputs
            if len(waiting) >= batch or len(faces) >= BATCH:
                yield from self._answers(waiting, faces, detect)
                waiting, faces = [], []
        yield from self._answers(waiting, faces, detect)

    def prepare(self, image: Any) -> NDArray[np.float32]:
        """A whole picture as the graph takes it: float32 (channels, input_size, input_size) in [0, 1]."""
        return to_input(read_picture(image), self.bundle.input_size, self.bundle.channels)

    def logits(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Output of the graph, (B, classes), for prepared faces, (B, channels, input_size, input_size)."""
        batches = [inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH)]
        answers = [self._session.run(["logits"], {"image": batch})[0] for batch in batches]
        return np.concatenate(answers) if answers else np.empty((0, len(self.bundle.classes)), np.float32)

    def probabilities(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """The softmax of `logits`, (B, classes)."""
        logits = self.logits(inputs).astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)

    def _faces(self, pixels: Pixels, find: FaceDetector | None) -> tuple[list[Box | None], list[NDArray[np.float32]]]:
        """The faces of a picture, ready for the graph, and where they were."""
        size, channels = self.bundle.input_size, self.bundle.channels
        if find is None:
            return [None], [to_input(pixels, size, channels)]
        from fer_lightning.inference.detect import crop

        whole = to_uint8(pixels)
        found = find(whole)
        return [face.box for face in found], [to_input(crop(whole, face), size, channels) for face in found]

    def _answers(
        self,
        waiting: Sequence[PictureError | list[Box | None]],
        faces: Sequence[NDArray[np.float32]],
        detect: bool,
    ) -> Iterator[Any]:
        rows = iter(self.probabilities(np.stack(faces))) if faces else iter(())
        for found in waiting:
            if isinstance(found, PictureError):
                yield found
                continue
            answers = [self._prediction(next(rows), box) for box in found]
            yield answers if detect else answers[0]

    def _prediction(self, row: NDArray[np.float64], box: Box | None) -> Prediction:
        probabilities = dict(zip(self.bundle.classes, row.tolist(), strict=True))
        label = self.bundle.classes[int(row.argmax())]
        return Prediction(label, probabilities[label], probabilities, box)


def _each(images: Any) -> Iterable[Any]:
    """One picture as the only one of many."""
    if isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)) or hasattr(images, "read"):
        return [images]
    if hasattr(images, "__array__"):
        dimensions = getattr(images, "ndim", None) or np.asarray(images).ndim
        return images if dimensions in (1, 4) else [images]  # one: a column of paths
    if isinstance(images, Iterable):
        return images
    return [images]


def _detector(detector: FaceDetector | str) -> FaceDetector:
    if not isinstance(detector, str):
        return detector
    from fer_lightning.inference import detect

    by_name: Callable[[str], FaceDetector] = detect.detector
    return by_name(detector)


def open_session(graph: bytes, threads: int | None) -> Any:
    """An ONNX Runtime session on the CPU.

    Args:
        graph: The content of an ONNX file.
        threads: For one batch; None for as many as there are cores.

    Raises:
        ImportError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ImportError("predicting needs ONNX Runtime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3  # errors alone
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _session(bundle: Bundle, graph: str, threads: int | None) -> Any:
    content = bundle.read_graph(graph)
    try:
        session = open_session(content, threads)
        [image], [logits] = session.get_inputs(), session.get_outputs()
    except ImportError:
        raise
    except Exception as error:  # ONNX Runtime raises classes of its own, all right below Exception
        raise BundleError(f"{bundle.place}: ONNX Runtime cannot run its {graph} graph ({error})") from None
    size = bundle.input_size
    wanted = ("image", [bundle.channels, size, size], "logits", [len(bundle.classes)])
    if (image.name, image.shape[1:], logits.name, logits.shape[1:]) != wanted:
        raise BundleError(f"{bundle.place}: its {graph} graph does not fit what bundle.json says of size and classes")
    return session
