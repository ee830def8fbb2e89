"""Compares the outputs of exports with those of the network in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from fer_lightning.export.graphs import Faces, Runner
from fer_lightning.inference.predict import BATCH
from fer_lightning.models.cost import median_milliseconds

MAX_DIFFERENCE: Final = 1e-4
"""Largest allowed difference between the probabilities of PyTorch and of a float export."""

MAX_INT8_LOSS: Final = 0.01
"""Largest allowed loss of accuracy on the test part."""


class ExportError(Exception):
    """An export deviates too much from the network in PyTorch."""


@dataclass(frozen=True)
class Parity:
    """Comparison of an export with PyTorch.

    Attributes:
        max_probability_difference: Largest over the compared faces of the val and test parts and all classes.
        max_logit_difference: The same for logits.
        agreement: Fraction of these faces with the same predicted class.
        faces: Number of compared faces.
        test_accuracy: Accuracy on the whole test part, with one view of each image.
        bytes: File size.
        milliseconds: Median time for one face on one thread.
    """

    max_probability_difference: float
    max_logit_difference: float
    agreement: float
    faces: int
    test_accuracy: float
    bytes: int
    milliseconds: float


def compare(
    runners: Mapping[str, tuple[Runner, Path | None]], faces: Faces, test_faces: Faces, test_labels: NDArray[np.int64]
) -> dict[str, Parity]:
    """Compare all runners with the first one, which is PyTorch.

    Args:
        runners: Each runner by name, with its file.
        faces: Faces to compare outputs on.
        test_faces: Faces to compute the accuracy on.
        test_labels: Labels of `test_faces`.
    """
    rows = {}
    reference: Faces | None = None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, (run, path) in runners.items():
            logits = run_in_batches(run, faces)
            reference = logits if reference is None else reference
            rows[name] = Parity(
                max_probability_difference=float(np.abs(_softmax(logits) - _softmax(reference)).max()),
                max_logit_difference=float(np.abs(logits - reference).max()),
                agreement=float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean()),
                faces=len(faces),
                test_accuracy=accuracy(run_in_batches(run, test_faces), test_labels),
                bytes=path.stat().st_size if path else 0,
                milliseconds=median_milliseconds(partial(run, faces[:1])),
            )
    finally:
        torch.set_num_threads(threads)
    return rows


def check_parity(parity: Mapping[str, Parity]) -> None:
    """Check that no export deviates too much from PyTorch.

    Raises:
        ExportError: An export does; the message names it.
    """
    required = parity["PyTorch"].test_accuracy - MAX_INT8_LOSS
    for name, row in parity.items():
        if name.endswith("int8"):
            if row.test_accuracy < required:
                loss = 100 * (parity["PyTorch"].test_accuracy - row.test_accuracy)
                raise ExportError(f"{name} loses {loss:.1f} points of accuracy, more than {100 * MAX_INT8_LOSS:g}")
        elif not row.max_probability_difference <= MAX_DIFFERENCE:
            raise ExportError(
                f"{name} differs from PyTorch by {row.max_probability_difference:.1e}, more than {MAX_DIFFERENCE:g}"
            )


def accuracy(logits: Faces, labels: NDArray[np.int64]) -> float:
    """Fraction of correct predictions."""
    return float((logits.argmax(axis=1) == labels).mean())


def run_in_batches(run: Runner, faces: Faces) -> Faces:
    """Logits of any number of faces."""
    return np.concatenate([run(faces[start : start + BATCH]) for start in range(0, len(faces), BATCH)])


def _softmax(logits: Faces) -> NDArray[np.float64]:
    return torch.from_numpy(logits).double().softmax(dim=1).numpy()


def parity_table(parity: Mapping[str, Parity], data: str) -> Table:
    """Return the parity report; `data` names the data set and the protocol."""
    faces = next(iter(parity.values())).faces
    table = Table(
        title=f"Comparison with PyTorch on {faces:,} faces of {data}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    table.add_column("", no_wrap=True)
    for column in (
        "probability\ndifference",
        "logit\ndifference",
        "same\nclass",
        "test\naccuracy",
        "\nMB",
        "ms per\nface",
    ):
        table.add_column(column, justify="right")
    for name, row in parity.items():
        table.add_row(
            name,
            f"{row.max_probability_difference:.1e}",
            f"{row.max_logit_difference:.1e}",
            f"{row.agreement:.1%}",
            f"{row.test_accuracy:.2%}",
            f"{row.bytes / 1e6:.2f}" if row.bytes else "",
            f"{row.milliseconds:.2f}",
        )
    return table
