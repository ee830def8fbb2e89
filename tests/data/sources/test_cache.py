"""The cache opens, depends on its source, and is never read incomplete."""

import io
import json
import multiprocessing
import os
import time

import numpy as np
import pytest
from helpers.processes import start_process

from fer_lightning.data.arrays import DataError, FaceArrays, content_fingerprint
from fer_lightning.data.sources.cache import CACHE_FOLDER, load, read_cached
from fer_lightning.data.sources.chunks import Chunk, assemble

CLASSES = ("a", "b")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "data" / "set.csv"
    path.parent.mkdir()
    path.write_text("content")
    return path


def chunks(seed=0):
    rng = np.random.default_rng(seed)
    for start in (0, 3):
        yield Chunk(
            rng.integers(0, 256, (3, 4, 5), dtype=np.uint8),
            np.array([0, 1, 1]),
            np.array(["Training", "PublicTest", "PrivateTest"]),
            np.array([f"row {start + row}".encode() for row in range(3)]),
            (f"row {90 + start}: bad",),
        )


class Reader:
    """Counts how often the source is read."""

    def __init__(self, seed=0):
        self.seed = seed
        self.calls = 0

    def __call__(self, file) -> FaceArrays:
        self.calls += 1
        return assemble(chunks(self.seed), file, source="set.csv", classes=CLASSES, name="set")


def assert_same(one, other):
    for field in ("images", "labels", "usage", "names"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    for field in ("classes", "name", "fingerprint", "skipped", "votes"):
        assert getattr(one, field) == getattr(other, field)


def entries(root):
    return [path for path in root.iterdir() if path.name != ".gitignore"]


def test_second_call_opens_the_cache_without_reading_the_source(source):
    read = Reader()
    first = read_cached(source, {}, read)
    second = read_cached(source, {}, read)
    assert read.calls == 1
    assert_same(first, second)
    expected = np.concatenate([chunk.images for chunk in chunks()])
    np.testing.assert_array_equal(second.images, expected)
    assert isinstance(second.images, np.memmap)
    assert not second.images.flags.writeable
    assert second.skipped == ("set.csv, row 90: bad", "set.csv, row 93: bad")
    assert second.fingerprint == content_fingerprint(expected, second.labels, second.usage, CLASSES)
    assert len(entries(source.parent / CACHE_FOLDER)) == 1  # no temporary folder remains


def test_in_memory_and_on_disk_are_equal(source):
    assert_same(Reader()(io.BytesIO()), read_cached(source, {}, Reader()))


def test_a_changed_source_is_read_again_and_the_old_cache_removed(source):
    read_cached(source, {}, Reader(0))
    before = os.stat(source)
    source.write_text("CONTENT")  # same size and, below, same time: only the content differs
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert_same(read_cached(source, {}, Reader(1)), Reader(1)(io.BytesIO()))
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    read = Reader(2)
    read_cached(source, {}, read)
    assert read.calls == 1
    assert len(entries(source.parent / CACHE_FOLDER)) == 1


def test_options_have_separate_caches(source):
    for size, seed in ((24, 1), (48, 2), (24, 3)):
        faces = read_cached(source, {"image_size": size}, Reader(seed))
        assert_same(faces, Reader(1 if size == 24 else 2)(io.BytesIO()))


def test_a_changed_file_in_a_folder_is_detected(tmp_path):
    folder = tmp_path / "set" / "train" / "a"
    folder.mkdir(parents=True)
    (folder / "1.png").write_text("x")
    read = Reader()
    read_cached(tmp_path / "set", {}, read)
    read_cached(tmp_path / "set", {}, read)
    assert read.calls == 1
    (folder / "1.png").write_text("xy")
    read_cached(tmp_path / "set", {}, read)
    (folder / "2.png").write_text("x")
    read_cached(tmp_path / "set", {}, read)
    assert read.calls == 3
    assert (tmp_path / CACHE_FOLDER).is_dir()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def save_pickled(path):
    np.save(path, np.array([{"a": 1}] * 6, dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: truncate(entry / "images.npy"),
        lambda entry: (entry / "images.npy").write_bytes(b""),
        lambda entry: flip_a_bit(entry / "images.npy"),
        lambda entry: flip_a_bit(entry / "labels.npy"),
        lambda entry: (entry / "labels.npy").unlink(),
        lambda entry: truncate(entry / "names.npy"),
        lambda entry: np.save(entry / "labels.npy", np.zeros(5, np.int64)),
        lambda entry: save_pickled(entry / "usage.npy"),
        lambda entry: truncate(entry / "about.json"),
        lambda entry: (entry / "about.json").write_text("[]"),
        lambda entry: (entry / "about.json").write_text("{}"),
        lambda entry: (entry / "about.json").write_bytes(b"\xff\xfe"),
    ],
)
def test_a_damaged_cache_is_rebuilt(source, damage):
    read_cached(source, {}, Reader())
    (entry,) = entries(source.parent / CACHE_FOLDER)
    damage(entry)
    assert load(entry) is None
    read = Reader()
    assert_same(read_cached(source, {}, read), Reader()(io.BytesIO()))
    assert read.calls == 1
    assert read_cached(source, {}, read) is not None
    assert read.calls == 1


def test_a_failed_read_leaves_no_files(source):
    def fails(file):
        file.write(b"half of the pixels")
        raise DataError("bad data")

    with pytest.raises(DataError, match="bad data"):
        read_cached(source, {}, fails)
    assert entries(source.parent / CACHE_FOLDER) == []


def test_incomplete_caches_are_never_used_and_removed_when_stale(source):
    root = source.parent / CACHE_FOLDER
    (root / ".old.tmp").mkdir(parents=True)
    (root / ".new.tmp").mkdir()
    for name in (".old.tmp", ".new.tmp"):
        (root / name / "images.npy").write_bytes(b"half")
    long_ago = time.time() - 200_000
    os.utime(root / ".old.tmp", (long_ago, long_ago))
    read = Reader()
    read_cached(source, {}, read)
    assert read.calls == 1
    assert not (root / ".old.tmp").exists()
    assert (root / ".new.tmp").exists()  # its process may still be running


def test_a_read_only_folder_uses_the_user_cache(source, user_cache):
    source.parent.chmod(0o555)
    try:
        read = Reader()
        read_cached(source, {}, read)
        read_cached(source, {}, read)
        assert read.calls == 1
        assert not (source.parent / CACHE_FOLDER).exists()
        assert len(entries(user_cache)) == 1
    finally:
        source.parent.chmod(0o755)


def test_without_a_writable_folder_it_is_read_into_memory(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    source.parent.chmod(0o555)
    try:
        faces = read_cached(source, {}, Reader())
    finally:
        source.parent.chmod(0o755)
    assert_same(faces, Reader()(io.BytesIO()))
    assert not isinstance(faces.images, np.memmap)


def test_a_full_disk_does_not_prevent_reading(source, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fer_lightning.data.sources.cache.np.save", full)
    assert_same(read_cached(source, {}, Reader()), Reader()(io.BytesIO()))
    assert entries(source.parent / CACHE_FOLDER) == []


def _open_concurrently(source, barrier, results):
    def slow(file):
        barrier.wait()  # both are writing
        return Reader()(file)

    results.put(read_cached(source, {}, slow).fingerprint)


def test_two_concurrent_processes(source):
    context = multiprocessing.get_context("forkserver")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [start_process(_open_concurrently, source, barrier, results) for _ in range(2)]
    seen = {results.get(timeout=100) for _ in processes}
    for process in processes:
        process.join()
    assert seen == {Reader()(io.BytesIO()).fingerprint}
    assert len(entries(source.parent / CACHE_FOLDER)) == 1


def test_no_pickle_and_ignored_by_git(source):
    read_cached(source, {}, Reader())
    root = source.parent / CACHE_FOLDER
    (entry,) = entries(root)
    assert {path.suffix for path in entry.iterdir()} == {".npy", ".json"}
    for path in entry.glob("*.npy"):
        np.load(path, allow_pickle=False)
    assert json.loads((entry / "about.json").read_text())["name"] == "set"
    assert (root / ".gitignore").read_text() == "*\n"
