"""Image files in memory."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """An image as a file of this format."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def noise(height: int, width: int, *channels: int, seed: int = 0) -> np.ndarray:
    """Random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), np.uint8)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims this size, with few pixels."""
    head = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


UNREADABLE = {
    "cut.jpg": (encoded(noise(64, 64, 3), "JPEG")[:1000], "truncated"),
    "text.jpg": (b"this is not an image", "not an image in a known format"),
    "empty.jpg": (b"", "the file is empty"),
    "1x1.png": (encoded(np.zeros((1, 1), np.uint8)), "1x1 pixels are too few"),
    "20000x20000.png": (png_of_size(20_000, 20_000), "pixels"),
    "9000x9000.png": (png_of_size(9_000, 9_000), "9000x9000 pixels, the limit is 50,000,000"),
}
"""Files that no prediction accepts: name, content, and a part of the message."""
