"""Malformed data sets: FER2013's csv, archives and votes."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

from helpers.valid_files import GOOD_CSV, ROW
from hypothesis import strategies as st

from fer_lightning.data.arrays import DataError
from fer_lightning.data.sources.readers import read_faces
from fer_lightning.labels import FERPLUS_COLUMNS, USAGES
from malformed.images import image
from malformed.target import Target
from malformed.values import damaged


@st.composite
def csv_texts(draw: st.DrawFn) -> bytes:
    """Text in the format of FER2013's csv, with invalid fields."""
    emotions = st.sampled_from(["0", "6", "7", "-1", "", "3.0", "x" * 99, "٣", '"1"'])
    numbers = st.sampled_from(["0", "255", "256", "-1", "1.5", "", "0000001", "9" * 400, "٣", "nan", "\0", "\t"])
    pixels = st.one_of(st.just(ROW), st.just(""), numbers, numbers.map(lambda n: ROW[:-1] + n), st.just(ROW + " 1"))
    usages = st.sampled_from([*USAGES, "Train", "", "Training\0", "\xa0Training"])
    fields = st.tuples(emotions, pixels, usages).map(",".join)
    junk = st.sampled_from([",,", "", ",", "\x00", ",,,,,,", "\ufeff", '"']) | st.text(max_size=30)
    lines = draw(st.lists(fields | junk, max_size=6))
    header = draw(
        st.sampled_from(["emotion,pixels,Usage", " Usage ,emotion, pixels", "emotion,pixels", "pixels,,Usage"])
    )
    end = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"]))
    return end.join([header, *lines]).encode("utf-8", "surrogatepass")


csvs = csv_texts() | damaged(GOOD_CSV.encode()) | st.binary(max_size=200)


def feed_csv(content: bytes, folder: Path) -> None:
    (folder / "fer2013.csv").write_bytes(content)
    for on_error in ("skip", "stop"):
        faces = read_faces(folder / "fer2013.csv", cache=False, on_error=on_error)
        assert faces.images.shape[1:] == (48, 48)


packed_csvs = st.one_of(
    csvs.map(gzip.compress),
    csvs.map(lzma.compress),
    *(damaged(pack(GOOD_CSV.encode())) for pack in (gzip.compress, lzma.compress)),
)


member_names = st.sampled_from(
    [
        *("fer2013.csv", "train/happy/1.png", "train/sad/2.png", "test/happy/1.png", "x/train/happy/1.jpg", "1.png"),
        *(
            "../fer2013.csv",
            "/tmp/fer2013.csv",
            "..\\fer2013.csv",
            "C:\\fer2013.csv",
            "train/../../1.png",
            "",
            ".",
            "/",
        ),
    ]
) | st.text(max_size=8)


contents = st.sampled_from([GOOD_CSV.encode(), image(), b""]) | csv_texts() | damaged(image())


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    file = io.BytesIO()
    methods = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    with zipfile.ZipFile(file, "w") as archive:
        for name in draw(st.lists(member_names, max_size=4, unique=True)):
            with contextlib.suppress(UnicodeEncodeError, IndexError):  # invalid names
                archive.writestr(name, draw(contents), draw(st.sampled_from(methods)))
    return draw(st.just(file.getvalue()) | damaged(file.getvalue()))


@st.composite
def tars(draw: st.DrawFn) -> bytes:
    file = io.BytesIO()
    mode = draw(st.sampled_from(["w", "w:gz", "w:xz"]))
    kinds = [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]
    with tarfile.open(fileobj=file, mode=mode, format=draw(st.sampled_from([0, 1, 2]))) as archive:
        for name in draw(st.lists(member_names, max_size=3)):
            member = tarfile.TarInfo(name)
            member.type = draw(st.sampled_from(kinds))
            member.linkname = "/etc/passwd"
            content = draw(contents) if member.isreg() else b""
            member.size = len(content)
            with contextlib.suppress(UnicodeEncodeError, ValueError):
                archive.addfile(member, io.BytesIO(content))
    return draw(st.just(file.getvalue()) | damaged(file.getvalue()))


def feed_archive(content: bytes, folder: Path) -> None:
    (folder / "set").mkdir()
    path = folder / "set" / "archive.zip"
    path.write_bytes(content)
    read_faces(path, cache=False, on_error="skip", image_size=16, channels=1)
    assert list(folder.rglob("*")) == [path.parent, path]


@st.composite
def votes(draw: st.DrawFn) -> bytes:
    cells = st.sampled_from(["0", "10", "-1", "1.5", "", "999", "1000", "x", "٣", '"', "\0"]) | st.text(max_size=5)
    header = ["Usage", "Image name", *FERPLUS_COLUMNS]
    rows = [[usage, "fer.png", *["1"] * 10] for usage in USAGES]
    for _ in range(draw(st.integers(0, 4))):
        row = draw(st.sampled_from([header, *rows]))
        row[draw(st.integers(0, len(row) - 1))] = draw(cells)
    text = "\n".join(map(",".join, [header, *rows[: draw(st.integers(0, 3))]])).encode("utf-8", "surrogatepass")
    return draw(st.just(text) | damaged(text))


def feed_votes(content: bytes, folder: Path) -> None:
    (folder / "fer2013.csv").write_text(GOOD_CSV)
    (folder / "votes.csv").write_bytes(content)
    faces = read_faces(folder / "fer2013.csv", votes_path=folder / "votes.csv", cache=False)
    assert faces.votes is not None
    assert faces.votes.shape == (3, 10)


TARGETS = [
    Target("FER2013's csv", csvs, feed_csv, (DataError,)),
    Target("csv.gz, csv.xz", packed_csvs, feed_csv, (DataError,)),
    Target("zip archives", zips(), feed_archive, (DataError,)),
    Target("tar archives", tars(), feed_archive, (DataError,)),
    Target("FER+ votes", votes(), feed_votes, (DataError,)),
]
