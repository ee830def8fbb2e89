"""Readers: archives, FER+ votes, errors, and the real FER2013."""

import csv
import gzip
import lzma
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.fer2013 import (
    REAL_DATA,
    assert_same,
    csv_bytes,
    csv_lines,
    gray_png,
    kaggle_files,
    set_field,
    with_changed_row,
    write_csv,
    write_files,
    write_lines,
    write_tar_gz,
    write_zip,
)

from fer_lightning.data.arrays import DataError
from fer_lightning.data.sources.readers import read_faces, read_fer2013
from fer_lightning.labels import EMOTIONS, FERPLUS_COLUMNS


def test_every_container_gives_the_same_data(tmp_path, rows):
    text = write_csv(tmp_path / "fer2013.csv", rows).read_bytes()
    (tmp_path / "a.gz").write_bytes(gzip.compress(text))
    (tmp_path / "a.xz").write_bytes(lzma.compress(text))
    write_zip(tmp_path / "a.zip", {"example_submission.csv": b"emotion\n0\n", "x/fer2013.csv": text})
    write_tar_gz(tmp_path / "a.tar.gz", {"fer2013/README": b"hello", "fer2013/fer2013.csv": text, "fer2013/end": b"."})
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "fer2013.csv", "fer2013.csv")
    plain = read_faces(tmp_path / "fer2013.csv")
    assert_same(plain, rows)
    for name in ("a.gz", "a.xz", "a.zip", "a.tar.gz", "a.tar"):
        read = read_faces(tmp_path / name)
        assert_same(read, rows)
        assert read.fingerprint == plain.fingerprint


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize("kind", ["gz", "xz", "zip", "tar.gz", "tar"])
def test_truncated_archives_raise_an_error_in_either_mode(tmp_path, rows, kind, on_error):
    text = csv_bytes(rows)
    path = tmp_path / f"fer2013.{kind}"
    if kind == "zip":
        write_zip(path, {"fer2013.csv": text})
    elif kind == "tar":
        with tarfile.open(path, "w") as archive:
            archive.add(write_csv(tmp_path / "x.csv", rows), "fer2013.csv")
    elif kind == "tar.gz":
        write_tar_gz(path, {"fer2013.csv": text})
    else:
        path.write_bytes({"gz": gzip, "xz": lzma}[kind].compress(text))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="truncated or damaged") as error:
        read_faces(path, on_error=on_error)
    assert str(path) in str(error.value)


def test_a_flipped_bit_in_a_gz_or_zip_is_detected(tmp_path, rows):
    text = csv_bytes(rows)
    (tmp_path / "a.gz").write_bytes(gzip.compress(text, 0))  # not compressed: only the checksum can detect it
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("fer2013.csv", text)
    for name in ("a.gz", "a.zip"):
        raw = bytearray((tmp_path / name).read_bytes())
        at = raw.index(b" 1", 5000) + 1
        raw[at] = ord("2")
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(DataError, match="truncated or damaged"):
            read_faces(tmp_path / name)


def test_a_flipped_bit_after_the_csv_of_a_tar_gz_is_detected(tmp_path, rows):
    """The checksum is at the end of the archive, after everything that the csv needs."""
    text = csv_bytes(rows)
    sizes = range(0, 1 << 17, 512)  # some fill whole blocks, so that the csv is read without reaching the end
    path = next(
        path
        for path in (
            write_tar_gz(tmp_path / "a.tar.gz", {"fer2013.csv": text, "note.txt": b"x" * size}) for size in sizes
        )
        if len(gzip.decompress(path.read_bytes())) % 40_960 == 0
    )
    assert_same(read_faces(path), rows)
    raw = bytearray(path.read_bytes())
    raw[-8] ^= 1  # of the checksum
    path.write_bytes(raw)
    with pytest.raises(DataError, match="truncated or damaged"):
        read_faces(path)


def test_fer2013_csv_is_preferred_to_other_csvs_in_an_archive(tmp_path, rows):
    other = [line.replace("Training", "PublicTest") for line in csv_lines(rows)]
    own = csv_bytes(rows)
    path = write_zip(tmp_path / "both.zip", {"icml_face_data.csv": "\n".join(other).encode(), "fer2013.csv": own})
    assert_same(read_faces(path), rows)


@pytest.mark.parametrize(
    "evil", ["../fer2013.csv", "/etc/fer2013.csv", "a/../../fer2013.csv", "..\\fer2013.csv", "C:\\x.csv"]
)
def test_paths_outside_of_an_archive_are_rejected(tmp_path, rows, evil):
    text = csv_bytes(rows)
    for path in (
        write_zip(tmp_path / "a.zip", {"fer2013.csv": text, evil: text}),
        write_tar_gz(tmp_path / "a.tar.gz", {evil: text, "fer2013.csv": text}),
    ):
        with pytest.raises(DataError, match="points outside of the archive") as error:
            read_faces(path, on_error="skip")
        assert repr(evil) in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"a.zip", "a.tar.gz", ".fer_lightning_cache", "user-cache"}


def test_an_archive_without_data_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"neither FER2013's csv nor images"):
        read_faces(write_zip(tmp_path / "a.zip", {"readme.txt": b"hello"}))
    with pytest.raises(DataError, match=r"contains no fer2013\.csv"):
        read_faces(write_tar_gz(tmp_path / "a.tar.gz", {"readme.txt": b"hello"}))


def test_missing_paths_and_permissions_are_reported(tmp_path, rows, monkeypatch):
    with pytest.raises(DataError, match=r"nowhere\.csv: there is no such file"):
        read_faces(tmp_path / "nowhere.csv")
    path = write_csv(tmp_path / "fer2013.csv", rows)

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root, which often runs tests, can read every file
    for cache in (True, False):
        with pytest.raises(DataError, match=r"fer2013\.csv: no permission to read it"):
            read_faces(path, cache=cache)


def test_rejects_invalid_settings(tmp_path):
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        read_faces(tmp_path, on_error="ignore")
    with pytest.raises(ValueError, match="channels is 2"):
        read_faces(tmp_path, channels=2)
    with pytest.raises(ValueError, match="image_size is 0"):
        read_faces(tmp_path, image_size=0)


def test_csv_images_are_converted_to_the_given_size_and_channels(tmp_path, rows):
    path = write_csv(tmp_path / "fer2013.csv", rows)
    colour = read_faces(path, channels=3)
    assert colour.images.shape == (9, 48, 48, 3)
    np.testing.assert_array_equal(colour.images, np.repeat(rows[0][..., None], 3, axis=-1))
    small = read_faces(path, image_size=24, name="small")
    assert small.images.shape == (9, 24, 24)
    assert small.name == "small"
    assert abs(small.images.mean() - rows[0].mean()) < 2
    assert_same(read_faces(path), rows)  # the three have separate caches


def write_votes(path, usage, votes, names=None, columns=FERPLUS_COLUMNS):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Usage", "Image name", *columns])
        for row, (part, counts) in enumerate(zip(usage, votes, strict=True)):
            writer.writerow([part, names[row] if names else f"fer{row:07}.png", *counts])
    return path


@pytest.fixture
def votes():
    return np.arange(90).reshape(9, 10) % 11


def test_votes_join_by_row_and_not_by_image_name(tmp_path, rows, votes):
    path = write_csv(tmp_path / "fer2013.csv", rows)
    names = ["", *[f"fer{row + 40:07}.png" for row in range(8)]]
    read = read_faces(path, votes_path=write_votes(tmp_path / "votes.csv", rows[2], votes, names))
    assert read.votes.dtype == np.float32
    np.testing.assert_array_equal(read.votes, votes)
    assert read_faces(path).votes is None


def test_votes_stay_aligned_when_rows_are_skipped(tmp_path, rows, votes):
    lines = with_changed_row(with_changed_row(csv_lines(rows), 2, set_field(0, "9")), 6, set_field(2, "?"))
    read = read_faces(
        write_lines(tmp_path / "fer2013.csv", lines),
        votes_path=write_votes(tmp_path / "votes.csv", rows[2], votes),
        on_error="skip",
    )
    np.testing.assert_array_equal(read.votes, votes[[0, 2, 3, 4, 6, 7, 8]])


def test_votes_that_do_not_match_are_rejected(tmp_path, rows, votes):
    path = write_csv(tmp_path / "fer2013.csv", rows)

    def join(*args, **kwargs):
        return read_faces(path, votes_path=write_votes(tmp_path / "votes.csv", *args, **kwargs))

    with pytest.raises(DataError, match=r"8 rows and .* has 9"):
        join(rows[2][1:], votes[1:])
    with pytest.raises(DataError, match="row 1 is 'PrivateTest', but Training in"):
        join(rows[2][::-1], votes)
    with pytest.raises(DataError, match="no column 'contempt'"):
        join(rows[2], votes, columns=[c for c in FERPLUS_COLUMNS if c != "contempt"] + ["x"])
    with pytest.raises(DataError, match=r"votes\.csv, row 1: neutral is '-1', not a number of votes"):
        join(rows[2], votes - 1)
    with pytest.raises(DataError, match="there is no such file"):
        read_faces(path, votes_path=tmp_path / "none.csv")


def test_votes_cannot_be_joined_to_image_files(tmp_path):
    folder = write_files(tmp_path / "set", kaggle_files())
    with pytest.raises(DataError, match="only be joined to FER2013's csv, by row"):
        read_faces(folder, votes_path=tmp_path / "votes.csv")


def test_a_folder_with_the_csv_is_a_valid_path(tmp_path, rows):
    write_csv(tmp_path / "fer2013.csv", rows)
    assert_same(read_faces(tmp_path), rows)


def test_a_folder_of_images_is_read_even_if_it_contains_the_csv(tmp_path, rows):
    write_files(
        tmp_path, {"train/cat/1.png": gray_png(0), "train/dog/1.png": gray_png(1), "test/cat/1.png": gray_png(2)}
    )
    write_csv(tmp_path / "fer2013.csv", rows)
    assert read_faces(tmp_path).classes == ("cat", "dog")
    assert_same(read_fer2013(tmp_path), rows)


def test_read_fer2013_finds_it_or_names_the_searched_folder(tmp_path, rows):
    with pytest.raises(DataError, match=r"FER2013 not found in .*; put fer2013\.csv .* there, or set data\.path"):
        read_fer2013(data_folder=tmp_path)
    write_csv(tmp_path / "fer2013.csv", rows)
    assert_same(read_fer2013(data_folder=tmp_path), rows)
    other = write_files(tmp_path / "other", {"train/a/1.png": gray_png(0)})
    with pytest.raises(DataError, match=r"has the classes a, not FER2013's; read it with data=folder"):
        read_fer2013(other)


COUNTS = {
    "Training": [3995, 436, 4097, 7215, 4830, 3171, 4965],
    "PublicTest": [467, 56, 496, 895, 653, 415, 607],
    "PrivateTest": [491, 55, 528, 879, 594, 416, 626],
}


@pytest.mark.skipif(not (REAL_DATA / "fer2013.csv.xz").exists(), reason=f"the real FER2013 is not in {REAL_DATA}")
def test_real_fer2013(tmp_path):
    for name in ("fer2013.csv.xz", "fer2013-kaggle.zip"):
        (tmp_path / name).symlink_to((REAL_DATA / name).resolve())  # so that the cache is in tmp_path
    faces = read_faces(tmp_path / "fer2013.csv.xz", votes_path=REAL_DATA / "fer2013new.csv")
    kaggle = read_faces(tmp_path / "fer2013-kaggle.zip")
    for read in (faces, kaggle):
        assert not read.skipped
        assert read.images.shape == (35887, 48, 48)
        for usage, counts in COUNTS.items():
            assert np.bincount(read.labels[read.usage == usage]).tolist() == counts
    assert (faces.name, kaggle.name) == ("fer2013", "fer2013_kaggle")
    assert faces.images[0, 0, :5].tolist() == [70, 80, 82, 72, 58]
    # FER+'s majority agrees with FER2013's label far above chance only if the votes match the rows.
    majority = faces.votes[:, [FERPLUS_COLUMNS.index(c) for c in ("happiness", "neutral")]].argmax(axis=1)
    for code, label in ((0, EMOTIONS.index("happy")), (1, EMOTIONS.index("neutral"))):
        assert (majority[faces.labels == label] == code).mean() > 0.85
    again = read_faces(tmp_path / "fer2013.csv.xz")
    assert isinstance(again.images, np.memmap)
    assert again.fingerprint == faces.fingerprint
    shutil.rmtree(tmp_path / ".fer_lightning_cache")
