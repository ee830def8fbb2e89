from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from fer_lightning.data import arrays
from fer_lightning.data.arrays import content_fingerprint, in_pieces


def test_a_set_is_gone_through_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_PIECE", 4)
    images = np.arange(10 * 2 * 3, dtype=np.uint8).reshape(10, 2, 3)
    np.save(tmp_path / "images.npy", images)
    for source in (images, np.load(tmp_path / "images.npy", mmap_mode="r")):
        pieces = list(in_pieces(source))
        assert [len(piece) for piece in pieces] == [4, 4, 2]
        assert np.array_equal(np.concatenate(pieces), images)
    assert list(in_pieces(images[:0])) == []


@pytest.mark.parametrize("count", [0, 3, 4, 9])
def test_the_fingerprint_does_not_depend_on_the_pieces(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_PIECE", 4)
    images = np.random.default_rng(0).integers(0, 256, (count, 5, 5), dtype=np.uint8)
    labels, usage = np.arange(count) % 2, np.array(["Training", "PublicTest", "PrivateTest"] * 3)[:count]
    content = repr((images.shape, ("a", "b"))).encode() + images.tobytes() + labels.astype("<i8").tobytes()
    content += "\n".join(usage.tolist()).encode()
    assert content_fingerprint(images, labels, usage, ("a", "b")) == hashlib.sha256(content).hexdigest()
