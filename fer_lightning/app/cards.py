"""Rendering of images, predictions and heat maps."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from fer_lightning.app.heatmaps import HeatMap
from fer_lightning.inference.predict import Box, Prediction

Image = NDArray[np.uint8]

UNSURE = 0.5
"""Predictions with a lower confidence are marked as unsure."""

SHOWN_SIDE = 1200
"""Pixels; larger images are shrunk to this size for display."""

FACE_SIDE = 160
"""Size of a face on its card in pixels."""

STYLE = """<style>
.stMainBlockContainer {max-width: 68rem; padding-top: 4.5rem}
.fer-card {display: grid; grid-template-columns: minmax(4.5rem, 7rem) 1fr; gap: 0 1rem; align-items: start;
  margin-bottom: .75rem}
.fer-card img {width: 100%; border-radius: .5rem; display: block; margin-bottom: .35rem}
.fer-card figcaption, .fer-model {font-size: .8rem; opacity: .75; line-height: 1.3}
.fer-model {white-space: nowrap; overflow: hidden; text-overflow: ellipsis}
.fer-model:not(:empty) {margin-bottom: .35rem}
.fer-prediction {font-size: 1.15rem; font-weight: 600; line-height: 1.3; margin-bottom: .35rem}
.fer-unsure {color: light-dark(#B8420A, #F0884A); font-size: .85rem; font-weight: 600; margin-bottom: .35rem}
.fer-bar {display: grid; grid-template-columns: 5.2rem 1fr 2.8rem; gap: .5rem; align-items: center;
  font-size: .9rem; line-height: 1.55}
.fer-bar > span:last-child {text-align: right; font-variant-numeric: tabular-nums}
.fer-bar > div {background: rgba(128, 128, 128, .2); border-radius: .3rem; height: .6rem; overflow: hidden}
.fer-bar > div > div {background: #0072B2; height: 100%; border-radius: .3rem}
.fer-bar.fer-rest > div > div {background: #56B4E9}
@media (max-width: 640px) {
  .fer-card {grid-template-columns: 5rem 1fr; gap: 0 .75rem}
  .fer-bar {grid-template-columns: 4.2rem 1fr 2.4rem; gap: .4rem}
}
</style>"""
"""The colours match those of `reporting.figures`."""


def face_card(
    number: int,
    face: Image,
    prediction: Prediction,
    count: int,
    heat_map: tuple[HeatMap, str] | None = None,
    model: str = "",
) -> str:
    """Return the prediction of one model for one face, as HTML.

    Args:
        number: Number of the face in its image, from 1.
        face: uint8 (S, S) or (S, S, 3).
        prediction: The prediction.
        count: Number of classes to show.
        heat_map: Heat map for the most probable class and the name of its method.
        model: Name of the model, if there are two.
    """
    images = [f'<img src="{_data_uri(_resize(face, FACE_SIDE))}" alt="face {number}">']
    if heat_map:
        values, method = heat_map
        title = f"{method} for {html.escape(prediction.label)}" if values.any() else f"{method}: no relevant region"
        images.append(f'<img src="{_data_uri(overlay_heat_map(_resize(face, FACE_SIDE), values))}" alt="{title}">')
        images.append(f"<figcaption>{title}</figcaption>")
    unsure = ""
    if prediction.confidence < UNSURE:
        (_, _), (second, probability) = prediction.top(2)
        unsure = f'<div class="fer-unsure">Unsure. It could also be {html.escape(second)} ({probability:.0%}).</div>'
    bars = "".join(
        _bar(name, probability, first=rank == 0) for rank, (name, probability) in enumerate(prediction.top(count))
    )
    return (
        f'<div class="fer-model" title="{html.escape(model)}">{html.escape(model)}</div>'
        f'<div class="fer-card"><figure style="margin:0">{"".join(images)}</figure>'
        f'<div><div class="fer-prediction">{number}. {html.escape(prediction.label)}, {prediction.confidence:.0%}</div>'
        f"{unsure}{bars}</div></div>"
    )


def _bar(name: str, probability: float, first: bool) -> str:
    kind = "fer-bar" if first else "fer-bar fer-rest"
    return (
        f'<div class="{kind}"><span>{html.escape(name)}</span><div><div style="width:{probability:.1%}"></div></div>'
        f"<span>{probability:.0%}</span></div>"
    )


def escaped(text: str) -> str:
    """Escape text of a file name, record or bundle, which Markdown would otherwise render."""
    return "".join(f"\\{char}" if char in "\\`*_{}[]()<>#+-.!|~$:&" else char for char in text)


def shrink_for_display(image: Image) -> tuple[Image, float]:
    """Shrink an image for display; return it with its scale relative to the original."""
    scale = min(1.0, SHOWN_SIDE / max(image.shape[:2]))
    if scale == 1:
        return image, 1.0
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def draw_boxes(image: Image, boxes: Sequence[Box], scale: float) -> Image:
    """Draw numbered boxes, multiplied by `scale`, on an RGB copy of the image."""
    drawn = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image.copy()
    line = max(2, round(max(image.shape[:2]) / 300))
    font, blue, white = cv2.FONT_HERSHEY_SIMPLEX, (0, 114, 178), (255, 255, 255)
    for number, box in enumerate(boxes, start=1):
        x, y, width, height = (round(value * scale) for value in box)
        for colour, thickness in ((white, line + 2), (blue, line)):
            cv2.rectangle(drawn, (x, y), (x + width, y + height), colour, thickness)
        (across, up), _ = cv2.getTextSize(str(number), font, 0.35 * line, line)
        left, top = max(0, x), max(0, y)
        cv2.rectangle(drawn, (left, top), (left + across + 4 * line, top + up + 4 * line), blue, cv2.FILLED)
        cv2.putText(
            drawn, str(number), (left + 2 * line, top + up + 2 * line), font, 0.35 * line, white, line, cv2.LINE_AA
        )
    return np.asarray(drawn, np.uint8)


def overlay_heat_map(face: Image, heat_map: HeatMap) -> Image:
    """Overlay a heat map on a gray face, as RGB; bright yellow is the most relevant."""
    gray = face if face.ndim == 2 else cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)
    large = cv2.resize(heat_map, gray.shape[::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)
    heat = cv2.cvtColor(cv2.applyColorMap((255 * large).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return np.asarray(cv2.addWeighted(cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB), 0.5, heat, 0.5, 0), np.uint8)


def _resize(face: Image, side: int) -> Image:
    shrinks = face.shape[0] > side
    return np.asarray(
        cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC), np.uint8
    )


def _data_uri(image: Image) -> str:
    ordered = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", ordered, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
