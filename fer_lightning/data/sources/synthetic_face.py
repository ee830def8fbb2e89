"""Drawing of one synthetic face. Person, pose, light and the strength of its expression are random."""

from __future__ import annotations

import cmath
import math
from collections.abc import Mapping
from functools import cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from fer_lightning.data.sources.synthetic_expressions import ACTION_UNITS, PROTOTYPES

_Points = NDArray[np.complex128]  # x + iy, x to the right, y down: rotation is multiplication
_UNIT: Final = np.linspace(-1, 1, 13)
_CIRCLE: Final = np.exp(1j * np.linspace(0, 2 * np.pi, 32, endpoint=False))


def _arc(half_width: float, height: float, bulge: float, power: float = 2.0) -> _Points:
    """Return a curve from (-half_width, height) to (half_width, height) whose middle is `bulge` lower."""
    curve = half_width * _UNIT + 1j * (height + bulge * (1 - np.abs(_UNIT) ** power))
    return np.asarray(curve, np.complex128)


def _ellipse(x: float, y: float, width: float, height: float, power: float = 2.0) -> _Points:
    """Return a superellipse around (x, y) with half-axes `width` and `height`."""
    cosine, sine = _CIRCLE.real, _CIRCLE.imag
    if power != 2:
        cosine = np.sign(cosine) * np.abs(cosine) ** (2 / power)
        sine = np.sign(sine) * np.abs(sine) ** (2 / power)
    return np.asarray(x + width * cosine + 1j * (y + height * sine), np.complex128)


def _between(one: _Points, other: _Points) -> _Points:
    """Return the outline of the area between two curves of the same direction."""
    return np.concatenate([one, other[::-1]])


@cache
def _taper(points: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions 0..1 along a line and its relative thickness there: half at its tips."""
    t = np.linspace(0, 1, points)
    return t, np.minimum(1, 0.5 + 4 * t * (1 - t))


def _ribbon(line: _Points, start: float, end: float | None = None) -> _Points:
    """Return the outline of a line whose half-thickness changes from `start` to `end` and tapers at its tips."""
    along = np.empty_like(line)
    along[1:-1] = line[2:] - line[:-2]
    along[0], along[-1] = line[1] - line[0], line[-1] - line[-2]
    t, taper = _taper(len(line))
    half = start * taper if end is None else (start + (end - start) * t) * taper
    sideways = 1j * along / (np.abs(along) + 1e-9) * half
    return _between(line + sideways, line - sideways)


def _mirror(points: _Points, side: int) -> _Points:
    """Return the points for the right side of the image (1) or, mirrored, for the left (-1)."""
    return points if side > 0 else -points.conj()


def _within(points: _Points, top: _Points, bottom: _Points) -> _Points:
    """Return the points, clipped vertically to the area between the curves `top` and `bottom`."""
    ceiling, floor = (np.interp(points.real, curve.real, curve.imag) for curve in (top, bottom))
    return np.asarray(points.real + 1j * np.minimum(np.maximum(points.imag, ceiling), floor), np.complex128)


class Face:
    """One face: a person in a pose. The unit is half the width of an average face, the origin between the eyes.

    Args:
        rng: Generator for person, pose, strength of the expression and light.
        image_size: Pixels a side.
    """

    def __init__(self, rng: np.random.Generator, image_size: int) -> None:
        def around(mean: float, deviation: float) -> float:
            return mean + deviation * min(max(rng.normal(), -2.2), 2.2)

        self.rng = rng
        self.image_size = image_size
        # Pose
        self.scale = 2 * image_size * rng.uniform(0.35, 0.44)  # drawn at twice the size, then downsampled
        self.centre = 2 * image_size * complex(around(0.5, 0.035), around(0.43, 0.035))
        roll, yaw, pitch = around(0, 0.13), around(0, 0.28), around(0, 0.14)
        turn, stretch, skew = self.scale * cmath.exp(1j * roll), around(0, 0.04), around(0, 0.05)
        across, down = turn * (1 + stretch), turn * complex(skew, 1 - stretch)
        self.along_x, self.along_y = across * math.cos(yaw), down * math.cos(pitch)
        self.along_depth = across * math.sin(yaw) + down * math.sin(pitch)
        # Person
        self.skin = rng.uniform(90, 215)
        self.hair = float(
            rng.choice([rng.uniform(15, 60), rng.uniform(60, 120), rng.uniform(150, 215)], p=[0.5, 0.3, 0.2])
        )
        self.hair_style = str(rng.choice(["bald", "short", "fringe", "parted", "long"], p=[0.07, 0.28, 0.2, 0.2, 0.25]))
        self.beard = self.hair_style != "long" and rng.random() < 0.15
        self.width, self.height, self.chin = around(1.0, 0.05), around(1.0, 0.06), around(0.12, 0.07)
        self.eye = complex(around(0.42, 0.03), around(0, 0.03))
        self.eye_width, self.iris = around(0.22, 0.02), rng.uniform(25, 100)
        self.gaze = complex(around(0, 0.035), around(0, 0.015))
        self.brow_y, self.brow_thickness = around(-0.33, 0.045), around(0.05, 0.01)
        self.brow = min(0.7 * self.hair, 0.55 * self.skin)
        self.nose_length, self.nose_width = around(0.45, 0.04), around(0.16, 0.02)
        self.mouth_y, self.mouth_width, self.lip = around(0.8, 0.03), around(0.34, 0.03), around(0.06, 0.012)
        self.lip_gray = self.skin * rng.uniform(0.55, 0.82)
        self.canvas = self._background()

    def draw(self, emotion: str) -> NDArray[np.uint8]:
        """Draw one image of the expression, uint8 (image_size, image_size)."""
        action = self._action_strengths(emotion)
        self._head(action)
        self._apply_shading(action)
        for side in (-1, 1):
            self._eye(side, action)
            self._brow(side, action)
        self._nose(action)
        self._mouth(action)
        if self.rng.random() < 0.15:
            self._glasses()
        if self.rng.random() < 0.08:
            self._occlusion()
        return self._apply_camera()

    def _action_strengths(self, emotion: str) -> dict[str, float]:
        """Strength of every action unit: a prototype, scaled at random, plus the person's deviation at rest."""
        prototypes = PROTOTYPES[emotion]
        prototype = prototypes[self.rng.integers(len(prototypes))]
        strength = self.rng.uniform(0.5, 1.2)
        own = strength * self.rng.normal(1, 0.15, len(ACTION_UNITS))
        rest = self.rng.normal(0, 0.1, len(ACTION_UNITS))
        return {
            unit: max(0.0, prototype.get(unit, 0.0) * float(own[i]) + float(rest[i]))
            for i, unit in enumerate(ACTION_UNITS)
        }

    # From face coordinates to the canvas

    def _project(self, points: _Points) -> _Points:
        """Projects points on the face, a rotated and tilted ellipsoid, to canvas pixels."""
        x, y = points.real, points.imag
        depth = 0.8 * np.sqrt(np.maximum(0, 1 - (x / 1.1) ** 2 - ((y - 0.2) / 1.4) ** 2))
        pixels = x * self.along_x + y * self.along_y + depth * self.along_depth + self.centre
        return np.asarray(pixels, np.complex128)

    def _fill(self, outline: _Points, gray: float, layer: NDArray[np.uint8] | None = None) -> None:
        """Fill an outline with a gray value of 0..255, on the canvas or on another layer of the same size."""
        pixels = self._project(outline).view(np.float64).reshape(-1, 1, 2)
        fixed_point = np.rint(pixels * 16).astype(np.int32)  # 4 fractional bits
        target = self.canvas if layer is None else layer
        cv2.fillPoly(target, [fixed_point], min(max(gray, 0.0), 255.0), cv2.LINE_AA, shift=4)

    def _blur(self, layer: NDArray[np.uint8], radius: float) -> NDArray[np.float32]:
        """Gaussian blur with a standard deviation of `radius` face units."""
        return np.asarray(cv2.GaussianBlur(layer, (0, 0), radius * self.scale), np.float32)

    # Parts of the face, in drawing order

    def _background(self) -> NDArray[np.uint8]:
        cells = int(self.rng.integers(2, 7))
        coarse = self.rng.normal(self.rng.uniform(40, 210), self.rng.uniform(5, 45), (cells, cells))
        interpolation = cv2.INTER_CUBIC if self.rng.random() < 0.8 else cv2.INTER_NEAREST
        side = 2 * self.image_size
        background = cv2.resize(np.clip(coarse, 0, 255).astype(np.uint8), (side, side), interpolation=interpolation)
        return np.asarray(background, np.uint8)

    def _outline(self, action: Mapping[str, float]) -> _Points:
        """Return the outline of the face from crown to chin."""
        x, y = self.width * _CIRCLE.real, self.height * _CIRCLE.imag
        y = np.where(y > 0, y * (1.22 + 0.2 * action["jaw_drop"]), y * 1.12)
        x = x * (1 - self.chin * np.minimum(np.maximum(y - 0.25, 0), 1))
        return np.asarray(x + 1j * y, np.complex128)

    def _head(self, action: Mapping[str, float]) -> None:
        shoulders = np.array([-2.2 + 2.8j, -1.6 + 1.75j, -0.5 + 1.45j, 0.5 + 1.45j, 1.6 + 1.75j, 2.2 + 2.8j])
        self._fill(shoulders, self.rng.uniform(20, 230))
        volume = self.rng.uniform(1.08, 1.22)
        if self.hair_style == "long":
            self._fill(_ellipse(0, 0.6, 1.1 * volume * self.width, 1.95 + 0.1 * volume, 3.2), 0.8 * self.hair)
        elif self.hair_style != "bald":
            self._fill(_ellipse(0, -0.4, 1.08 * self.width, 0.95 * volume, 2.3), 0.9 * self.hair)
        neck = 0.55 * self.width
        throat = np.array([-neck + 0.8j, neck + 0.8j, neck + 1.5j, 1.7j, -neck + 1.5j])
        self._fill(throat, 0.8 * self.skin)
        if self.hair_style != "long":
            for side in (-1, 1):
                self._fill(_ellipse(side * self.width, 0.12, 0.12, 0.24), 0.88 * self.skin)
                self._fill(_ellipse(side * 1.02 * self.width, 0.12, 0.05, 0.13), 0.66 * self.skin)
        self._fill(self._outline(action), self.skin)
        if self.hair_style == "bald":
            return
        x = 1.04 * self.width * _UNIT
        rise = np.sqrt(1 - 0.98 * _UNIT**2)
        tufts = self.rng.normal(0, 0.03, len(_UNIT))
        parting = self.rng.uniform(-0.5, 0.5)
        hairline = {
            "short": -0.1 - 0.68 * rise**0.6 + tufts,
            "fringe": -0.05 - 0.5 * rise**0.7 + 2 * tufts,
            "parted": -0.15 - 0.8 * np.abs(np.cos((_UNIT - parting) * 1.1)) ** 2 * rise**0.4,
            "long": 0.75 - 1.6 * rise**0.8 * np.cos((_UNIT - parting) * 0.8),
        }[self.hair_style]
        crown = -0.4 - 0.95 * volume * rise
        self._fill(_between(x + 1j * crown, x + 1j * np.maximum(hairline, crown)), self.hair)

    def _apply_shading(self, action: Mapping[str, float]) -> None:
        """Apply soft light and shadow; a layer value of 128 is neutral."""
        smile = min(action["lip_corner_puller"] + 0.6 * action["upper_lip_raiser"], 1.5)
        frown, wrinkle = min(action["brow_lowerer"], 1.2), min(action["nose_wrinkler"], 1.2)
        jaw = 0.2 * action["jaw_drop"]
        layer = np.full_like(self.canvas, 128)
        shine = _ellipse(self.rng.uniform(-0.4, 0.4), -1.05, 0.4, 0.12)  # on hair or scalp
        self._fill(shine, 175, layer)
        self._fill(self._outline(action), 104, layer)
        self._fill(0.88 * self._outline(action), 124, layer)
        self._fill(_ellipse(0, -0.62, 0.55, 0.2), 138, layer)
        self._fill(_ellipse(0, 1.05 + jaw, 0.2, 0.08), 140, layer)
        for side in (-1, 1):
            self._fill(_ellipse(side * self.eye.real, self.eye.imag - 0.08, 0.3, 0.2), 108, layer)
            self._fill(_ellipse(side * 0.55, 0.42 - 0.06 * smile, 0.24, 0.18), 134 + 10 * smile, layer)
            self._fill(_ellipse(side * 0.8 * self.nose_width, 0.2, 0.05, 0.22), 106, layer)
        self._fill(_ellipse(0, 0.15, 0.06, 0.3), 146, layer)
        folds = np.full_like(self.canvas, 128)
        for side in (-1, 1):
            fold = _mirror(np.array([0.19 + 0.42j, 0.33 + 0.54j, 0.45 + 0.68j, 0.5 + 0.82j]), side)
            self._fill(_ribbon(fold, 0.035), 118 - 45 * smile, folds)
            knit = _mirror(np.array([0.1 - 0.42j, 0.08 - 0.3j, 0.1 - 0.2j]), side) - side * 0.03 * frown
            self._fill(_ribbon(knit, 0.03), 126 - 50 * frown, folds)
        for height in (-0.1, -0.01, 0.08):
            self._fill(_ribbon(_arc(0.15, height, -0.05), 0.022), 128 - 70 * wrinkle, folds)
        for height in (-0.74, -0.6):
            raised = min(max(action["inner_brow_raiser"] - 0.3, 0), 1)
            self._fill(_ribbon(_arc(0.45, height, -0.03), 0.02), 128 - 40 * raised, folds)
        light = self._blur(layer, 0.1) * self._blur(folds, 0.03) / 128**2
        if self.beard:
            jawline = np.sort(self._outline(action)[_CIRCLE.imag > 0.25])  # complex numbers sort by x first
            whiskers = np.zeros_like(self.canvas)
            upper = np.interp(jawline.real, [-0.9, -0.55, 0, 0.55, 0.9], [0.2, 0.6, 0.55, 0.6, 0.2])
            density = 255 * self.rng.uniform(0.3, 0.9)
            self._fill(_between(jawline, jawline.real + 1j * upper), density, whiskers)
            light *= 1 - (1 - self.brow / self.skin) * self._blur(whiskers, 0.04) / 255
        self.canvas = np.minimum(self.canvas * light, 255).astype(np.uint8)

    def _eye(self, side: int, action: Mapping[str, float]) -> None:
        closing = 0.3 * action["lid_tightener"] + 0.3 * action["nose_wrinkler"] + 0.3 * action["cheek_raiser"]
        upper = 0.115 * max(0.08, 1 + 0.7 * action["upper_lid_raiser"] - closing - 0.9 * action["eyes_closed"])
        closing = 0.5 * action["lid_tightener"] + 0.4 * action["nose_wrinkler"] + 0.8 * action["cheek_raiser"]
        lower = max(0.075 * (1 + 0.35 * action["upper_lid_raiser"] - closing), -0.2 * upper)
        slant = 0.1 * (action["inner_brow_raiser"] - action["outer_brow_raiser"] - action["brow_lowerer"])
        centre = complex(side * self.eye.real, self.eye.imag)

        def paint(points: _Points, gray: float) -> None:
            self._fill(centre + points + 1j * slant * side * points.real, gray)

        lid, bottom = _arc(self.eye_width, 0, -upper), _arc(self.eye_width, 0, lower)
        paint(_between(lid, bottom), min(245, 0.5 * self.skin + 120))
        x, y = self.gaze.real, self.gaze.imag
        paint(_within(_ellipse(x, y, 0.1, 0.1), lid, bottom), self.iris)
        paint(_within(_ellipse(x, y, 0.05, 0.05), lid, bottom), 12)
        if upper > 0.06:
            paint(_ellipse(x - 0.035, y - 0.035, 0.024, 0.024), 250)
        paint(_ribbon(lid, 0.026), 0.2 * self.skin)
        paint(_ribbon(bottom, 0.012), 0.6 * self.skin)
        paint(_ribbon(_arc(0.9 * self.eye_width, -0.06, -upper), 0.012), 0.68 * self.skin)

    def _brow(self, side: int, action: Mapping[str, float]) -> None:
        raised, outer_raised, lowered = (
            action[unit] for unit in ("inner_brow_raiser", "outer_brow_raiser", "brow_lowerer")
        )
        inner = 0.17 * (lowered - raised) + 0.08 * action["nose_wrinkler"]
        outer = 0.04 * raised - 0.17 * outer_raised - 0.02 * lowered
        arch = 0.07 + 0.04 * outer_raised - 0.05 * lowered
        start = 0.19 - 0.06 * lowered
        t = (_UNIT + 1) / 2
        x = start + (self.eye.real + 0.27 - start) * t
        y = self.brow_y + 0.02 + inner * (1 - t) ** 1.5 + outer * t**0.7 - arch * np.sin(np.pi * t**1.2)
        thickness = self.brow_thickness
        self._fill(_ribbon(_mirror(x + 1j * y, side), thickness, 0.5 * thickness), self.brow)

    def _nose(self, action: Mapping[str, float]) -> None:
        tip = self.nose_length - 0.06 * action["nose_wrinkler"]
        width = self.nose_width * (1 + 0.15 * action["nose_wrinkler"] + 0.08 * action["lip_corner_puller"])
        self._fill(_ribbon(_arc(0.75 * width, tip + 0.02, 0.05), 0.018), 0.68 * self.skin)
        for side in (-1, 1):
            self._fill(_ellipse(side * 0.5 * width, tip + 0.03, 0.042, 0.026), 0.36 * self.skin)
            wing = np.array([0.82 * width - 0.09j, 1.05 * width - 0.01j, 0.85 * width + 0.05j]) + 1j * tip
            self._fill(_ribbon(_mirror(wing, side), 0.016), 0.66 * self.skin)

    def _mouth(self, action: Mapping[str, float]) -> None:
        smile, frown, jaw = action["lip_corner_puller"], action["lip_corner_depressor"], action["jaw_drop"]
        stretch, sneer = action["lip_stretcher"], action["upper_lip_raiser"]
        tight, part = min(action["lip_tightener"], 1.0), min(action["lips_part"], 1.0)
        rounded = jaw * max(0.0, 1 - smile - stretch)
        half_width = self.mouth_width * (1 + 0.3 * smile + 0.3 * stretch - 0.35 * rounded - 0.12 * tight)
        corner = self.mouth_y - 0.12 * smile + 0.1 * frown + 0.1 * jaw + 0.02 * stretch
        middle = 0.2 * smile - 0.17 * frown + 0.02  # offset of a closed mouth's middle below its corners
        opened = 0.2 * part + 0.4 * jaw
        above = middle - (0.35 - 0.2 * min(jaw, 1)) * opened - 0.1 * sneer
        below = middle + (0.65 + 0.2 * min(jaw, 1)) * opened + 0.01
        boxy = 2 + 2.5 * min(stretch, 1) + min(sneer, 1)
        thickness = self.lip * (1 - 0.6 * tight) * (1 - 0.25 * min(smile, 1))
        upper, lower = _arc(half_width, corner, above, boxy), _arc(half_width, corner, below, boxy)
        top = _arc(1.06 * half_width, corner, above - thickness, boxy)
        top[len(_UNIT) // 2] += 0.25j * thickness  # Cupid's bow of the upper lip
        if self.beard:
            self._fill(_between(_arc(1.2 * half_width, corner, above - 0.17), top), self.brow)
        self._fill(_between(top, upper), 0.9 * self.lip_gray)
        self._fill(
            _between(lower, _arc(1.06 * half_width, corner, below + 1.25 * thickness, boxy)),
            1.05 * self.lip_gray,
        )
        if below - above < 0.06:
            self._fill(_ribbon((upper + lower) / 2, 0.02), 0.3 * self.skin)
            return
        self._fill(_between(upper, lower), 0.2 * self.skin)
        tongue = _ellipse(0, corner + below, 0.65 * half_width, 0.45 * opened)
        self._fill(_within(tongue, upper, lower), 0.45 * self.skin)
        gap = (lower - upper).imag
        teeth = upper + 1j * np.minimum(0.8 * gap, 0.11 * part)
        self._fill(_between(upper, teeth)[1:-1], min(250, 0.4 * self.skin + 150))

    def _glasses(self) -> None:
        gray, power = self.rng.uniform(10, 90), self.rng.uniform(2, 5)
        x, y = self.eye.real, self.eye.imag
        for side in (-1, 1):
            rim = _ellipse(side * x, y + 0.03, 0.32, 0.27, power)
            self._fill(_ribbon(np.append(rim, rim[0]), 0.02), gray)
            self._fill(_ribbon(_mirror(np.array([x + 0.32 + 1j * y, 0.85 + 1j * y, 1 + 1j * y]), side), 0.03), gray)
        self._fill(_ribbon(_arc(x - 0.3, y, -0.05), 0.025), gray)

    def _occlusion(self) -> None:
        """Draw an occluding bar from the edge inwards, such as a hand or a scarf."""
        angle = cmath.exp(1j * self.rng.uniform(0, 2 * np.pi))
        bar = (self.rng.uniform(0.55, 0.8) + np.linspace(0, 1.8, 5)) * np.complex128(angle)
        self._fill(_ribbon(bar, 0.2, 0.35), self.rng.uniform(20, 220))

    def _apply_camera(self) -> NDArray[np.uint8]:
        """Apply light, lens blur and sensor noise: from the canvas to uint8 (image_size, image_size)."""
        size = self.image_size
        small = cv2.resize(self.canvas, (size, size), interpolation=cv2.INTER_AREA)
        lamp = self.rng.uniform(0, 0.45) * cmath.exp(1j * self.rng.uniform(0, 2 * np.pi))
        ramp = np.linspace(-1, 1, size)
        lit = small * (1 + lamp.real * ramp + lamp.imag * ramp[:, None])
        lit = 120 + (lit - 120) * self.rng.uniform(0.65, 1.2) + self.rng.normal(0, 15)
        image = np.asarray(cv2.GaussianBlur(lit, (0, 0), size / 48 * self.rng.uniform(0.2, 0.8)))
        image = image + self.rng.uniform(1, 7) * self.rng.standard_normal(image.shape)
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)
