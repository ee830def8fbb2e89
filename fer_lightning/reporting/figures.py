"""Figures of a report: confusion matrix, training curves, F1 of each class, reliability diagram, image grids.

Every function returns a new figure and does not use the state of pyplot, so that it works in servers and in sweeps.
The colours are those of Okabe and Ito (2008), distinguishable with colour blindness.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fer_lightning.files import atomic_write

INK, MUTED, RULE = "#222222", "#666666", "#DDDDDD"
BLUE, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#56B4E9", "#CC79A7"
RIGHT, WRONG = "#00704F", "#B8420A"  # their green and vermilion, darkened for legible text

STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # class names are not formulas
    "font.family": "DejaVu Sans",  # shipped with matplotlib; has the check mark, the cross and the arrow
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.titlesize": 13,
}

SCORES = {
    "train accuracy": ("train/accuracy", SKY),
    "val accuracy": ("val/accuracy", BLUE),
    "val macro F1": ("val/macro_f1", ORANGE),
}
LOSSES = {"train loss": ("train/loss", SKY), "val loss": ("val/loss", BLUE)}
RATES = {"learning rate": ("lr", PURPLE)}


def save(figure: Figure, path: Path, dpi: int = 150) -> Path:
    """Save a figure as PNG, atomically."""
    with atomic_write(path) as aside:
        figure.savefig(aside, format="png", dpi=dpi, facecolor="white", bbox_inches="tight", pad_inches=0.15)
    return path


def confusion_matrix(matrix: NDArray[np.integer], classes: Sequence[str], title: str = "") -> Figure:
    """Plot the counts and, beside them, the percentages of each row, whose diagonal is the recall.

    Args:
        matrix: (C, C) counts; rows are the true classes, columns the predicted ones.
        classes: The C class names, from 2 to about 20.
        title: A line above both.

    Raises:
        ValueError: The matrix does not fit the classes.
    """
    matrix = np.asarray(matrix)
    count = len(classes)
    if matrix.shape != (count, count):
        raise ValueError(f"{count} classes need a {count} x {count} confusion matrix, got shape {matrix.shape}")
    percentages = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = max(3.0, count * (0.6 if count <= 10 else 0.46))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2 * side + 2.2, side + 1.7), layout="constrained")
        figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
        left, right = figure.subplots(1, 2)
        _heatmap(left, matrix, matrix.max(initial=1), classes, "Images")
        _heatmap(right, percentages, 100, classes, "Percent of the true class")
        if title:
            figure.suptitle(title, x=0.01, ha="left")
    return figure


def _heatmap(axes: Axes, values: NDArray[Any], top: float, classes: Sequence[str], title: str) -> None:
    count = len(classes)
    axes.imshow(values, cmap="Blues", vmin=0, vmax=top)
    for row, column in np.ndindex(count, count):
        axes.text(
            column,
            row,
            f"{values[row, column]:.0f}",
            ha="center",
            va="center",
            fontsize=10 if count <= 10 else 8,
            fontweight="bold" if row == column else "normal",
            color="white" if values[row, column] > 0.65 * top else INK,
        )
    turn: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if count > 4 else {}
    axes.set_xticks(range(count), classes, **turn)
    axes.set_yticks(range(count), classes)
    axes.set(title=title, xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)
    axes.set_anchor("N")
    axes.spines[:].set_visible(False)
    for edge in range(1, count):  # white lines between the cells
        axes.axhline(edge - 0.5, color="white", linewidth=1)
        axes.axvline(edge - 0.5, color="white", linewidth=1)


def training_curves(history: Sequence[Mapping[str, float]], best_epoch: int | None) -> Figure:
    """Plot loss, scores and learning rate over the epochs; panels without values are omitted.

    Args:
        history: One row per epoch: `epoch` (counted from 1) and any keys of `LOSSES`, `SCORES`, `RATES`.
        best_epoch: The epoch to mark, or None.
    """
    epochs = [int(row.get("epoch", position)) for position, row in enumerate(history, start=1)]
    logged = {key for row in history for key in row}
    panels = [
        (title, lines)
        for title, candidates in (("Loss", LOSSES), ("Score", SCORES), ("Learning rate", RATES))
        if (lines := {label: line for label, line in candidates.items() if line[0] in logged})
    ]
    with mpl.rc_context(STYLE):
        ratios = [0.7 if title == "Learning rate" else 1.0 for title, _ in panels] or [1.0]
        figure = Figure(figsize=(0.4 + 4.4 * sum(ratios), 3.8), layout="constrained")
        grid = figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
        if not panels:
            grid[0].text(0.5, 0.5, "no epoch was logged", ha="center", color=MUTED)
            grid[0].set_axis_off()
        for axes, (title, lines) in zip(grid, panels, strict=False):
            for label, (key, color) in lines.items():
                validated = [(epoch, row[key]) for epoch, row in zip(epochs, history, strict=True) if key in row]
                x, y = zip(*validated, strict=True)
                marker = "o" if len(history) <= 25 else None
                axes.plot(x, y, color=color, linewidth=1.8, marker=marker, markersize=4, label=label)
            if best_epoch is not None:
                axes.axvline(
                    best_epoch,
                    color=MUTED,
                    linestyle=(0, (4, 3)),
                    linewidth=1.2,
                    label=f"best epoch: {best_epoch}",
                )
            axes.set(title=title, xlabel="epoch", xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
            axes.grid(axis="y")
            if title == "Learning rate":
                axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
                axes.set_ylim(bottom=0)
            else:
                axes.legend(fontsize=9)
    return figure


def per_class_f1(f1: Mapping[str, float], support: Mapping[str, int], macro_f1: float) -> Figure:
    """Plot one bar per class with its F1 and number of images, and the macro F1 as a line.

    Args:
        f1: Fraction in [0, 1] by class name.
        support: Number of images by class name.
        macro_f1: The mean to mark.
    """
    names = list(f1)
    values = [f1[name] for name in names]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 1.5 + 0.42 * len(names)), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(names)), values, height=0.68, color=BLUE)
        for position, value in enumerate(values):  # in a separate column, where no line crosses them
            axes.text(1.02, position, f"{value:.3f}", va="center", transform=axes.get_yaxis_transform())
        axes.axvline(macro_f1, color=ORANGE, linestyle=(0, (4, 3)), linewidth=1.5)
        axes.set_yticks(range(len(names)), [f"{name}  (n = {support[name]:,})" for name in names])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.set(title="F1 of each class", xlabel="F1")
        axes.set_title(f"macro F1 {macro_f1:.3f}", loc="right", color=WRONG)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
    return figure


def reliability_diagram(
    panels: Mapping[str, tuple[NDArray[np.integer], NDArray[np.floating], NDArray[np.floating]]],
) -> Figure:
    """Plot accuracy against confidence (Guo et al. 2017, figure 1), with the number of images of each bin below.

    Args:
        panels: By title, over B bins of equal width: count (B,), mean confidence (B,) and accuracy (B,), both NaN for
            empty bins.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.4 + 4.2 * len(panels), 5.2), layout="constrained")
        figure.get_layout_engine().set(wspace=0.08)  # type: ignore[union-attr, call-arg]
        grid = figure.subplots(2, len(panels), squeeze=False, height_ratios=[3.2, 1], sharex=True, sharey="row")
        for column, (title, (count, confidence, accuracy)) in enumerate(panels.items()):
            upper, lower = grid[:, column]
            width = 1 / len(count)
            left = np.arange(len(count)) * width
            bar: dict[str, Any] = {"width": width, "align": "edge", "edgecolor": "white", "linewidth": 0.6}
            upper.bar(left, np.nan_to_num(accuracy), color=SKY, label="accuracy", **bar)
            upper.hlines(confidence, left, left + width, color=ORANGE, linewidth=2.2, label="mean confidence")
            upper.plot([0, 1], [0, 1], color=MUTED, linestyle=(0, (4, 3)), linewidth=1, label="perfect calibration")
            upper.set(title=title, xlim=(0, 1), ylim=(0, 1))
            upper.grid(axis="y")
            lower.bar(left, count, color=SKY, **bar)
            for position, images in zip(left, count, strict=True):
                if images:
                    lower.annotate(
                        f"{images:,}", (position + width / 2, images), (0, 2), textcoords="offset points",
                        ha="center", va="bottom", rotation=90, fontsize=7.5, color=MUTED,
                    )  # fmt: skip
            lower.set(xlabel="confidence", ylim=(0, 1.45 * max(c.max() for c, _, _ in panels.values())))
            lower.set_yticks([])
            lower.spines["left"].set_visible(False)
        grid[0, 0].set_ylabel("accuracy")
        grid[1, 0].set_ylabel("images")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def intervals(rows: Mapping[str, tuple[float, float, float]], label: str, marked: str = "") -> Figure:
    """Plot one dot per row with its interval, and its value at the right.

    Args:
        rows: Value, lower and upper bound by name, from top to bottom; fractions.
        label: Title: what the values are.
        marked: Name of the highlighted row.
    """
    names = list(rows)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 1.1 + 0.36 * len(names)), layout="constrained")
        axes = figure.subplots()
        for position, (name, (value, low, high)) in enumerate(rows.items()):
            color = ORANGE if name == marked else BLUE
            axes.plot([low, high], [position, position], color=color, linewidth=2, solid_capstyle="butt")
            axes.plot(value, position, "o", color=color, markersize=6)
            axes.text(1.02, position, f"{value:.2%}", va="center", transform=axes.get_yaxis_transform())
        if marked in rows:
            axes.axvline(rows[marked][0], color=ORANGE, linestyle=(0, (4, 3)), linewidth=1)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.1%}".replace(".0%", "%"))
        axes.set_title(label)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
    return figure


def image_grid(images: NDArray[np.uint8], titles: Sequence[str], correct: Sequence[bool] | None, title: str) -> Figure:
    """Plot images in rows of up to eight; a check mark or a cross in the caption marks correct and wrong predictions.

    Args:
        images: uint8 (N, H, W) or (N, H, W, 3).
        titles: N captions, of one or more lines.
        correct: Whether each of the N predictions is correct; None for captions without a mark.
        title: A line above all.
    """
    columns = max(1, min(8, len(images)))
    rows = max(1, math.ceil(len(images) / columns))
    lines = [line for caption in titles for line in caption.split("\n")]
    longest = max((len(line) for line in lines), default=0) + (2 if correct is not None else 0)
    tallest = max((caption.count("\n") + 1 for caption in titles), default=1)
    width = min(2.4, max(1.45, 0.078 * longest))  # inches: 8.5 pt letters are about 0.075 wide
    with mpl.rc_context(STYLE | {"axes.titlelocation": "center"}):
        height = 1.38 * min(1.0, 1.15 * images.shape[1] / images.shape[2])  # less for pairs side by side
        figure = Figure(figsize=(columns * width, rows * (height + 0.17 * tallest) + 0.5), layout="constrained")
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes in grid:
            axes.set_axis_off()
        for position, (axes, image, caption) in enumerate(zip(grid, images, titles, strict=False)):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
            color = INK
            if correct is not None:
                color, mark = (RIGHT, "\N{CHECK MARK}") if correct[position] else (WRONG, "\N{BALLOT X}")
                caption = f"{mark} {caption}"
            axes.set_title(caption, fontsize=8.5, color=color, linespacing=1.25, pad=4)
        figure.suptitle(title, x=0.01, ha="left")
    return figure
