"""Images with boxes and labels drawn around their faces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from fer_lightning.inference.images import read_image, to_uint8
from fer_lightning.inference.media import Source
from fer_lightning.inference.predict import Prediction

YELLOW: Final = "#ffd400"


class Annotator:
    """Saves images with boxes and labels drawn around their faces.

    Args:
        folder: Output folder; paths below the folders named on the command line are preserved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._used: set[Path] = set()

    def save(self, source: Source, faces: Sequence[Prediction]) -> Path:
        """Save an annotated PNG under a name that this object has not used yet, and return its path."""
        image = Image.fromarray(to_uint8(read_image(source.image))).convert("RGB")
        draw = ImageDraw.Draw(image)
        size = max(10, min(image.size) // 24)
        font = ImageFont.load_default(size)
        for face in faces:
            x, y, width, height = face.box or (0, 0, *image.size)
            draw.rectangle((x, y, x + width - 1, y + height - 1), outline=YELLOW, width=max(2, size // 8))
            text = f"{face.label} {face.confidence:.0%}"
            _, _, right, bottom = (int(side) + 3 for side in draw.textbbox((0, 0), text, font))
            x = max(0, min(x, image.width - right))
            y = y - bottom if y >= bottom else max(0, y)  # inside the box at the upper edge of the image
            draw.rectangle((x, y, x + right, y + bottom), fill=YELLOW)
            draw.text((x + 2, y + 1), text, "black", font)
        path = self._unique_path(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        return path

    def _unique_path(self, source: Source) -> Path:
        stem = (
            source.relative_path.stem
            if source.seconds is None
            else f"{source.relative_path.stem}_{source.seconds:09.3f}s"
        )
        below = self.folder / source.relative_path.parent
        path, number = below / f"{stem}_faces.png", 1
        while path in self._used:
            number += 1
            path = below / f"{stem}_faces_{number}.png"
        self._used.add(path)
        return path
