from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from fer_lightning.data import arrays
from fer_lightning.data.arrays import content_fingerprint, gather, in_chunks


def test_images_are_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_CHUNK", 4)
    images = np.arange(10 * 2 * 3, dtype=np.uint8).reshape(10, 2, 3)
    np.save(tmp_path / "images.npy", images)
    for source in (images, np.load(tmp_path / "images.npy", mmap_mode="r")):
        chunks = list(in_chunks(source))
        assert [len(chunk) for chunk in chunks] == [4, 4, 2]
        assert np.array_equal(np.concatenate(chunks), images)
    assert list(in_chunks(images[:0])) == []


@pytest.mark.parametrize("count", [0, 3, 4, 9])
def test_fingerprint_does_not_depend_on_the_chunks(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_CHUNK", 4)
    images = np.random.default_rng(0).integers(0, 256, (count, 5, 5), dtype=np.uint8)
    labels, usage = np.arange(count) % 2, np.array(["Training", "PublicTest", "PrivateTest"] * 3)[:count]
    content = repr((images.shape, ("a", "b"))).encode() + images.tobytes() + labels.astype("<i8").tobytes()
    content += "\n".join(usage.tolist()).encode()
    assert content_fingerprint(images, labels, usage, ("a", "b")) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("shape", [(700, 48, 48), (700, 5, 7, 3)])
def test_gather_from_memory_and_from_files(shape: tuple[int, ...], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    np.concatenate([images[:50], images]).tofile(tmp_path / "offset.bin")  # the mapped part starts after some pages
    offset_map = np.memmap(tmp_path / "offset.bin", np.uint8, "r", images[:50].nbytes, shape)
    for positions in ([0, 699, 3, 3, 350], [], list(range(699, -1, -1))):
        for source in (images, np.load(tmp_path / "images.npy", mmap_mode="r"), offset_map):
            found = gather(source, positions)
            assert np.array_equal(found, images[np.array(positions, int)])
            assert not isinstance(found, np.memmap)


@pytest.mark.skipif(
    not Path("/proc/self/io").exists(), reason="only Linux counts the bytes that a process reads from disk"
)
def test_gather_reads_little_more_than_the_images_from_disk(tmp_path: Path) -> None:
    def bytes_read() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))

    path = tmp_path / "images.npy"
    np.save(path, np.zeros((20_000, 48, 48), np.uint8))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    images = np.load(path, mmap_mode="r")
    before = bytes_read()
    gather(images, list(range(50, 20_000, 500)))
    if bytes_read() == before:
        pytest.skip("this file system keeps its files in memory")
    assert bytes_read() - before < 40 * 64 * 1024  # one or two pages each; megabytes if each fault reads ahead
