import io
import math
import subprocess
import sys
import zipfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from helpers.fer2013 import REAL_DATA
from matplotlib.figure import Figure
from PIL import Image

from fer_lightning.labels import EMOTIONS
from fer_lightning.reporting import figures

KAGGLE = REAL_DATA / "fer2013-kaggle.zip"


def texts(axes):
    return [text.get_text() for text in axes.texts]


def is_uncut(figure: Figure, path: Path) -> bool:
    """Whether no ink touches the edge of the saved figure, so that nothing is cut off."""
    pixels = np.asarray(Image.open(figures.save(figure, path)).convert("L"))
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return pixels.min() < 128 and edges.min() > 250


def test_confusion_matrix_shows_counts_and_row_percentages():
    figure = figures.confusion_matrix(np.array([[8, 2], [1, 3]]), ["no", "yes"], title="two")
    counts, percentages = figure.axes
    assert texts(counts) == ["8", "2", "1", "3"]
    assert texts(percentages) == ["80", "20", "25", "75"]
    assert [label.get_text() for label in counts.get_yticklabels()] == ["no", "yes"]
    assert (counts.get_xlabel(), counts.get_ylabel()) == ("predicted", "true")
    assert figure.get_suptitle() == "two"


def test_confusion_matrix_of_a_class_without_images_is_zero_not_nan():
    assert texts(figures.confusion_matrix(np.array([[3, 1], [0, 0]]), ["a", "b"]).axes[1])[2:] == ["0", "0"]


def test_confusion_matrix_text_contrasts_with_its_cell():
    axes = figures.confusion_matrix(np.diag([1000, 10, 400]), ["a", "b", "c"]).axes[0]
    image = axes.images[0]
    for text, value in zip(axes.texts, np.diag([1000, 10, 400]).flat, strict=True):
        cell = np.dot(image.to_rgba(value)[:3], [0.2126, 0.7152, 0.0722])
        ink = 1.0 if text.get_color() == "white" else 0.13
        assert abs(cell - ink) > 0.3


@pytest.mark.parametrize("count", [2, 7, 20])
def test_confusion_matrix_of_any_size_is_not_cut(count, tmp_path):
    matrix = np.random.default_rng(0).integers(0, 30_000, (count, count))
    names = [f"quite a long name {position}" for position in range(count)]
    assert is_uncut(figures.confusion_matrix(matrix, names, "title"), tmp_path / "matrix.png")


def test_confusion_matrix_must_fit_its_classes():
    with pytest.raises(ValueError, match=r"3 classes need a 3 x 3 confusion matrix, got shape \(2, 2\)"):
        figures.confusion_matrix(np.eye(2, dtype=int), ["a", "b", "c"])


def history(epochs):
    return [
        {
            "epoch": float(epoch),
            "train/loss": 2 / epoch,
            "val/loss": 2.2 / epoch,
            "val/accuracy": 0.7 - 0.3 / epoch,
            "val/macro_f1": 0.6 - 0.3 / epoch,
            "lr": 1e-3 / epoch,
        }
        for epoch in range(1, epochs + 1)
    ]


def test_training_curves_have_one_panel_per_kind_and_mark_the_best_epoch():
    loss, score, rate = figures.training_curves(history(10), 7).axes
    assert [axes.get_title("left") for axes in (loss, score, rate)] == ["Loss", "Score", "Learning rate"]
    lines = {line.get_label(): line for line in score.lines}
    assert list(lines) == ["val accuracy", "val macro F1", "best epoch: 7"]
    np.testing.assert_allclose(lines["val accuracy"].get_ydata(), [r["val/accuracy"] for r in history(10)])
    assert list(lines["val accuracy"].get_xdata()) == list(range(1, 11))
    assert set(lines["best epoch: 7"].get_xdata()) == {7}


@pytest.mark.parametrize(
    ("rows", "panels"),
    [
        (history(1), 3),
        ([{"epoch": 1.0, "val/accuracy": 0.5}], 1),
        ([{"val/loss": 2.0}, {"val/accuracy": 0.5}, {"lr": 0.1}], 3),
        ([], 1),
    ],
)
def test_training_curves_work_with_little_data(rows, panels, tmp_path):
    figure = figures.training_curves(rows, best_epoch=1 if rows else None)
    assert len(figure.axes) == panels
    assert is_uncut(figure, tmp_path / "curves.png")


def test_per_class_f1_shows_values_supports_and_the_mean(tmp_path):
    f1 = {"happy": 0.875, "disgust": 0.0}
    figure = figures.per_class_f1(f1, {"happy": 1774, "disgust": 111}, 0.4375)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.875, 0.0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["happy  (n = 1,774)", "disgust  (n = 111)"]
    assert texts(axes) == ["0.875", "0.000"]
    assert set(axes.lines[0].get_xdata()) == {0.4375}
    assert is_uncut(figure, tmp_path / "f1.png")


def test_reliability_diagram_shows_accuracy_confidence_and_counts(tmp_path):
    count, nan = np.array([0, 3, 1200]), math.nan
    panels = {"before": (count, np.array([nan, 0.5, 0.9]), np.array([nan, 1.0, 0.7]))}
    figure = figures.reliability_diagram(panels | {"after": panels["before"]})
    upper, lower = figure.axes[0], figure.axes[2]
    assert [bar.get_height() for bar in upper.patches] == [0, 1.0, 0.7]
    assert [bar.get_x() for bar in upper.patches] == pytest.approx([0, 1 / 3, 2 / 3])
    marks = upper.collections[0].get_segments()
    assert [float(mark[0][1]) for mark in marks if len(mark)] == [0.5, 0.9]
    assert texts(lower) == ["3", "1,200"]
    assert is_uncut(figure, tmp_path / "reliability.png")


def test_intervals_show_each_row_and_mark_one(tmp_path):
    figure = figures.intervals({"one": (0.7, 0.68, 0.72), "all": (0.75, 0.73, 0.77)}, "accuracy", marked="all")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "all"]
    assert texts(axes) == ["70.00%", "75.00%"]
    assert [list(line.get_xdata()) for line in axes.lines[:2]] == [[0.68, 0.72], [0.7]]
    assert axes.lines[2].get_color() != axes.lines[0].get_color()
    assert [axes.xaxis.get_major_formatter()(tick, 0) for tick in (0.57, 0.575, 0.58)] == ["57%", "57.5%", "58%"]
    assert is_uncut(figure, tmp_path / "intervals.png")


def test_image_grid_marks_correctness_by_more_than_colour(tmp_path):
    images = np.zeros((10, 48, 48), np.uint8)
    figure = figures.image_grid(images, ["sad \u2192 sad\n90%"] * 10, [True, False] * 5, "ten")
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == ["\u2713 sad \u2192 sad\n90%", "\u2717 sad \u2192 sad\n90%"] * 5
    assert is_uncut(figure, tmp_path / "grid.png")


def test_image_grid_accepts_colour_images_without_marks():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    figure = figures.image_grid(images, ["a", "b", "c"], None, "three")
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c"]
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), images[1])


@pytest.mark.skipif(not KAGGLE.exists(), reason="the Kaggle copy of FER2013 is not available")
def test_image_grid_of_real_faces_has_no_missing_glyph(tmp_path, recwarn):
    with zipfile.ZipFile(KAGGLE) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][:24]
        faces = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names])
    captions = [f"surprise \u2192 {EMOTIONS[position % 7]}\n100%" for position in range(24)]
    figure = figures.image_grid(faces, captions, [False] * 24, "Most confident errors")
    assert is_uncut(figure, tmp_path / "grid.png")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_save_writes_150_dpi_and_is_atomic(tmp_path):
    path = figures.save(figures.per_class_f1({"a": 0.5}, {"a": 1}, 0.5), tmp_path / "new" / "f1.png")
    assert Image.open(path).info["dpi"] == pytest.approx((150, 150), abs=0.1)
    before = path.read_bytes()
    broken = Figure()
    broken.text(0.5, 0.5, r"$\nonsense$")
    with pytest.raises(ValueError, match="nonsense"):
        figures.save(broken, path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["f1.png"]


def test_figures_do_not_change_pyplot_or_user_settings():
    before = {name: mpl.rcParams[name] for name in figures.STYLE}
    figures.training_curves(history(3), 2)
    assert {name: mpl.rcParams[name] for name in figures.STYLE} == before
    code = "import sys, fer_lightning.reporting.figures as f; f.per_class_f1({'a': 1.0}, {'a': 1}, 1.0)"
    code += "; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
