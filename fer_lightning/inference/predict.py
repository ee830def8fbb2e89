"""Prediction of facial expressions in images. Needs only NumPy, Pillow and ONNX Runtime."""

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
from fer_lightning.inference.images import ImageError, Pixels, read_image, to_input, to_uint8

if TYPE_CHECKING:
    from fer_lightning.inference.detect import FaceDetector

__all__ = ["Box", "FERPredictor", "ImageError", "Prediction"]

Box = tuple[int, int, int, int]
"""x, y, width, height in pixels, from the upper left corner of the image."""

BATCH: Final = 64
"""Faces per batch."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one face.

    Attributes:
        label: The most probable class.
        confidence: Probability of `label`.
        probabilities: Probability of every class, in the order of the bundle.
        box: Bounding box of the face; None if the whole image is one face.
    """

    label: str
    confidence: float
    probabilities: dict[str, float]
    box: Box | None = None

    @classmethod
    def of(cls, classes: Sequence[str], row: NDArray[np.floating], box: Box | None = None) -> Prediction:
        """Return the prediction from the probabilities of all classes, float (C,)."""
        best = int(row.argmax())
        return cls(classes[best], float(row[best]), dict(zip(classes, row.tolist(), strict=True)), box)

    def top(self, count: int = 3) -> list[tuple[str, float]]:
        """Return the `count` most probable classes with their probabilities, in descending order."""
        return sorted(self.probabilities.items(), key=lambda pair: -pair[1])[:count]


class FERPredictor:
    """Predicts the facial expressions of faces in images; thread-safe.

    Args:
        bundle: The exported network.
        graph: `float`, or `int8` if the bundle has it.
        threads: Threads per batch; None for the number of cores.

    Raises:
        BundleError: The graph is damaged or does not match the description of the bundle.
        ImportError: ONNX Runtime is not installed.
    """

    def __init__(self, bundle: Bundle, graph: str = "float", threads: int | None = None) -> None:
        self.bundle = bundle
        self.graph = graph
        self._session = _open_graph(bundle, graph, threads)

    @classmethod
    def load(
        cls, name_or_path: str | Path = "default", *, graph: str = "float", threads: int | None = None
    ) -> FERPredictor:
        """Load a bundled model by its name, or a bundle by the path of its folder or zip; see the class."""
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
        """Predict the facial expressions in one or many images.

        Args:
            images: One image or an iterable of images, each a path, the bytes of a file, an open file, a Pillow image,
                an array or a tensor of any size (see `images.read_image`); a four-dimensional array is a batch. Paths
                are read lazily, so thousands need no more memory than 64 faces.
            detect: Detect faces first; otherwise each whole image is one face.
            detector: Face detector, or its name for `detect.detector`.
            errors: `raise` stops at the first image that cannot be used; `return` returns its `ImageError` in place
                of a prediction and continues.

        Returns:
            One element per image, in order, also for a single image: a `Prediction`, or with `detect` a list of
            predictions, empty if no face was found.

        Raises:
            ImageError: An image cannot be used; the message names it and the reason.
            ValueError: `errors` or `detector` is unknown.
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
        """Like `predict`, but yields each result when its batch is done, reading at most `batch` images ahead."""
        if errors not in ("raise", "return"):
            raise ValueError(f"errors is {errors!r}; it must be 'raise' or 'return'")
        find = _resolve_detector(detector) if detect else None
        pending: list[ImageError | list[Box | None]] = []
        faces: list[NDArray[np.float32]] = []
        for number, image in enumerate(_as_iterable(images), start=1):
            try:
                found, inputs = self._extract_faces(read_image(image, f"image {number}"), find)
            except ImageError as error:
                if errors == "raise":
                    raise
                pending.append(error)
            else:
                pending.append(found)
                faces += inputs
            if len(pending) >= batch or len(faces) >= BATCH:
                yield from self._predictions(pending, faces, detect)
                pending, faces = [], []
        yield from self._predictions(pending, faces, detect)

    def prepare(self, image: Any) -> NDArray[np.float32]:
        """Convert a whole image to the input of the graph: float32 (channels, input_size, input_size) in [0, 1]."""
        return to_input(read_image(image), self.bundle.input_size, self.bundle.channels)

    def logits(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits, (B, classes), of prepared faces, (B, channels, input_size, input_size)."""
        batches = [inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH)]
        outputs = [self._session.run(["logits"], {"image": batch})[0] for batch in batches]
        return np.concatenate(outputs) if outputs else np.empty((0, len(self.bundle.classes)), np.float32)

    def probabilities(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the softmax of `logits`, (B, classes)."""
        logits = self.logits(inputs).astype(np.float64)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float64)

    def _extract_faces(
        self, pixels: Pixels, find: FaceDetector | None
    ) -> tuple[list[Box | None], list[NDArray[np.float32]]]:
        """Return the boxes of the faces of an image, and the faces as inputs of the graph."""
        size, channels = self.bundle.input_size, self.bundle.channels
        if find is None:
            return [None], [to_input(pixels, size, channels)]
        from fer_lightning.inference.detect import crop

        image = to_uint8(pixels)
        found = find(image)
        return [face.box for face in found], [to_input(crop(image, face), size, channels) for face in found]

    def _predictions(
        self,
        pending: Sequence[ImageError | list[Box | None]],
        faces: Sequence[NDArray[np.float32]],
        detect: bool,
    ) -> Iterator[Any]:
        rows = iter(self.probabilities(np.stack(faces))) if faces else iter(())
        for found in pending:
            if isinstance(found, ImageError):
                yield found
                continue
            predictions = [Prediction.of(self.bundle.classes, next(rows), box) for box in found]
            yield predictions if detect else predictions[0]


def _as_iterable(images: Any) -> Iterable[Any]:
    """Wrap a single image in a list."""
    if isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)) or hasattr(images, "read"):
        return [images]
    if hasattr(images, "__array__"):
        dimensions = getattr(images, "ndim", None) or np.asarray(images).ndim
        return images if dimensions in (1, 4) else [images]  # one-dimensional: a column of paths
    if isinstance(images, Iterable):
        return images
    return [images]


def _resolve_detector(detector: FaceDetector | str) -> FaceDetector:
    if not isinstance(detector, str):
        return detector
    from fer_lightning.inference import detect

    by_name: Callable[[str], FaceDetector] = detect.detector
    return by_name(detector)


def open_session(graph: bytes, threads: int | None) -> Any:
    """Create an ONNX Runtime session on the CPU.

    Args:
        graph: The content of an ONNX file.
        threads: Threads per batch; None for the number of cores.

    Raises:
        ImportError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ImportError("prediction needs ONNX Runtime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _open_graph(bundle: Bundle, graph: str, threads: int | None) -> Any:
    content = bundle.read_graph(graph)
    try:
        session = open_session(content, threads)
        [image], [logits] = session.get_inputs(), session.get_outputs()
    except ImportError:
        raise
    except Exception as error:  # ONNX Runtime raises its own subclasses of Exception
        raise BundleError(f"{bundle.path}: ONNX Runtime cannot run its {graph} graph ({error})") from None
    size = bundle.input_size
    expected = ("image", [bundle.channels, size, size], "logits", [len(bundle.classes)])
    if (image.name, image.shape[1:], logits.name, logits.shape[1:]) != expected:
        raise BundleError(f"{bundle.path}: its {graph} graph does not match the input and classes in bundle.json")
    return session
