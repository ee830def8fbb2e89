"""The real FER2013, and small files in its formats."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from fer_lightning.config import ROOT
from fer_lightning.labels import EMOTIONS
from helpers.images import encoded

REAL_DATA = Path(os.environ.get("FER_TEST_DATA", ROOT.parent / "shared" / "data"))


def csv_lines(rows, columns="emotion,pixels,Usage"):
    """The lines of a csv of rows (images, labels, usage), with the given columns."""
    lines = [columns]
    for image, label, usage in zip(*rows, strict=True):
        text = {
            "emotion": str(label),
            "pixels": " ".join(map(str, image.ravel())),
            "usage": usage,
            "other": "x",
        }
        lines.append(",".join(text[column.strip().lower()] for column in columns.split(",")))
    return lines


def csv_bytes(rows):
    """FER2013's csv of these rows."""
    return "\n".join(csv_lines(rows)).encode() + b"\n"


def write_csv(path, rows):
    """Write the file and return its path."""
    return write_lines(path, csv_lines(rows))


def write_lines(path, lines):
    path.write_bytes("\n".join(lines).encode() + b"\n")
    return path


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


def gray_png(value, size=8):
    """The file of a gray square."""
    return encoded(np.full((size, size), value, np.uint8))


def kaggle_files():
    """{path: bytes}: each class once in Training, PublicTest and PrivateTest."""
    files = {}
    for code, emotion in enumerate(EMOTIONS):
        files[f"train/{emotion}/Training_{code}.png"] = gray_png(code)
        files[f"test/{emotion}/PublicTest_{code}.png"] = gray_png(10 + code)
        files[f"test/{emotion}/PrivateTest_{code}.png"] = gray_png(20 + code)
    return files


def write_files(folder, files):
    """Write {path: bytes} below a folder and return the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def assert_same(read, rows):
    """Assert that a data set consists of these rows."""
    images, labels, usage = rows
    np.testing.assert_array_equal(read.images, images)
    np.testing.assert_array_equal(read.labels, labels)
    np.testing.assert_array_equal(read.usage, usage)


def with_changed_row(lines, row, change):
    """A copy of the lines in which `change` is applied to the fields of data row `row` (from 1)."""
    fields = lines[row].split(",")
    change(fields)
    return [*lines[:row], ",".join(fields), *lines[row + 1 :]]


def set_field(index, value):
    """A change for `with_changed_row`: the new value of a field, or a function of the old one."""

    def change(fields):
        fields[index] = value(fields[index]) if callable(value) else value

    return change
