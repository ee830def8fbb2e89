"""Terminal output of a run: its header, its scores and where its files lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.protocols.split import Split

SYNTHETIC = "SYNTHETIC FACES drawn by the program:\nthese numbers say nothing about real faces"
LEAKY = "LEAKY PROTOCOL, what it measures leaks into the training or the choosing:\nno number of this run is a result"

FILES = {
    "checkpoints/best.ckpt": "the best epoch: weights, scores, classes, config",
    "checkpoints/last.ckpt": "the last epoch, to go on from: resume=auto",
    "classification_report.txt": "precision, recall, F1 of each class; also .json",
    "confusion_matrix.png": "counts and percentages",
    "per_class_f1.png": "F1 of each class",
    "training_curves.png": "loss and scores by epoch; numbers: history.csv",
    "sample_predictions.png": "faces with what the net said",
    "confidently_wrong.png": "the worst errors",
    "predictions.parquet": "every measured picture with its probabilities",
    "config.yaml": "the resolved configuration",
    "record.json": "scores, command, commit, versions, machine",
}
"""The line of `results_files` for each file in a run's folder, in the order of its list."""


def run_header(
    console: Console,
    *,
    faces: FaceArrays,
    split: Split,
    model: str,
    parameters: int,
    device: str,
    precision: str,
    folder: Path,
) -> None:
    """Prints what is about to be trained on what, loudly where the faces are not real or the protocol leaks."""
    if faces.is_synthetic:
        console.print(Panel(Text(SYNTHETIC, justify="center"), style="bold yellow", box=box.HEAVY))
    if split.is_leaky:
        console.print(Panel(Text(LEAKY, justify="center"), style="bold red", box=box.HEAVY))
    size = "x".join(str(side) for side in faces.images.shape[1:3])
    rows = {
        "data": f"{faces.name}, {size} {'gray' if faces.channels == 1 else 'RGB'}, {faces.fingerprint[:12]}",
        "protocol": split.name,
        "pictures": ", ".join(f"{name} {len(index):,}" for name, index in split.indices.items()),
        "train classes": _class_counts(faces, split),
        "model": f"{model}, {parameters:,} parameters",
        "device": f"{device}, {precision}",
        "folder": str(folder),
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console.print(Panel(table, title="fer_lightning", title_align="left", box=box.ROUNDED, style="none"))


def scores_table(scores_by_split: Mapping[str, Mapping[str, Any]], classes: Sequence[str]) -> Group:
    """The final scores: a summary of all parts beside each other, and the classes of the first part.

    Args:
        scores_by_split: Scores (`training.metrics.full_scores`) by name of the part, the whole first.
        classes: Class names in order.
    """
    summary = _table("Scores", list(scores_by_split))
    rows: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("pictures", lambda s: f"{s['n']:,}"),
        ("accuracy", lambda s: f"[bold]{s['accuracy']:.2%}[/bold]"),
        ("  95% interval", lambda s: _interval(s["accuracy_interval"])),
        ("macro F1", lambda s: f"[bold]{s['macro_f1']:.2%}[/bold]"),
        ("  95% interval", lambda s: _interval(s["macro_f1_interval"])),
        ("balanced accuracy", lambda s: f"{s['balanced_accuracy']:.2%}"),
        ("top-2 accuracy", lambda s: f"{s['top2_accuracy']:.2%}"),
        ("calibration error", lambda s: f"{s['ece']:.2%}"),
        ("cross entropy", lambda s: f"{s['loss']:.3f}"),
    ]
    for label, cell in rows:
        summary.add_row(label, *(cell(scores) for scores in scores_by_split.values()))
    part, whole = next(iter(scores_by_split.items()))
    per_class = _table(f"Classes of {part}", ["precision", "recall", "F1", "pictures"])
    for name in classes:
        row = whole["per_class"][name]
        per_class.add_row(
            escape(name),
            f"{row['precision']:.1%}",
            f"{row['recall']:.1%}",
            f"[bold]{row['f1']:.1%}[/bold]",
            f"{row['support']:,}",
        )
    return Group("", summary, "", per_class, "")


def results_files(console: Console, folder: Path, tracked: str | None = None) -> None:
    """Prints what lies in a run's folder, and what opens the run in MLflow.

    Args:
        console: Where to print.
        folder: The run's folder; files that were not written are not named.
        tracked: `tracking.where(loggers)`.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    for name, about in FILES.items():
        if (folder / name).exists():
            table.add_row(name, about)
    console.print(f"[bold]Results[/bold] in {escape(str(folder))}", highlight=False, soft_wrap=True)
    console.print(table)
    if tracked is not None:
        console.print(f"\n[bold]Compare runs[/bold] with\n{escape(tracked)}", highlight=False, soft_wrap=True)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("", overflow="fold")
    for column in columns:
        table.add_column(escape(column), justify="right", no_wrap=True)
    return table


def _class_counts(faces: FaceArrays, split: Split) -> str:
    counts = np.bincount(faces.labels[split.indices["train"]], minlength=len(faces.classes))
    return ", ".join(f"{name} {count:,}" for name, count in zip(faces.classes, counts, strict=True))


def _interval(bounds: Sequence[float]) -> str:
    return f"[dim]{bounds[0]:.1%} to {bounds[1]:.1%}[/dim]"
