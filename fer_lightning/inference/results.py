"""Predictions as table rows, text lines and the timeline of a video."""

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
"""File name suffixes that `write_rows` supports."""

Row = dict[str, Any]
"""One face, or one image without a face: `image`, `seconds` (of a video), `face` counted from 1, `x`, `y`, `width`,
`height` in pixels, `label`, `confidence`, and `p_CLASS` of every class; missing values are None."""


@dataclass
class Timeline:
    """The timeline of a video: segments during which the largest face has the same label."""

    segments: list[tuple[str, float, float]] = field(default_factory=list)

    def add(self, seconds: float, faces: Sequence[Prediction]) -> None:
        """Add the faces of one frame."""
        largest = max(faces, key=lambda face: face.box[2] * face.box[3] if face.box else 0, default=None)
        label = largest.label if largest else "no face"
        if self.segments and self.segments[-1][0] == label:
            self.segments[-1] = (label, self.segments[-1][1], seconds)
        else:
            self.segments.append((label, seconds, seconds))

    def __str__(self) -> str:
        return ", ".join(f"{_clock(start)}-{_clock(end)} {label}" for label, start, end in self.segments)


def _clock(seconds: float) -> str:
    minutes, tenths = divmod(round(seconds * 10), 600)
    return f"{minutes}:{tenths / 10:04.1f}"


def rows_of(source: Source, faces: Sequence[Prediction], classes: Sequence[str]) -> list[Row]:
    """Rows of one image; one row without a label if it has no face."""
    common = {"image": source.name, "seconds": source.seconds}
    keys = ("face", "x", "y", "width", "height", "label", "confidence", *(f"p_{name}" for name in classes))
    if not faces:
        return [common | dict.fromkeys(keys)]
    return [
        common
        | {"face": number, **dict(zip(("x", "y", "width", "height"), face.box or [None] * 4, strict=True))}
        | {"label": face.label, "confidence": face.confidence}
        | {f"p_{name}": face.probabilities[name] for name in classes}
        for number, face in enumerate(faces, start=1)
    ]


def line_of(source: Source, number: int, face: Prediction) -> str:
    """One line of text for a face: its image, box and three most probable classes."""
    location = source.name if source.seconds is None else f"{source.name} {_clock(source.seconds)}"
    box = " at {},{} {}x{}".format(*face.box) if face.box else ""
    best, *others = face.top(3)
    classes = "  ".join([f"{best[0]} {best[1]:.0%}", *(f"{name} {probability:.0%}" for name, probability in others)])
    return f"{location}  face {number}{box}  {classes}"


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write rows atomically to a .csv, .json, .jsonl or .parquet file."""
    with atomic_write(path) as temporary:
        if path.suffix == ".parquet":
            import pandas as pd

            pd.DataFrame(rows).to_parquet(temporary, index=False)
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                if path.suffix == ".json":
                    json.dump(rows, file, indent=1)
                elif path.suffix == ".jsonl":
                    file.writelines(json.dumps(row) + "\n" for row in rows)
                else:
                    table = csv.DictWriter(file, list(rows[0]) if rows else ["image"])
                    table.writeheader()
                    table.writerows(rows)


def printer(format_name: str, classes: Sequence[str]) -> Callable[[Source, Sequence[Prediction]], None]:
    """Return a function that prints the faces of one image to stdout, as `text`, `csv` or `jsonl`."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    if format_name == "csv":
        table.writerow(rows_of(Source("", b"", Path()), [], classes)[0])

    def show(source: Source, faces: Sequence[Prediction]) -> None:
        if format_name == "text":
            for number, face in enumerate(faces, start=1):
                print(line_of(source, number, face))
            return
        for row in rows_of(source, faces, classes):
            if format_name == "csv":
                table.writerow(row.values())
            else:
                print(json.dumps(row))

    return show
