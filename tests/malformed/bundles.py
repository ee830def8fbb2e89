"""Malformed bundles."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from helpers.valid_files import description, graph
from hypothesis import strategies as st

from fer_lightning.app.choices import choices_in
from fer_lightning.inference.bundle import BundleError
from fer_lightning.inference.predict import FERPredictor
from malformed.target import Target
from malformed.values import as_json, corrupted, damaged


@st.composite
def bundles(draw: st.DrawFn) -> dict[str, bytes] | bytes:
    """The files of a bundle's folder, or its zip."""
    content = draw(st.just(graph()) | damaged(graph()))
    valid = description(content)
    files = {
        "bundle.json": draw(corrupted(valid).map(as_json) | st.just(as_json(valid)) | damaged(as_json(valid))),
        "model.onnx": content,
        "MODEL_CARD.md": draw(st.just(b"# net\n") | st.binary(max_size=9)),
    }
    if draw(st.integers(0, 5)) == 0:
        del files[draw(st.sampled_from(sorted(files)))]
    if draw(st.booleans()):
        return files
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data, draw(st.sampled_from([zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])))
    return draw(st.just(file.getvalue()) | damaged(file.getvalue()))


def feed_bundle(given: dict[str, bytes] | bytes, folder: Path) -> None:
    path = folder / "bundle"
    if isinstance(given, bytes):
        path.write_bytes(given)
    else:
        path.mkdir()
        for name, content in given.items():
            (path / name).write_bytes(content)
        choices_in(folder)
    predictor = FERPredictor.load(path, threads=1)
    predictor.predict(np.zeros((48, 48), np.uint8))


TARGETS = [
    Target("bundles", bundles(), feed_bundle, (BundleError,)),
]
