"""Compares the answers of an export with those of the network that it was made from."""

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
"""Between PyTorch's probabilities and those of a float export."""

MAX_INT8_LOSS: Final = 0.01
"""Of accuracy on the test part."""


class ExportError(Exception):
    """An export answers otherwise than the network it was made from."""


@dataclass(frozen=True)
class Parity:
    """How an export answers beside PyTorch.

    Attributes:
        max_probability_difference: The largest over faces of the val and test parts and all classes.
        max_logit_difference: Likewise.
        agreement: Share of these faces that get the same label.
        faces: Their number.
        test_accuracy: On the whole test part, one look at each picture.
        bytes: Size of the file.
        milliseconds: Median for one face on one thread.
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
    """Measures exports against the first of them, which is PyTorch.

    Args:
        runners: What answers, and its file.
        faces: Compared one by one.
        test_faces: Scored.
        test_labels: Their labels.
    """
    rows = {}
    reference: Faces | None = None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, (run, path) in runners.items():
            logits = in_batches(run, faces)
            reference = logits if reference is None else reference
            rows[name] = Parity(
                max_probability_difference=float(np.abs(_softmax(logits) - _softmax(reference)).max()),
                max_logit_difference=float(np.abs(logits - reference).max()),
                agreement=float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean()),
                faces=len(faces),
                test_accuracy=accuracy(in_batches(run, test_faces), test_labels),
                bytes=path.stat().st_size if path else 0,
                milliseconds=median_milliseconds(partial(run, faces[:1])),
            )
    finally:
        torch.set_num_threads(threads)
    return rows


def check(parity: Mapping[str, Parity]) -> None:
    """Lets exports pass that answer as PyTorch does.

    Raises:
        ExportError: One does not; the message names it.
    """
    goal = parity["PyTorch"].test_accuracy - MAX_INT8_LOSS
    for name, row in parity.items():
        if name.endswith("int8"):
            if row.test_accuracy < goal:
                lost = 100 * (parity["PyTorch"].test_accuracy - row.test_accuracy)
                raise ExportError(f"{name} loses {lost:.1f} points of accuracy, more than {100 * MAX_INT8_LOSS:g}")
        elif not row.max_probability_difference <= MAX_DIFFERENCE:
            raise ExportError(
                f"{name} differs from PyTorch by {row.max_probability_difference:.1e}, more than {MAX_DIFFERENCE:g}"
            )


def accuracy(logits: Faces, labels: NDArray[np.int64]) -> float:
    """The share of right answers."""
    return float((logits.argmax(axis=1) == labels).mean())


def in_batches(run: Runner, faces: Faces) -> Faces:
    """The logits of any number of faces."""
    return np.concatenate([run(faces[start : start + BATCH]) for start in range(0, len(faces), BATCH)])


def _softmax(logits: Faces) -> NDArray[np.float64]:
    return torch.from_numpy(logits).double().softmax(dim=1).numpy()


def parity_table(parity: Mapping[str, Parity], where: str) -> Table:
    """The parity report; `where` names the data and the protocol."""
    faces = next(iter(parity.values())).faces
    table = Table(
        title=f"Against PyTorch on {faces:,} faces of {where}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    table.add_column("", no_wrap=True)
    for column in ("probability\noff by", "logit\noff by", "same\nlabel", "test\naccuracy", "\nMB", "ms a\nface"):
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
