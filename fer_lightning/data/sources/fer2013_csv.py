"""The csv of the FER2013 challenge: one image per row, its 2,304 gray values as text.

The pixels of a block of rows are parsed at once by arithmetic on its bytes. Rows with anything unusual are parsed again
in plain Python, which reports what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fer_lightning.data.arrays import DataError
from fer_lightning.data.sources.chunks import Chunk, ordered_map
from fer_lightning.labels import EMOTIONS, USAGES

SIDE: Final = 48
"""Pixels a side of every image of FER2013."""

_BLOCK: Final = 1 << 19  # bytes parsed at once: about 60 rows, whose arrays fit in the CPU cache
_LONGEST_LINE: Final = 1 << 20  # bytes; a row has at most 9,300
_COMMA, _NEWLINE, _SPACE, _ZERO = b",\n 0"
_Positions = NDArray[np.int64]


class _Columns(NamedTuple):
    """Indices of the columns and their number."""

    emotion: int
    pixels: int
    usage: int
    total: int


def read_csv(stream: BinaryIO, source: str) -> Iterator[Chunk]:
    """Read the challenge's csv in blocks.

    Args:
        stream: The uncompressed bytes. Columns `emotion`, `pixels`, `Usage` in any order, with any others; spaces,
            quotes, empty lines, a byte-order mark and Windows line endings are accepted.
        source: Name of the file in messages.

    Returns:
        Chunks of uint8 (n, 48, 48) images named `row 1`, `row 2`, ..., without the header.

    Raises:
        DataError: The file is empty, a column is missing, or the file is not a csv.
    """
    lines = _line_blocks(stream, source)
    block = next(lines, b"")
    header, _, rest = block.partition(b"\n")
    columns = _columns(header, source)

    def numbered() -> Iterator[tuple[int, bytes]]:
        row = 1
        for block in chain([rest] if rest else [], lines):
            yield row, block
            row += block.count(b"\n")

    return ordered_map(partial(_parse, columns), numbered())


def _line_blocks(stream: BinaryIO, source: str) -> Iterator[bytes]:
    """Yield blocks of whole lines, without quotes, empty lines and carriage returns."""
    rest = b""
    while data := stream.read(_BLOCK):
        data = rest + data
        cut = data.rfind(b"\n") + 1
        rest = data[cut:]
        if len(rest) > _LONGEST_LINE:
            raise DataError(f"{source} has a line of over {_LONGEST_LINE:,} bytes; it is not FER2013's csv")
        if block := _normalise_block(data[:cut]):
            yield block
    if block := _normalise_block(rest + b"\n"):
        yield block


def _normalise_block(block: bytes) -> bytes:
    block = block.replace(b'"', b"").replace(b"\r", b"")
    while b"\n\n" in block:
        block = block.replace(b"\n\n", b"\n")
    return block.lstrip(b"\n")


def _columns(header: bytes, source: str) -> _Columns:
    if not header.strip():
        raise DataError(f"{source} is empty")
    names = [name.strip() for name in header.decode("utf-8-sig", "replace").split(",")]
    lower = [name.lower() for name in names]
    for needed in ("emotion", "pixels", "Usage"):
        if needed.lower() not in lower:
            raise DataError(
                f"{source} has no column {needed!r}, its first line is {', '.join(names)[:80]!r}; "
                "FER2013's csv begins with 'emotion,pixels,Usage'"
            )
    return _Columns(lower.index("emotion"), lower.index("pixels"), lower.index("usage"), len(names))


def _parse(columns: _Columns, numbered: tuple[int, bytes]) -> Chunk:
    """Parse a block of whole lines; `numbered` is the row number of the first and the block."""
    first_row, block = numbered
    text = np.frombuffer(block, np.uint8)
    whole, edges, problems = _split_rows(text, columns.total)

    labels = np.full(len(whole), -1)
    emotion = _text_fields(text, edges[:, columns.emotion] + 1, edges[:, columns.emotion + 1])
    for code in range(len(EMOTIONS)):
        labels[emotion == str(code).encode()] = code
    for at in np.flatnonzero(labels < 0):
        value = emotion[at].decode("utf-8", "replace")
        problems[int(whole[at])] = f"emotion is {value!r}, it must be 0 to {len(EMOTIONS) - 1}"

    usage = _text_fields(text, edges[:, columns.usage] + 1, edges[:, columns.usage + 1])
    for at in np.flatnonzero(~np.isin(usage, np.array(USAGES, "S"))):
        value = usage[at].decode("utf-8", "replace")
        problems[int(whole[at])] = f"Usage is {value!r}, it must be {', '.join(USAGES[:-1])} or {USAGES[-1]}"

    start, stop = edges[:, columns.pixels] + 1, edges[:, columns.pixels + 1]
    short = stop - start < 2 * SIDE * SIDE - 1  # too short for 2,304 numbers; a block may have many such rows
    for at in np.flatnonzero(short):
        problems[int(whole[at])] = str(_parse_pixels_or_error(block[start[at] : stop[at]]))
    whole, labels, usage, start, stop = whole[~short], labels[~short], usage[~short], start[~short], stop[~short]
    images, parsed = _parse_pixels(text, start, stop)
    for at in np.flatnonzero(~parsed):
        pixels = _parse_pixels_or_error(block[start[at] : stop[at]])
        if isinstance(pixels, str):
            problems[int(whole[at])] = pixels
        else:
            images[at] = pixels

    good = ~np.isin(whole, list(problems))
    names = [f"row {first_row + row}".encode() for row in whole[good]]
    return Chunk(
        images[good].reshape(-1, SIDE, SIDE),
        labels[good],
        usage[good].astype(f"U{max(map(len, USAGES))}"),
        np.array(names, "S"),
        tuple(f"row {first_row + row}: {problems[row]}" for row in sorted(problems)),
    )


def _split_rows(text: NDArray[np.uint8], columns: int) -> tuple[_Positions, _Positions, dict[int, str]]:
    """Find the fields of each row.

    Returns:
        The rows with `columns` fields, (n,); their edges, (n, columns + 1): field i is between edges i and i + 1; and
        the problem of each other row.
    """
    row_end = np.flatnonzero(text == _NEWLINE)
    row_start = np.concatenate(([0], row_end[:-1] + 1))
    commas = np.flatnonzero(text == _COMMA)
    first_comma = np.searchsorted(commas, row_start)
    fields = np.diff(first_comma, append=len(commas)) + 1
    whole = np.flatnonzero(fields == columns)
    inner = commas[first_comma[whole, None] + np.arange(columns - 1)]
    edges = np.column_stack((row_start[whole] - 1, inner, row_end[whole]))
    problems = {
        int(row): f"{fields[row]} columns, the header has {columns}" for row in np.flatnonzero(fields != columns)
    }
    return whole, edges, problems


def _text_fields(text: NDArray[np.uint8], start: _Positions, stop: _Positions) -> NDArray[np.bytes_]:
    """Return the fields between `start` and `stop`, (n,) bytes, stripped and truncated to 40 characters."""
    width = min(40, max(1, int((stop - start).max(initial=0))))
    offset = np.arange(width)
    letters = text[np.minimum(start[:, None] + offset, len(text) - 1)]
    letters[offset >= (stop - start)[:, None]] = 0
    return np.strings.strip(letters.view(f"S{width}")[:, 0])


def _parse_pixels(
    text: NDArray[np.uint8], start: _Positions, stop: _Positions
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Parse the numbers between `start` and `stop` of each row.

    Returns:
        uint8 (n, 2304), and bool (n,): whether the row is 2,304 numbers of up to three digits, at most 255, between
        spaces. The values of other rows are undefined.
    """
    digit = text - np.uint8(_ZERO)  # wraps around, so that everything except digits is above 9
    is_digit = digit < 10
    digit *= is_digit
    value = digit.astype(np.uint16)  # the number, at its last digit
    value[1:] += digit[:-1] * np.uint8(10)
    value[2:] += (digit[:-2] * is_digit[1:-1]) * np.uint16(100)
    ends = np.flatnonzero(is_digit[:-1] > is_digit[1:])  # the text ends with a newline, so the last number is included
    too_long = np.flatnonzero(is_digit[:-3] & is_digit[1:-2] & is_digit[2:-1] & is_digit[3:])
    unexpected = np.flatnonzero(~is_digit & (text != _SPACE))

    first = np.searchsorted(ends, start)
    parsed = np.searchsorted(ends, stop) - first == SIDE * SIDE
    for unusual in (too_long, unexpected):
        parsed &= np.searchsorted(unusual, start) == np.searchsorted(unusual, stop)
    columns = np.where(parsed, first, 0)[:, None] + np.arange(SIDE * SIDE)
    numbers = value[ends].take(columns, mode="clip") if len(ends) else np.zeros(columns.shape, np.uint16)
    parsed &= (numbers <= 255).all(axis=1)
    return numbers.astype(np.uint8), parsed


def _parse_pixels_or_error(field: bytes) -> NDArray[np.uint8] | str:
    """Return the pixels of one row, uint8 (2304,), or a description of the problem."""
    words = field.split()
    if len(words) != SIDE * SIDE:
        return f"{len(words):,} pixels, expected {SIDE * SIDE:,}"
    for position, word in enumerate(words, 1):
        if not word.isdigit() or len(word.lstrip(b"0")) > 3 or int(word) > 255:
            shown = word[:20].decode("utf-8", "replace")
            return f"pixel {position} is {shown!r}, it must be a whole number from 0 to 255"
    return np.array([int(word) for word in words], np.uint8)
