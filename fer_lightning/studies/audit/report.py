"""Report of an audit: a Markdown page with image sheets, csv lists, and the counts as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from PIL import Image
from rich import box
from rich.markup import escape
from rich.table import Table

from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.near_duplicates import THRESHOLD
from fer_lightning.data.protocols.split import Indices
from fer_lightning.files import write_json
from fer_lightning.labels import FERPLUS_COLUMNS
from fer_lightning.reporting import figures, markdown
from fer_lightning.studies.audit.duplicate_effect import table_rows
from fer_lightning.studies.audit.findings import FLAT_CONTRAST, FLAT_SHARE, MARGIN, NO_FACE_VOTES, Audit

EXAMPLES: Final = 16
"""Images or pairs on a sheet."""


def lists(found: Audit) -> dict[str, pd.DataFrame]:
    """Return the findings image by image, by the name of their csv; without checks that were not possible."""
    faces, names = found.faces, np.asarray(found.faces.classes)
    copied = np.flatnonzero(np.bincount(found.copies, minlength=len(faces))[found.copies] > 1)
    copied = copied[np.argsort(found.copies[copied], kind="stable")]
    group = np.unique(found.copies[copied], return_inverse=True)[1] + 1
    _, near = found.links
    row_of_pair = {tuple(pair): row for row, pair in enumerate(np.sort(found.near.pairs, axis=1).tolist())}
    rows = np.array([row_of_pair[tuple(pair)] for pair in np.sort(found.copies[near], axis=1).tolist()], dtype=np.int64)
    tables = {
        "duplicates": {"group": group, **_columns(faces, copied), "conflicting_labels": found.conflicting[copied]},
        "near_duplicates": {
            **_columns(faces, near[:, 0], "_1"),
            **_columns(faces, near[:, 1], "_2"),
            "correlation": found.near.correlation[rows].round(4),
            "mirrored": found.near.mirrored[rows],
        },
        "flat": _columns(faces, np.flatnonzero(found.flat)),
    }
    if found.not_a_face is not None and faces.votes is not None:
        selected = np.flatnonzero(found.not_a_face)
        votes = faces.votes[selected, FERPLUS_COLUMNS.index("NF")]
        tables["not_a_face"] = {**_columns(faces, selected), "votes_not_a_face": votes.astype(int)}
    if found.voted_other is not None and faces.votes is not None:
        selected = np.flatnonzero(found.voted_other >= 0)
        counts = faces.votes[selected].T.astype(int)
        votes = dict(zip([f"votes_{name}" for name in FERPLUS_COLUMNS], counts, strict=True))
        tables["votes_disagree"] = {**_columns(faces, selected), "voted": names[found.voted_other[selected]], **votes}
    if found.errors is not None and found.predicted is not None:
        probabilities = found.predicted[found.errors]
        tables["label_errors"] = {
            **_columns(faces, found.errors),
            "predicted": names[probabilities.argmax(axis=1)],
            "p_predicted": probabilities.max(axis=1).round(4),
            "p_label": probabilities[np.arange(len(probabilities)), faces.labels[found.errors]].round(4),
        }
    return {name: pd.DataFrame(columns) for name, columns in tables.items()}


def _columns(faces: FaceArrays, positions: Indices, suffix: str = "") -> dict[str, Any]:
    return {
        f"image{suffix}": [name.decode() for name in faces.names[positions]],
        f"part{suffix}": faces.usage[positions],
        f"label{suffix}": np.asarray(faces.classes)[faces.labels[positions]],
    }


def save_sheets(folder: Path, found: Audit) -> None:
    """Save examples of each finding as `NAME.png`; findings without examples are skipped."""
    faces, near = found.faces, found.near
    part, label = faces.usage.tolist(), [faces.classes[i] for i in faces.labels]

    def sheet(name: str, title: str, positions: Indices, captions: Sequence[str]) -> None:
        if len(positions):
            images = np.stack([_side_by_side(faces, row) for row in positions.reshape(len(positions), -1)])
            figure = figures.image_grid(images, captions, None, title)
            path = figures.save(figure, folder / f"{name}.png", dpi=150 if positions.ndim == 1 else 100)
            with Image.open(path) as png:  # a palette of 48 colours suffices and saves two thirds of the bytes
                png.convert("RGB").quantize(48, dither=Image.Dither.NONE).save(path, optimize=True)

    def pairs(name: str, title: str, rows: Indices) -> None:
        captions = [
            f"{part[i]} {label[i]}\n{part[j]} {label[j]}\n{near.correlation[row]:.3f}"
            + (", mirrored" if near.mirrored[row] else "")
            for row, (i, j) in zip(rows, near.pairs[rows], strict=True)
        ]
        sheet(name, title, near.pairs[rows], captions)

    groups = _sample(np.unique(found.copies[found.conflicting]))
    captions = []
    for group in groups:
        counts = Counter(f"{part[i]} {label[i]}" for i in np.flatnonzero(found.copies == group))
        captions.append(
            "\n".join(f"{count} x {caption}" if count > 1 else caption for caption, count in counts.most_common(4))
        )
    sheet("conflicts", "Exact copies with different labels: their parts and labels", groups, captions)
    above = np.flatnonzero(near.correlation >= THRESHOLD)
    across = above[faces.usage[near.pairs[above, 0]] != faces.usage[near.pairs[above, 1]]]
    pairs("near_copies", "Near copies", _sample(across if len(across) else above))
    pairs("mirrored", "Mirrored near copies", _sample(above[near.mirrored[above]]))
    rows = np.arange(len(near.pairs))
    just_above = _sample(above[near.correlation[above] < THRESHOLD + 0.01], EXAMPLES // 2)
    below = _sample(rows[near.correlation < THRESHOLD], EXAMPLES // 2)
    title = f"Pairs just above the threshold of {THRESHOLD}, which count, and below it, which do not"
    pairs("threshold", title, np.concatenate([just_above, below]))
    flat = _sample(np.flatnonzero(found.flat))
    sheet("flat", "Flat images", flat, [f"{part[i]}\n{label[i]}" for i in flat])
    if found.not_a_face is not None:
        without_face = _sample(np.flatnonzero(found.not_a_face & ~found.flat))
        captions = [f"{part[i]}\n{label[i]}" for i in without_face]
        sheet("not_a_face", "Images without a face, by FER+ votes", without_face, captions)
    if found.voted_other is not None:
        voted = found.voted_other
        selected = _sample(np.flatnonzero(voted >= 0))
        captions = [f"{label[i]} \N{RIGHTWARDS ARROW}\n{faces.classes[voted[i]]}" for i in selected]
        sheet("votes_disagree", "Label and majority of the FER+ votes", selected, captions)
    if found.errors is not None and found.predicted is not None:
        selected = found.errors[:EXAMPLES]
        captions = [
            f"{label[i]} \N{RIGHTWARDS ARROW}\n{faces.classes[p.argmax()]} {p.max():.0%}"
            for i, p in zip(selected, found.predicted[selected], strict=True)
        ]
        sheet("label_errors", "The most probable label errors: label and prediction", selected, captions)


def _sample(positions: Indices, count: int = EXAMPLES) -> Indices:
    """Draw a fixed random sample, in the original order."""
    sampled = np.random.default_rng(0).permutation(len(positions))[:count]
    return positions[np.sort(sampled)]


def _side_by_side(faces: FaceArrays, positions: Indices) -> Any:
    """Concatenate images in a row with two white pixels between them: (H, n W + 2 (n - 1)) or with a channel axis."""
    row = np.asarray(faces.images[positions[0]])
    for position in positions[1:]:
        image = np.asarray(faces.images[position])
        row = np.concatenate([row, np.full_like(image[:, :2], 255), image], axis=1)
    return row


def table(found: Audit) -> Table:
    """Return the findings by part, for the terminal."""
    shown = Table(title=f"Audit of {escape(found.faces.name)}", title_justify="left", box=box.SIMPLE_HEAD)
    shown.add_column("images", overflow="fold")
    for column in ("all", *found.parts):
        shown.add_column(column, justify="right", no_wrap=True)
    for name, cells in _counts_by(found, found.faces.usage, found.parts).items():
        shown.add_row(name, *cells)
    return shown


def accuracy_table(accuracies: Mapping[str, Any]) -> Table:
    """Return the effect of copies on accuracy (`accuracy_by_copies`), for the terminal."""
    shown = Table(title="Effect of copies on accuracy", title_justify="left", box=box.SIMPLE_HEAD)
    shown.add_column("images of PrivateTest", overflow="fold")
    for column in ("count", *accuracies):
        shown.add_column(escape(column), justify="right", overflow="fold")
    for name, cells in table_rows(accuracies).items():
        shown.add_row(name, *cells)
    return shown


def _counts_by(found: Audit, values: Any, columns: Sequence[Any]) -> dict[str, list[str]]:
    """Return one row for all images and one per finding: the count in total, and for each value."""
    masks: dict[str, Any] = {"in the data set": np.ones(len(found.faces), bool), **found.findings()}
    return {
        name: ["not done"] + [""] * len(columns)
        if mask is None
        else [f"{mask.sum():,}", *(f"{mask[values == column].sum():,}" for column in columns)]
        for name, mask in masks.items()
    }


def _markdown(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    return markdown.table(["images", *columns], ([name, *cells] for name, cells in rows.items()), numbers=True)


WITHOUT_IMAGES = (
    "Images of the data set are not published here: the command writes examples of each finding, and the lists, to "
    "`outputs/`."
)

NO_VOTES = "Not done: this check needs FER+ votes. Add `data.votes_path=fer2013new.csv`."

NO_PREDICTIONS = """\
Not done: this check needs out-of-fold predictions. Train one network per fold, each evaluated on its held-out fold, \
and pass their folder:

```
python train.py -m experiment=ours_mobile protocol=kfold protocol.fold=0,1,2,3,4 eval.split=val
python -m fer_lightning audit predictions=outputs/DATE/TIME_multirun_ours_mobile
```"""


def page(found: Audit, record: Mapping[str, Any], sheets: Mapping[str, str] | None) -> str:
    """Return the report in Markdown.

    Args:
        found: The findings.
        record: The content of audit.json.
        sheets: Path of each saved sheet, by its name; None for a page that must not show the data.
    """
    faces = found.faces
    shown = {name: f"![{name.replace('_', ' ')}]({path})" for name, path in (sheets or {}).items()}
    sections = [
        f"# Audit of {faces.name}",
        f"{len(faces):,} images; content {faces.fingerprint[:12]}, code {record['commit'][:12]}. "
        f"Written by `{record['command']}`.",
        WITHOUT_IMAGES if sheets is None else None,
        _markdown(["all", *found.parts], _counts_by(found, faces.usage, found.parts)),
        "## Exact copies",
        _exact_copies(record["counts"]),
        shown.get("conflicts"),
        "## Near copies",
        _near_copies(record["counts"]),
        shown.get("near_copies"),
        shown.get("mirrored"),
        shown.get("threshold"),
        *_effect_of_copies(record["accuracy_by_copies"]),
        "## Flat images",
        f"The standard deviation of their gray levels is below {FLAT_CONTRAST:g} of 255, or a single gray level fills "
        f"more than {FLAT_SHARE:.0%} of the pixels. List: `flat.csv`.",
        shown.get("flat"),
        "## Images without a face",
        NO_VOTES
        if found.not_a_face is None
        else f"{NO_FACE_VOTES} or more of FER+'s ten taggers see no face. List: `not_a_face.csv`.",
        shown.get("not_a_face"),
        "## Votes for another class",
        NO_VOTES
        if found.voted_other is None
        else f"More than half of an image's FER+ votes are for one class, which has at least {MARGIN} votes more than "
        "the label. List: `votes_disagree.csv`.",
        shown.get("votes_disagree"),
        "## Probable label errors",
        NO_PREDICTIONS if found.errors is None else _label_errors(record["counts"]),
        shown.get("label_errors"),
        "## By class",
        _markdown(["all", *faces.classes], _counts_by(found, faces.labels, range(len(faces.classes)))),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _exact_copies(counts: Mapping[str, Any]) -> str:
    largest = f", the largest of {counts['largest_exact_group']}" if counts["exact_groups"] else ""
    return (
        f"{counts['exact_groups']:,} groups of byte-identical images{largest}. {counts['conflicting_groups']:,} groups "
        "have more than one label. List: `duplicates.csv`."
    )


def _near_copies(counts: Mapping[str, Any]) -> str:
    return (
        f"{counts['near_pairs']:,} pairs show the same photograph with another crop, scale, brightness or compression, "
        f"{counts['mirrored_pairs']:,} of them mirrored (exact copies are counted once here). After alignment, their "
        f"correlation is {THRESHOLD} or more. The threshold was selected by inspecting the images just above and below "
        "it: above, few pairs show another moment of one scene or another person; below, increasingly many do. Copies "
        "with very different crops are missed, so the numbers are lower bounds. "
        f"{counts['test_without_exact_or_near_copies']:,} images of PrivateTest have neither an exact nor a near "
        "copy in another part. List: `near_duplicates.csv`."
    )


def _label_errors(counts: Mapping[str, Any]) -> str:
    return (
        "Found by confident learning (Northcutt et al. 2021) from out-of-fold predictions of "
        f"{counts['images_with_predictions']:,} images, {counts['predicted_as_labelled']:.1%} of which agree with the "
        "label. The more accurate the networks, the more reliable the list; its order matters more than its length. "
        "List: `label_errors.csv`."
    )


def _effect_of_copies(accuracies: Mapping[str, Any]) -> list[str]:
    """Return the section on the effect of copies; empty without evaluated runs."""
    if not accuracies:
        return []
    copied = {name: rows["copies of other labels only"]["copied"] for name, rows in accuracies.items()}
    fractions = ", ".join(f"{p:.0%} by {name}" for name, p in copied.items() if p is not None)
    text = (
        "Accuracy on PrivateTest, grouped by the copies that an image has in Training and PublicTest, on which these "
        "networks were trained and selected, with 95% intervals (Wilson 1927). Memorisation explains only a part of "
        "the gap: images with copies may also be easier."
    )
    if fractions:
        text += f" Images whose copies all have other labels are predicted as the label of a copy: {fractions}."
    return ["## Effect of copies on accuracy", text, _markdown(["count", *accuracies], table_rows(accuracies))]


def write_report(folder: Path, found: Audit, record: Mapping[str, Any], docs: Path | None = None) -> None:
    """Write the report, its sheets and lists, and audit.json.

    Args:
        folder: Output folder; created if missing, and files of an earlier audit are replaced.
        found: The findings.
        record: The content of audit.json.
        docs: Folder for a copy of the page as AUDIT.md, without images of the data set; None for no copy.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.png"), *folder.glob("*.csv")):
        old.unlink()
    for name, rows in lists(found).items():
        rows.to_csv(folder / f"{name}.csv", index=False)
    save_sheets(folder, found)
    sheets = {path.stem: path for path in sorted(folder.glob("*.png"))}
    (folder / "report.md").write_text(page(found, record, {name: path.name for name, path in sheets.items()}), "utf-8")
    write_json(folder / "audit.json", record)
    if docs is not None:
        docs.mkdir(parents=True, exist_ok=True)
        (docs / "AUDIT.md").write_text(page(found, record, None), "utf-8")
