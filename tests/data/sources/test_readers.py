"""Readers: every format of FER2013 and of image folders, valid and invalid, in files written by the tests."""

import csv
import gzip
import io
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import REAL_DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_lightning.data.arrays import DataError
from fer_lightning.data.sources import fer2013_csv
from fer_lightning.data.sources.image_folder import decode
from fer_lightning.data.sources.locate import find_fer2013
from fer_lightning.data.sources.readers import read_faces, read_fer2013
from fer_lightning.labels import EMOTIONS, FERPLUS_COLUMNS, USAGES

PIXELS = 48 * 48


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


@pytest.fixture
def faces():
    """Nine rows: images, labels, usage."""
    rng = np.random.default_rng(0)
    usage = np.array(["Training"] * 5 + ["PublicTest"] * 2 + ["PrivateTest"] * 2)
    return rng.integers(0, 256, (9, 48, 48), dtype=np.uint8), np.array([0, 1, 2, 3, 4, 5, 6, 0, 3]), usage


def csv_lines(faces, columns="emotion,pixels,Usage"):
    """The lines of a csv with the given columns."""
    lines = [columns]
    for image, label, usage in zip(*faces, strict=True):
        text = {
            "emotion": str(label),
            "pixels": " ".join(map(str, image.ravel())),
            "usage": usage,
            "other": "x",
        }
        lines.append(",".join(text[column.strip().lower()] for column in columns.split(",")))
    return lines


def write_lines(path, lines):
    path.write_bytes("\n".join(lines).encode() + b"\n")
    return path


def assert_same(read, faces):
    images, labels, usage = faces
    np.testing.assert_array_equal(read.images, images)
    np.testing.assert_array_equal(read.labels, labels)
    np.testing.assert_array_equal(read.usage, usage)


def write_tar_gz(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


# ------------------------------------------------------------------ the csv and its archives


@pytest.mark.parametrize(
    "columns",
    [
        "emotion,pixels,Usage",
        "emotion, Usage, pixels",
        "pixels,Usage,emotion",
        "other,Usage,other,pixels,emotion",
    ],
)
def test_column_order_and_spaces_do_not_matter(tmp_path, faces, columns):
    read = read_faces(write_lines(tmp_path / "icml_face_data.csv", csv_lines(faces, columns)))
    assert_same(read, faces)
    assert read.name == "fer2013"
    assert read.classes == EMOTIONS
    assert read.names.tolist()[-1] == b"row 9"


def test_every_container_gives_the_same_data(tmp_path, faces):
    text = write_lines(tmp_path / "fer2013.csv", csv_lines(faces)).read_bytes()
    (tmp_path / "a.gz").write_bytes(gzip.compress(text))
    (tmp_path / "a.xz").write_bytes(lzma.compress(text))
    write_zip(tmp_path / "a.zip", {"example_submission.csv": b"emotion\n0\n", "x/fer2013.csv": text})
    write_tar_gz(tmp_path / "a.tar.gz", {"fer2013/README": b"hello", "fer2013/fer2013.csv": text, "fer2013/end": b"."})
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "fer2013.csv", "fer2013.csv")
    plain = read_faces(tmp_path / "fer2013.csv")
    assert_same(plain, faces)
    for name in ("a.gz", "a.xz", "a.zip", "a.tar.gz", "a.tar"):
        read = read_faces(tmp_path / name)
        assert_same(read, faces)
        assert read.fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\n\n") + b"\n\n",
        lambda text: text.rstrip(b"\n"),
        lambda text: text.replace(b",Training", b",Training ").replace(b",7", b", 7"),
        lambda text: b"\n".join(b'"' + line.replace(b",", b'","') + b'"' for line in text.split(b"\n") if line),
    ],
    ids=["byte-order mark", "windows", "empty lines", "no last newline", "spaces", "quotes"],
)
def test_accepted_csv_variants(tmp_path, faces, change):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(change("\n".join(csv_lines(faces)).encode() + b"\n"))
    assert_same(read_faces(path), faces)


def test_result_does_not_depend_on_the_block_size(tmp_path, faces, monkeypatch):
    path = write_lines(tmp_path / "fer2013.csv", csv_lines(faces))
    for size in (1, 1000, 9001, 20000):
        monkeypatch.setattr(fer2013_csv, "_BLOCK", max(size, 700))
        read = read_faces(path, cache=False)
        assert_same(read, faces)
        assert read.names.tolist() == [f"row {row}".encode() for row in range(1, 10)]


number = st.one_of(
    st.integers(0, 255).map(str),
    st.integers(0, 99999).map(str),
    st.sampled_from(["007", "0000", "-1", "1.5", "", "a", "1e2", "٣", "12\t13", "+4"]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(number, max_size=4), st.integers(0, 255), st.integers(0, 3), st.sampled_from([" ", "  "]))
def test_fast_parser_agrees_with_plain_python(unusual, filler, missing, separator):
    """A row is accepted if and only if Python's split and int accept it, and then with the same pixels."""
    words = [*unusual, *[str(filler)] * (PIXELS - len(unusual) - (missing if unusual else 0))]
    field = separator.join(words)
    plain = [int(word) if word.isascii() and word.isdigit() else -1 for word in field.split()]
    valid = len(plain) == PIXELS and all(0 <= value <= 255 for value in plain)
    rest = " ".join(["1"] * PIXELS)
    text = f"Usage,pixels,emotion\nTraining,{field},3\nTraining,{rest},4\n".encode()
    (chunk,) = fer2013_csv.read_csv(io.BytesIO(text), "x.csv")
    assert [name.decode() for name in chunk.names] == (["row 1"] if valid else []) + ["row 2"]
    assert len(chunk.problems) == (not valid)
    if valid:
        assert chunk.images[0].ravel().tolist() == plain
    assert (chunk.images[-1] == 1).all()


def with_changed_row(lines, row, change):
    """A copy of the lines in which `change` is applied to the fields of data row `row` (from 1)."""
    fields = lines[row].split(",")
    change(fields)
    return [*lines[:row], ",".join(fields), *lines[row + 1 :]]


def set_field(index, value):
    def change(fields):
        fields[index] = value(fields[index]) if callable(value) else value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_field(1, lambda p: p.rsplit(" ", 1)[0]), "2,303 pixels, expected 2,304"),
        (set_field(1, lambda p: p + " 0"), "2,305 pixels"),
        (set_field(1, ""), "0 pixels"),
        (
            set_field(1, lambda p: "256 " + p.split(" ", 1)[1]),
            "pixel 1 is '256', it must be a whole number from 0 to 255",
        ),
        (set_field(1, lambda p: p.rsplit(" ", 1)[0] + " 1000"), "pixel 2304 is '1000'"),
        (set_field(1, lambda p: "65537 " + p.split(" ", 1)[1]), "pixel 1 is '65537'"),
        (set_field(1, lambda p: "-1 " + p.split(" ", 1)[1]), "pixel 1 is '-1'"),
        (set_field(1, lambda p: "12.5 " + p.split(" ", 1)[1]), "pixel 1 is '12.5'"),
        (set_field(1, lambda p: "nan " + p.split(" ", 1)[1]), "pixel 1 is 'nan'"),
        (set_field(0, "7"), "emotion is '7', it must be 0 to 6"),
        (set_field(0, "-1"), "emotion is '-1'"),
        (set_field(0, "happy"), "emotion is 'happy'"),
        (set_field(0, ""), "emotion is ''"),
        (set_field(2, "Train"), "Usage is 'Train', it must be Training, PublicTest or PrivateTest"),
        (lambda fields: fields.pop(), "2 columns, the header has 3"),
        (lambda fields: fields.append("x"), "4 columns, the header has 3"),
    ],
)
def test_an_invalid_row_is_reported_or_skipped(tmp_path, faces, change, message):
    path = write_lines(tmp_path / "fer2013.csv", with_changed_row(csv_lines(faces), 4, change))
    with pytest.raises(DataError) as error:
        read_faces(path)
    assert f"row 4: {message}" in str(error.value)
    assert str(path) in str(error.value)
    assert "1 of 9" in str(error.value)
    assert "data.on_error=skip" in str(error.value)
    read = read_faces(path, on_error="skip")
    keep = np.arange(9) != 3
    assert_same(read, [column[keep] for column in faces])
    assert b"row 4" not in read.names.tolist()
    assert len(read.skipped) == 1
    assert read.skipped[0].startswith(f"fer2013.csv, row 4: {message}")


def test_many_invalid_rows_are_counted_and_the_first_listed(tmp_path, faces):
    lines = csv_lines(faces)
    for row in (2, 3, 4, 6, 7, 8, 9):
        lines = with_changed_row(lines, row, set_field(0, "9"))
    with pytest.raises(DataError, match=r"7 of 9(?s:.*)row 2(?s:.*)row 7: (?s:.*)and 2 more") as error:
        read_faces(write_lines(tmp_path / "fer2013.csv", lines))
    assert "row 8" not in str(error.value)


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"emotion,pixels\n0,1 2\n", "no column 'Usage', its first line is 'emotion, pixels'"),
        (b"<!DOCTYPE html>\n<html>", "no column 'emotion'"),
        (b"emotion,pixels,Usage\n", "contains no usable image"),
        (
            b"emotion,pixels,Usage\n0,1 2,Training\n",
            "contains no usable image; the first: .*row 1: 2 pixels",
        ),
        (b"emotion,pixels,Usage\n" + b"1 " * 2_000_000, "has a line of over"),
        (bytes(range(256)) * 50, "no column"),
    ],
)
def test_other_files_raise_an_error_in_either_mode(tmp_path, content, message, on_error):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_faces(path, on_error=on_error)
    assert "fer2013.csv" in str(error.value)


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize("kind", ["gz", "xz", "zip", "tar.gz", "tar"])
def test_truncated_archives_raise_an_error_in_either_mode(tmp_path, faces, kind, on_error):
    text = "\n".join(csv_lines(faces)).encode()
    path = tmp_path / f"fer2013.{kind}"
    if kind == "zip":
        write_zip(path, {"fer2013.csv": text})
    elif kind == "tar":
        with tarfile.open(path, "w") as archive:
            archive.add(write_lines(tmp_path / "x.csv", csv_lines(faces)), "fer2013.csv")
    elif kind == "tar.gz":
        write_tar_gz(path, {"fer2013.csv": text})
    else:
        path.write_bytes({"gz": gzip, "xz": lzma}[kind].compress(text))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="truncated or damaged") as error:
        read_faces(path, on_error=on_error)
    assert str(path) in str(error.value)


def test_a_flipped_bit_in_a_gz_or_zip_is_detected(tmp_path, faces):
    text = "\n".join(csv_lines(faces)).encode()
    (tmp_path / "a.gz").write_bytes(
        gzip.compress(text, 0)
    )  # level 0 does not compress: only the checksum can detect it
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("fer2013.csv", text)
    for name in ("a.gz", "a.zip"):
        raw = bytearray((tmp_path / name).read_bytes())
        at = raw.index(b" 1", 5000) + 1
        raw[at] = ord("2")
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(DataError, match="truncated or damaged"):
            read_faces(tmp_path / name)


def test_a_flipped_bit_after_the_csv_of_a_tar_gz_is_detected(tmp_path, faces):
    """The checksum is at the end of the archive, after everything that the csv needs."""
    text = "\n".join(csv_lines(faces)).encode()
    sizes = range(0, 1 << 17, 512)  # some fill whole blocks, so that the csv is read without reaching the end
    path = next(
        path
        for path in (
            write_tar_gz(tmp_path / "a.tar.gz", {"fer2013.csv": text, "note.txt": b"x" * size}) for size in sizes
        )
        if len(gzip.decompress(path.read_bytes())) % 40_960 == 0
    )
    assert_same(read_faces(path), faces)
    raw = bytearray(path.read_bytes())
    raw[-8] ^= 1  # of the checksum
    path.write_bytes(raw)
    with pytest.raises(DataError, match="truncated or damaged"):
        read_faces(path)


def test_fer2013_csv_is_preferred_to_other_csvs_in_an_archive(tmp_path, faces):
    other = [line.replace("Training", "PublicTest") for line in csv_lines(faces)]
    own = "\n".join(csv_lines(faces)).encode()
    path = write_zip(tmp_path / "both.zip", {"icml_face_data.csv": "\n".join(other).encode(), "fer2013.csv": own})
    assert_same(read_faces(path), faces)


@pytest.mark.parametrize(
    "evil", ["../fer2013.csv", "/etc/fer2013.csv", "a/../../fer2013.csv", "..\\fer2013.csv", "C:\\x.csv"]
)
def test_paths_outside_of_an_archive_are_rejected(tmp_path, faces, evil):
    text = "\n".join(csv_lines(faces)).encode()
    for path in (
        write_zip(tmp_path / "a.zip", {"fer2013.csv": text, evil: text}),
        write_tar_gz(tmp_path / "a.tar.gz", {evil: text, "fer2013.csv": text}),
    ):
        with pytest.raises(DataError, match="points outside of the archive") as error:
            read_faces(path, on_error="skip")
        assert repr(evil) in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} <= {
        "a.zip",
        "a.tar.gz",
        ".fer_lightning_cache",
        "user-cache",
    }


def test_an_archive_without_data_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"neither FER2013's csv nor images"):
        read_faces(write_zip(tmp_path / "a.zip", {"readme.txt": b"hello"}))
    with pytest.raises(DataError, match=r"contains no fer2013\.csv"):
        read_faces(write_tar_gz(tmp_path / "a.tar.gz", {"readme.txt": b"hello"}))


def test_missing_paths_and_permissions_are_reported(tmp_path, faces, monkeypatch):
    with pytest.raises(DataError, match=r"nowhere\.csv: there is no such file"):
        read_faces(tmp_path / "nowhere.csv")
    path = write_lines(tmp_path / "fer2013.csv", csv_lines(faces))

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


def test_csv_images_are_converted_to_the_given_size_and_channels(tmp_path, faces):
    path = write_lines(tmp_path / "fer2013.csv", csv_lines(faces))
    colour = read_faces(path, channels=3)
    assert colour.images.shape == (9, 48, 48, 3)
    np.testing.assert_array_equal(colour.images, np.repeat(faces[0][..., None], 3, axis=-1))
    small = read_faces(path, image_size=24, name="small")
    assert small.images.shape == (9, 24, 24)
    assert small.name == "small"
    assert abs(small.images.mean() - faces[0].mean()) < 2
    assert_same(read_faces(path), faces)  # the three have separate caches


# ------------------------------------------------------------------ FER+ votes


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


def test_votes_join_by_row_and_not_by_image_name(tmp_path, faces, votes):
    path = write_lines(tmp_path / "fer2013.csv", csv_lines(faces))
    names = ["", *[f"fer{row + 40:07}.png" for row in range(8)]]
    read = read_faces(path, votes_path=write_votes(tmp_path / "votes.csv", faces[2], votes, names))
    assert read.votes.dtype == np.float32
    np.testing.assert_array_equal(read.votes, votes)
    assert read_faces(path).votes is None


def test_votes_stay_aligned_when_rows_are_skipped(tmp_path, faces, votes):
    lines = with_changed_row(with_changed_row(csv_lines(faces), 2, set_field(0, "9")), 6, set_field(2, "?"))
    read = read_faces(
        write_lines(tmp_path / "fer2013.csv", lines),
        votes_path=write_votes(tmp_path / "votes.csv", faces[2], votes),
        on_error="skip",
    )
    np.testing.assert_array_equal(read.votes, votes[[0, 2, 3, 4, 6, 7, 8]])


def test_votes_that_do_not_match_are_rejected(tmp_path, faces, votes):
    path = write_lines(tmp_path / "fer2013.csv", csv_lines(faces))

    def join(*args, **kwargs):
        return read_faces(path, votes_path=write_votes(tmp_path / "votes.csv", *args, **kwargs))

    with pytest.raises(DataError, match=r"8 rows and .* has 9"):
        join(faces[2][1:], votes[1:])
    with pytest.raises(DataError, match="row 1 is 'PrivateTest', but Training in"):
        join(faces[2][::-1], votes)
    with pytest.raises(DataError, match="no column 'contempt'"):
        join(faces[2], votes, columns=[c for c in FERPLUS_COLUMNS if c != "contempt"] + ["x"])
    with pytest.raises(DataError, match=r"votes\.csv, row 1: neutral is '-1', not a number of votes"):
        join(faces[2], votes - 1)
    with pytest.raises(DataError, match="there is no such file"):
        read_faces(path, votes_path=tmp_path / "none.csv")


# ------------------------------------------------------------------ image folders


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def gray_png(value, size=8):
    return encode(np.full((size, size), value, np.uint8))


def kaggle_files():
    """{path: bytes}: each class once in Training, PublicTest and PrivateTest."""
    files = {}
    for code, emotion in enumerate(EMOTIONS):
        files[f"train/{emotion}/Training_{code}.png"] = gray_png(code)
        files[f"test/{emotion}/PublicTest_{code}.png"] = gray_png(10 + code)
        files[f"test/{emotion}/PrivateTest_{code}.png"] = gray_png(20 + code)
    return files


def write_files(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def by_name(read):
    return {
        name.decode(): (image.flat[0], read.classes[label], usage)
        for name, image, label, usage in zip(read.names, read.images, read.labels, read.usage, strict=True)
    }


def test_a_folder_named_synthetic_is_not_the_synthetic_data_set(tmp_path):
    files = {f"{split}/{name}/1.png": gray_png(9) for split in ("train", "test") for name in ("no", "yes")}
    read = read_faces(write_files(tmp_path / "synthetic", files))
    assert read.name == "folder_synthetic"
    assert not read.is_synthetic


def test_kaggle_layout_as_folder_and_as_zip(tmp_path):
    files = kaggle_files()
    folder = read_faces(write_files(tmp_path / "fer", files))
    archive = read_faces(write_zip(tmp_path / "archive.zip", files))
    wrapped = read_faces(
        write_zip(tmp_path / "b.zip", {f"archive/{k}": v for k, v in files.items()} | {"__MACOSX/._1.png": b"x"})
    )
    assert folder.fingerprint == archive.fingerprint == wrapped.fingerprint
    assert folder.name == archive.name == "fer2013_kaggle"
    assert folder.classes == EMOTIONS
    seen = by_name(folder)
    assert len(seen) == 21
    for code, emotion in enumerate(EMOTIONS):
        assert seen[f"train/{emotion}/Training_{code}.png"] == (code, emotion, "Training")
        assert seen[f"test/{emotion}/PublicTest_{code}.png"] == (10 + code, emotion, "PublicTest")
        assert seen[f"test/{emotion}/PrivateTest_{code}.png"] == (20 + code, emotion, "PrivateTest")


def test_file_names_that_are_not_utf_8_are_read(tmp_path):
    folder = write_files(tmp_path / "fer", kaggle_files())
    first = next((folder / "train").rglob("*.png"))
    first.rename(os.fsdecode(os.fsencode(first.parent) + b"/Training_caf\xe9.png"))
    read = read_faces(folder)
    assert sum("Training_caf?.png" in name for name in by_name(read)) == 1


def test_usage_comes_from_split_folders_if_not_in_file_names(tmp_path):
    aliases = ["Anger", "disgusted", "fearful", "happiness", "sadness", "surprised", "NEUTRAL"]
    files = {f"Train/{name}/im{code}.png": gray_png(code) for code, name in enumerate(aliases)}
    files |= {"VALID/Anger/im9.png": gray_png(9), "test/angry/im8.png": gray_png(8), "test/angry/notes.txt": b"x"}
    read = read_faces(write_files(tmp_path / "fer", files))
    assert read.name == "fer"
    assert read.classes == EMOTIONS
    seen = by_name(read)
    assert [seen[f"Train/{name}/im{code}.png"] for code, name in enumerate(aliases)] == [
        (code, emotion, "Training") for code, emotion in enumerate(EMOTIONS)
    ]
    assert seen["VALID/Anger/im9.png"] == (9, "angry", "PublicTest")
    assert seen["test/angry/im8.png"] == (8, "angry", "PrivateTest")


@pytest.mark.parametrize(
    ("split", "usage"),
    [("training", 0), ("val", 1), ("Validation", 1), ("public_test", 1), ("TEST", 2), ("PrivateTest", 2)],
)
def test_split_names(tmp_path, split, usage):
    read = read_faces(write_files(tmp_path / "set", {f"{split}/a/1.png": gray_png(0)}))
    assert read.usage.tolist() == [USAGES[usage]]


def test_spellings_of_a_class_in_other_splits_are_the_same_class(tmp_path):
    names = ("train/Angry/1.png", "train/Awe/2.png", "test/angry/3.png", "test/awe /4.png")
    read = read_faces(write_files(tmp_path / "set", {name: gray_png(value) for value, name in enumerate(names)}))
    assert read.classes == ("Angry", "Awe")
    assert sorted(read.labels.tolist()) == [0, 0, 1, 1]


def test_other_classes_are_sorted_and_images_converted(tmp_path):
    colours = np.zeros((20, 30, 3), np.uint8)
    colours[..., 0] = 200
    files = {f"train/{code}/a.jpg": encode(colours, "JPEG", quality=95) for code in (10, 2, 1)}
    files["test/2/b.png"] = gray_png(7, 64)
    folder = write_files(tmp_path / "raf", files)
    read = read_faces(folder, image_size=16, channels=3)
    assert read.classes == ("1", "2", "10")
    assert read.images.shape == (4, 16, 16, 3)
    assert read.name == "raf"
    assert abs(read.images[read.usage == "Training"].astype(int) - [200, 0, 0]).max() < 6
    assert (read.images[read.usage == "PrivateTest"] == 7).all()
    assert read_faces(folder, image_size=16, channels=1).images.shape == (4, 16, 16)


def test_mixed_sizes_or_channels_name_the_setting(tmp_path):
    sizes = write_files(tmp_path / "sizes", {f"train/a/{size}.png": gray_png(0, size) for size in (8, 9)})
    with pytest.raises(
        DataError, match=r"train/a/8\.png is 8x8 pixels and train/a/9\.png is 9x9; set data\.image_size"
    ):
        read_faces(sizes, on_error="skip")
    files = {f"train/a/{code:03}.png": gray_png(0) for code in range(70)}  # several chunks
    mixed = write_files(tmp_path / "mixed", files | {"val/b/1.png": encode(np.zeros((8, 8, 3), np.uint8))})
    with pytest.raises(DataError, match=r"grayscale and val/b/1\.png is in colour; set data\.channels"):
        read_faces(mixed)


def test_unreadable_images_are_reported_or_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr("fer_lightning.data.sources.image_folder.MAX_PIXELS", 1000)
    noise = np.random.default_rng(0).integers(0, 256, (30, 30), dtype=np.uint8)
    jpeg = encode(noise, "JPEG")
    files = {
        "train/a/cut.jpg": jpeg[: len(jpeg) // 2],
        "train/a/deep.png": encode(Image.fromarray(np.zeros((30, 30), np.uint16))),
        "train/a/empty.png": b"",
        "train/a/good.jpg": jpeg,
        "train/a/huge.png": encode(np.zeros((32, 32), np.uint8)),
        "train/a/text.png": b"this is not an image",
        "elsewhere.png": jpeg,
    }
    for path in (write_files(tmp_path / "set", files), write_zip(tmp_path / "set.zip", files)):
        with pytest.raises(DataError, match=r"6 of 7(?s:.*)and 1 more"):
            read_faces(path)
        read = read_faces(path, on_error="skip")
        assert read.names.tolist() == [b"train/a/good.jpg"]
        problems = "\n".join(read.skipped)
        for expected in (
            "elsewhere.png: it is not in a class folder of train, val or test",
            "train/a/cut.jpg: it cannot be read (image file is truncated",
            "train/a/deep.png: it cannot be read (more than 8 bits per channel",
            "train/a/empty.png: it cannot be read (the file is empty)",
            "train/a/huge.png: it cannot be read (32x32 pixels, at most 1,000 are allowed)",
            "train/a/text.png: it is not an image in a supported format",
        ):
            assert f"{path.name}, {expected}" in problems


def test_a_broken_link_is_one_unreadable_image(tmp_path):
    folder = write_files(tmp_path / "set", {"train/a/1.png": gray_png(0)})
    (folder / "train/a/2.png").symlink_to(tmp_path / "gone.png")
    read = read_faces(folder, on_error="skip")
    assert read.names.tolist() == [b"train/a/1.png"]
    assert "train/a/2.png: it cannot be read" in read.skipped[0]


def test_large_images_are_rejected_before_decoding():
    header = encode(Image.new("L", (8000, 8000)))
    with pytest.raises(ValueError, match="8000x8000 pixels, at most 50,000,000"):
        decode(header[:200])  # no pixel data: the header is enough


def test_exif_orientation_is_applied():
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to view
    upright = decode(encode(image, "JPEG", quality=100, exif=exif))
    assert upright.shape == (16, 8, 3)
    assert upright[:6].min() > 240
    assert upright[10:].max() < 15


def test_two_data_sets_in_one_folder_are_rejected(tmp_path):
    files = {"train/a/1.png": gray_png(0), "images/train/a/1.png": gray_png(0)}
    with pytest.raises(DataError, match=r"more than one set of images, in \./ and images/; set data\.path"):
        read_faces(write_files(tmp_path / "set", files))


def test_votes_cannot_be_joined_to_image_files(tmp_path):
    folder = write_files(tmp_path / "set", kaggle_files())
    with pytest.raises(DataError, match="only be joined to FER2013's csv, by row"):
        read_faces(folder, votes_path=tmp_path / "votes.csv")


# ------------------------------------------------------------------ locating FER2013


def test_find_fer2013_by_its_usual_names(tmp_path, faces):
    assert find_fer2013(tmp_path / "nowhere") is None
    assert find_fer2013(tmp_path) is None
    write_files(tmp_path, {"train/cat/1.png": gray_png(0), "test/cat/1.png": gray_png(0)})  # another data set
    write_zip(tmp_path / "archive.zip", {"train/cat/1.png": gray_png(0)})
    assert find_fer2013(tmp_path) is None
    write_zip(tmp_path / "archive.zip", kaggle_files())
    assert find_fer2013(tmp_path) == tmp_path / "archive.zip"
    write_files(tmp_path / "only" / "FER2013", kaggle_files())
    assert find_fer2013(tmp_path / "only") == tmp_path / "only" / "FER2013"
    for name in (
        "fer2013.tar.gz",
        "icml_face_data.csv",
        "fer2013.csv.xz",
        "FER2013.csv",
    ):  # each preferred to the previous
        (tmp_path / name).touch()
        assert find_fer2013(tmp_path) == tmp_path / name


def test_a_folder_with_the_csv_is_a_valid_path(tmp_path, faces):
    write_lines(tmp_path / "fer2013.csv", csv_lines(faces))
    assert_same(read_faces(tmp_path), faces)


def test_a_folder_of_images_is_read_even_if_it_contains_the_csv(tmp_path, faces):
    write_files(
        tmp_path, {"train/cat/1.png": gray_png(0), "train/dog/1.png": gray_png(1), "test/cat/1.png": gray_png(2)}
    )
    write_lines(tmp_path / "fer2013.csv", csv_lines(faces))
    assert read_faces(tmp_path).classes == ("cat", "dog")
    assert_same(read_fer2013(tmp_path), faces)


def test_read_fer2013_finds_it_or_names_the_searched_folder(tmp_path, faces):
    with pytest.raises(DataError, match=r"FER2013 not found in .*; put fer2013\.csv .* there, or set data\.path"):
        read_fer2013(data_folder=tmp_path)
    write_lines(tmp_path / "fer2013.csv", csv_lines(faces))
    assert_same(read_fer2013(data_folder=tmp_path), faces)
    other = write_files(tmp_path / "other", {"train/a/1.png": gray_png(0)})
    with pytest.raises(DataError, match=r"has the classes a, not FER2013's; read it with data=folder"):
        read_fer2013(other)


def test_locate_imports_no_large_packages():
    code = (
        "import sys, fer_lightning.data.sources.locate\n"
        "assert not {'torch', 'cv2', 'PIL', 'numpy', 'pandas', 'hydra'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


# ------------------------------------------------------------------ the real data set

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
