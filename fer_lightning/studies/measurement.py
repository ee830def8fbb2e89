"""A measurement, read from its output folder, for the studies that compare predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fer_lightning.reporting.records import read_record
from fer_lightning.reporting.report import read_predictions
from fer_lightning.run_folder import BEST, PREDICTIONS, RECORD, run_of

Classes = NDArray[np.int64]


@dataclass(frozen=True)
class Measurement:
    """A measurement, read from its output folder.

    Attributes:
        folder: The folder.
        record: Its record.json.
        table: Its predictions.parquet, sorted by position.
    """

    folder: Path
    record: Mapping[str, Any]
    table: pd.DataFrame

    @classmethod
    def read(cls, path: Path) -> Measurement:
        """Read a measurement from its folder, or from the run of a `best.ckpt`.

        Raises:
            FileNotFoundError: The folder holds no measurement.
            ValueError: A file of it is damaged.
        """
        folder = run_of(path) if path.name == Path(BEST).name else path
        if not (folder / PREDICTIONS).is_file() or not (folder / RECORD).is_file():
            raise FileNotFoundError(
                f"{path} is not a folder with {RECORD} and {PREDICTIONS}; give a finished run or an ensemble, "
                "or measure a checkpoint first with python -m fer_lightning evaluate checkpoint=..."
            )
        record = read_record(folder / RECORD, "data", "data_fingerprint", "protocol")
        return cls(folder, record, read_predictions(folder))

    @property
    def classes(self) -> list[str]:
        """The class names in order."""
        return [name.removeprefix("p_") for name in self.table.columns if name.startswith("p_")]

    def positions(self, column: str) -> Classes:
        """Return a column of class names as class indices."""
        return np.asarray(pd.Categorical(self.table[column], categories=self.classes).codes, dtype=np.int64)


def check_same_images(a: Measurement, b: Measurement) -> None:
    """Check that two measurements can be paired.

    Raises:
        ValueError: Their images or classes differ.
    """
    if not len(a.table):
        raise ValueError(f"{a.folder} contains no images")
    if a.classes != b.classes:
        raise ValueError(f"{a.folder} has the classes {', '.join(a.classes)}; {b.folder} has {', '.join(b.classes)}")
    for what in ("index", "label"):
        if a.record["data_fingerprint"] != b.record["data_fingerprint"] or not np.array_equal(
            a.table[what].to_numpy(), b.table[what].to_numpy()
        ):
            raise ValueError(
                f"{a.folder} and {b.folder} were not measured on the same images: "
                f"{len(a.table)} of {a.record['data']} under {a.record['protocol']}, "
                f"{len(b.table)} of {b.record['data']} under {b.record['protocol']}"
            )
