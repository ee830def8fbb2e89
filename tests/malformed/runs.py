"""Malformed outputs of runs: records, tables of predictions, states."""

from __future__ import annotations

import functools
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from helpers.faces import face_arrays
from hypothesis import strategies as st

from fer_lightning.app.choices import choices_in
from fer_lightning.data.arrays import FaceArrays
from fer_lightning.labels import EMOTIONS
from fer_lightning.run.resume import STATE, RunState
from fer_lightning.studies.audit.findings import out_of_fold
from fer_lightning.studies.compare.networks import compare
from fer_lightning.studies.measurement import Measurement
from fer_lightning.training.distillation import Distiller
from malformed.target import Target
from malformed.values import as_json, corrupted, damaged


def table(rows: int = 4) -> bytes:
    file = io.BytesIO()
    columns = {"index": range(rows), "label": ["happy", "sad"] * (rows // 2), "predicted": ["happy"] * rows}
    pd.DataFrame({**columns, **{f"p_{name}": 1 / 7 for name in EMOTIONS}}).to_parquet(file, index=False)
    return file.getvalue()


RECORD = {
    **{"name": "run", "data": "by_hand", "data_fingerprint": "0" * 64, "protocol": "official", "seed": 0},
    **{"evaluation": {"split": "test"}, "test": {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6]}, "val": {}},
    **{"command": "python train.py", "members": [{"checkpoint": "best.ckpt", "weight": 1.0}], "minutes": 1.0},
}


RESUMED = {"settings": {"seed": 0}, "objective": [0.5, 1.0]}


runs = st.one_of(
    st.tuples(corrupted(RECORD).map(as_json) | damaged(as_json(RECORD)), st.just(table()), st.just(b"")),
    st.tuples(st.just(as_json(RECORD)), damaged(table()), st.just(b"")),
    st.tuples(st.just(as_json(RECORD)), st.just(table()), corrupted(RESUMED).map(as_json) | st.binary(max_size=40)),
)


@functools.cache
def measured_faces() -> FaceArrays:
    faces = face_arrays(np.zeros((4, 8, 8)), [0] * 4, ["PrivateTest"] * 4)
    return replace(faces, fingerprint=RECORD["data_fingerprint"])


def feed_run(given: tuple[bytes, bytes, bytes], folder: Path) -> None:
    for name, content in zip(("record.json", "predictions.parquet", STATE), given, strict=True):
        (folder / name).write_bytes(content)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "best.ckpt").touch()
    state = RunState.read(folder)
    assert state is None or isinstance(state.settings, dict)
    assert len(choices_in(folder)) == 1
    refused = None
    for read in (
        lambda: compare(Measurement.read(folder), Measurement.read(folder)),
        lambda: out_of_fold(folder, measured_faces()),
        lambda: Distiller([str(folder)]),
    ):
        try:
            read()
        except ValueError as error:
            refused = error
    if refused:
        raise refused


TARGETS = [
    Target("records and tables", runs, feed_run, (ValueError,)),
]
