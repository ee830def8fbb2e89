"""Pictures with their faces boxed and named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from fer_lightning.inference.images import read_picture, to_uint8
from fer_lightning.inference.media import Source
from fer_lightning.inference.predict import Prediction

YELLOW: Final = "#ffd400"


class Annotator:
    """Saves pictures with their faces boxed and named.

    Args:
        folder: Where to; a picture keeps its place below the folder that was named on the command line.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._taken: set[Path] = set()

    def save(self, source: Source, faces: Sequence[Prediction]) -> Path:
        """Draws and saves as PNG; two pictures of one name get different names."""
        picture = Image.fromarray(to_uint8(read_picture(source.image))).convert("RGB")
        draw = ImageDraw.Draw(picture)
        size = max(10, min(picture.size) // 24)
        font = ImageFont.load_default(size)
        for face in faces:
            x, y, width, height = face.box or (0, 0, *picture.size)
            draw.rectangle((x, y, x + width - 1, y + height - 1), outline=YELLOW, width=max(2, size // 8))
            text = f"{face.label} {face.confidence:.0%}"
            _, _, right, bottom = (int(side) + 3 for side in draw.textbbox((0, 0), text, font))
            x = max(0, min(x, picture.width - right))
            y = y - bottom if y >= bottom else max(0, y)  # above the box, or in it at the picture's upper edge
            draw.rectangle((x, y, x + right, y + bottom), fill=YELLOW)
            draw.text((x + 2, y + 1), text, "black", font)
        path = self._free(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        return path

    def _free(self, source: Source) -> Path:
        stem = source.below.stem if source.seconds is None else f"{source.below.stem}_{source.seconds:09.3f}s"
        below = self.folder / source.below.parent
        path, number = below / f"{stem}_faces.png", 1
        while path in self._taken:
            number += 1
            path = below / f"{stem}_faces_{number}.png"
        self._taken.add(path)
        return path
