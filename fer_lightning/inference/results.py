"""Predictions as rows of a table, lines for a person, and the timeline of a video."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fer_lightning.files import atomic_write
from fer_lightning.inference.media import Source
from fer_lightning.inference.predict import Prediction

OUTPUTS: Final = (".csv", ".json", ".jsonl", ".parquet")
"""Endings of the files that `write_rows` knows."""

Row = dict[str, Any]
"""One face, or one picture without any: `picture`, `seconds` (of a video), `face` counted from 1, `x`, `y`, `width`,
`height` in pixels, `label`, `confidence`, and `p_CLASS` of every class; None where there is nothing to say."""


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


def printer(form: str, classes: Sequence[str]) -> Callable[[Source, Sequence[Prediction]], None]:
    """A function that prints the faces of one picture to stdout, as `text`, `csv` or `jsonl`."""
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
