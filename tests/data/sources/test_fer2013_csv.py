"""FER2013's csv, valid and invalid, in files written by the tests."""

import io

import numpy as np
import pytest
from helpers.fer2013 import assert_same, csv_bytes, csv_lines, set_field, with_changed_row, write_csv, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_lightning.data.arrays import DataError
from fer_lightning.data.sources import fer2013_csv
from fer_lightning.data.sources.readers import read_faces
from fer_lightning.labels import EMOTIONS

PIXELS = 48 * 48


@pytest.mark.parametrize(
    "columns",
    [
        "emotion,pixels,Usage",
        "emotion, Usage, pixels",
        "pixels,Usage,emotion",
        "other,Usage,other,pixels,emotion",
    ],
)
def test_column_order_and_spaces_do_not_matter(tmp_path, rows, columns):
    read = read_faces(write_lines(tmp_path / "icml_face_data.csv", csv_lines(rows, columns)))
    assert_same(read, rows)
    assert read.name == "fer2013"
    assert read.classes == EMOTIONS
    assert read.names.tolist()[-1] == b"row 9"


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
def test_accepted_csv_variants(tmp_path, rows, change):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(change(csv_bytes(rows)))
    assert_same(read_faces(path), rows)


def test_result_does_not_depend_on_the_block_size(tmp_path, rows, monkeypatch):
    path = write_csv(tmp_path / "fer2013.csv", rows)
    for size in (1, 1000, 9001, 20000):
        monkeypatch.setattr(fer2013_csv, "_BLOCK", max(size, 700))
        read = read_faces(path, cache=False)
        assert_same(read, rows)
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
def test_an_invalid_row_is_reported_or_skipped(tmp_path, rows, change, message):
    path = write_lines(tmp_path / "fer2013.csv", with_changed_row(csv_lines(rows), 4, change))
    with pytest.raises(DataError) as error:
        read_faces(path)
    assert f"row 4: {message}" in str(error.value)
    assert str(path) in str(error.value)
    assert "1 of 9" in str(error.value)
    assert "data.on_error=skip" in str(error.value)
    read = read_faces(path, on_error="skip")
    keep = np.arange(9) != 3
    assert_same(read, [column[keep] for column in rows])
    assert b"row 4" not in read.names.tolist()
    assert len(read.skipped) == 1
    assert read.skipped[0].startswith(f"fer2013.csv, row 4: {message}")


def test_many_invalid_rows_are_counted_and_the_first_listed(tmp_path, rows):
    lines = csv_lines(rows)
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
