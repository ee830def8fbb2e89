"""Malformed caches."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
from helpers.valid_files import good_cache, npy
from hypothesis import strategies as st

from fer_lightning.data.arrays import DataError
from fer_lightning.data.sources.cache import load
from malformed.target import Target
from malformed.values import as_json, corrupted, damaged, odd_integers


@st.composite
def caches(draw: st.DrawFn) -> dict[str, bytes]:
    """Damaged caches, some of them with correct checksums."""
    files = dict(good_cache())
    about = json.loads(files["about.json"])
    name = draw(st.sampled_from(sorted(files)))
    if name == "about.json":
        files[name] = draw(damaged(files[name]) | corrupted(about).map(as_json))
        return files
    files[name] = draw(damaged(files[name]) | st.builds(npy, st.lists(odd_integers, max_size=3)))
    if draw(st.booleans()):
        about["checksums"][name] = zlib.crc32(files[name])
        files["about.json"] = json.dumps(about).encode()
    return files


def feed_cache(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    faces = load(folder)
    if faces is None:
        raise DataError("built again from its source")
    assert faces.labels.max() < len(faces.classes)
    np.asarray(faces.images).sum()


TARGETS = [
    Target("caches", caches(), feed_cache, (DataError,)),
]
