"""How pictures and answers are drawn."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from fer_lightning.app.heatmaps import HeatMap
from fer_lightning.inference.detect import Box
from fer_lightning.inference.predict import Prediction

Picture = NDArray[np.uint8]

UNSURE = 0.5
"""Below this confidence the answer is called unsure."""

SHOWN_SIDE = 1200
"""Pixels; larger pictures are shown at this size."""

FACE_SIDE = 160
"""Pixels of a face on its card."""

STYLE = """<style>
.stMainBlockContainer {max-width: 68rem; padding-top: 4.5rem}
.fer-card {display: grid; grid-template-columns: minmax(4.5rem, 7rem) 1fr; gap: 0 1rem; align-items: start;
  margin-bottom: .75rem}
.fer-card img {width: 100%; border-radius: .5rem; display: block; margin-bottom: .35rem}
.fer-card figcaption, .fer-by {font-size: .8rem; opacity: .75; line-height: 1.3}
.fer-by {white-space: nowrap; overflow: hidden; text-overflow: ellipsis}
.fer-by:not(:empty) {margin-bottom: .35rem}
.fer-answer {font-size: 1.15rem; font-weight: 600; line-height: 1.3; margin-bottom: .35rem}
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
"""The colours are those of `reporting.figures`."""


def face_card(
    number: int,
    face: Picture,
    answer: Prediction,
    count: int,
    seen: tuple[HeatMap, str] | None = None,
    by: str = "",
) -> str:
    """The prediction of one model for one face, as HTML.

    Args:
        number: Of the face in its picture, from 1.
        face: uint8 (S, S) or (S, S, 3).
        answer: The prediction.
        count: Classes that get a bar.
        seen: The heat map for the most probable class and the name of its method.
        by: Whose answer it is, where there are two.
    """
    pictures = [f'<img src="{_data_uri(_sized(face, FACE_SIDE))}" alt="face {number}">']
    if seen:
        title = f"{seen[1]} for {html.escape(answer.label)}" if seen[0].any() else f"{seen[1]}: nothing stands out"
        pictures.append(f'<img src="{_data_uri(overlaid(_sized(face, FACE_SIDE), seen[0]))}" alt="{title}">')
        pictures.append(f"<figcaption>{title}</figcaption>")
    unsure = ""
    if answer.confidence < UNSURE:
        (_, _), (second, share) = answer.top(2)
        unsure = f'<div class="fer-unsure">Unsure. It could also be {html.escape(second)} ({share:.0%}).</div>'
    bars = "".join(_bar(name, share, first=rank == 0) for rank, (name, share) in enumerate(answer.top(count)))
    return (
        f'<div class="fer-by" title="{html.escape(by)}">{html.escape(by)}</div>'
        f'<div class="fer-card"><figure style="margin:0">{"".join(pictures)}</figure>'
        f'<div><div class="fer-answer">{number}. {html.escape(answer.label)}, {answer.confidence:.0%}</div>'
        f"{unsure}{bars}</div></div>"
    )


def _bar(name: str, share: float, first: bool) -> str:
    kind = "fer-bar" if first else "fer-bar fer-rest"
    return (
        f'<div class="{kind}"><span>{html.escape(name)}</span><div><div style="width:{share:.1%}"></div></div>'
        f"<span>{share:.0%}</span></div>"
    )


def shrunk(picture: Picture) -> tuple[Picture, float]:
    """The picture at the size at which it is shown, and how many of its pixels one of the original becomes."""
    scale = min(1.0, SHOWN_SIDE / max(picture.shape[:2]))
    if scale == 1:
        return picture, 1.0
    size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def boxed(picture: Picture, boxes: Sequence[Box], scale: float) -> Picture:
    """A copy of the picture, RGB, with numbered boxes that are `scale` times as large in it."""
    drawn = cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB) if picture.ndim == 2 else picture.copy()
    line = max(2, round(max(picture.shape[:2]) / 300))
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


def overlaid(face: Picture, seen: HeatMap) -> Picture:
    """The face in gray under a heat map, RGB: bright yellow is what mattered most."""
    gray = face if face.ndim == 2 else cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)
    large = cv2.resize(seen, gray.shape[::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)
    heat = cv2.cvtColor(cv2.applyColorMap((255 * large).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return np.asarray(cv2.addWeighted(cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB), 0.5, heat, 0.5, 0), np.uint8)


def _sized(face: Picture, side: int) -> Picture:
    shrinks = face.shape[0] > side
    return np.asarray(
        cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC), np.uint8
    )


def _data_uri(picture: Picture) -> str:
    ordered = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", ordered, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
