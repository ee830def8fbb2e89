"""What an audit leaves behind: a page with sheets of pictures, lists as csv, the counts."""

from __future__ import annotations

import shutil
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
from fer_lightning.studies.audit.duplicate_effect import rows_of
from fer_lightning.studies.audit.findings import FLAT_CONTRAST, FLAT_SHARE, MARGIN, NO_FACE_VOTES, Audit

SHOWN: Final = 16
"""Pictures or pairs on a sheet."""


def lists(found: Audit) -> dict[str, pd.DataFrame]:
    """The findings picture by picture, by the name of their csv; without those that could not be looked for."""
    faces, names = found.faces, np.asarray(found.faces.classes)
    copied = np.flatnonzero(np.bincount(found.copies, minlength=len(faces))[found.copies] > 1)
    copied = copied[np.argsort(found.copies[copied], kind="stable")]
    group = np.unique(found.copies[copied], return_inverse=True)[1] + 1
    _, near = found.links
    place = {tuple(pair): row for row, pair in enumerate(np.sort(found.near.pairs, axis=1).tolist())}
    rows = np.array([place[tuple(pair)] for pair in np.sort(found.copies[near], axis=1).tolist()], dtype=np.int64)
    tables = {
        "duplicates": {"group": group, **_where(faces, copied), "conflicting_labels": found.conflicting[copied]},
        "near_duplicates": {
            **_where(faces, near[:, 0], "_1"),
            **_where(faces, near[:, 1], "_2"),
            "correlation": found.near.correlation[rows].round(4),
            "mirrored": found.near.mirrored[rows],
        },
        "flat": _where(faces, np.flatnonzero(found.flat)),
    }
    if found.not_a_face is not None and faces.votes is not None:
        chosen = np.flatnonzero(found.not_a_face)
        votes = faces.votes[chosen, FERPLUS_COLUMNS.index("NF")]
        tables["not_a_face"] = {**_where(faces, chosen), "votes_not_a_face": votes.astype(int)}
    if found.voted_other is not None and faces.votes is not None:
        chosen = np.flatnonzero(found.voted_other >= 0)
        votes = dict(zip([f"votes_{name}" for name in FERPLUS_COLUMNS], faces.votes[chosen].T.astype(int), strict=True))
        tables["votes_disagree"] = {**_where(faces, chosen), "voted": names[found.voted_other[chosen]], **votes}
    if found.errors is not None and found.predicted is not None:
        said = found.predicted[found.errors]
        tables["label_errors"] = {
            **_where(faces, found.errors),
            "predicted": names[said.argmax(axis=1)],
            "p_predicted": said.max(axis=1).round(4),
            "p_label": said[np.arange(len(said)), faces.labels[found.errors]].round(4),
        }
    return {name: pd.DataFrame(columns) for name, columns in tables.items()}


def _where(faces: FaceArrays, positions: Indices, suffix: str = "") -> dict[str, Any]:
    return {
        f"picture{suffix}": [name.decode() for name in faces.names[positions]],
        f"part{suffix}": faces.usage[positions],
        f"label{suffix}": np.asarray(faces.classes)[faces.labels[positions]],
    }


def draw_sheets(folder: Path, found: Audit) -> None:
    """Draws examples of each finding as `NAME.png`; what has none is left out."""
    faces, near = found.faces, found.near
    part, label = faces.usage.tolist(), [faces.classes[i] for i in faces.labels]

    def sheet(name: str, title: str, positions: Indices, captions: Sequence[str]) -> None:
        if len(positions):
            images = np.stack([_side_by_side(faces, row) for row in positions.reshape(len(positions), -1)])
            figure = figures.picture_grid(images, captions, None, title)
            path = figures.save(figure, folder / f"{name}.png", dpi=150 if positions.ndim == 1 else 100)
            with Image.open(path) as drawn:  # a few colours are enough, and a third of the bytes
                drawn.convert("RGB").quantize(48, dither=Image.Dither.NONE).save(path, optimize=True)

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
        places = Counter(f"{part[i]} {label[i]}" for i in np.flatnonzero(found.copies == group))
        captions.append(
            "\n".join(f"{times} x {place}" if times > 1 else place for place, times in places.most_common(4))
        )
    sheet("conflicts", "Exact copies whose labels differ: where they are, and their labels", groups, captions)
    above = np.flatnonzero(near.correlation >= THRESHOLD)
    across = above[faces.usage[near.pairs[above, 0]] != faces.usage[near.pairs[above, 1]]]
    pairs("near_copies", "Near copies", _sample(across if len(across) else above))
    pairs("mirrored", "Near copies in the mirror", _sample(above[near.mirrored[above]]))
    rows = np.arange(len(near.pairs))
    just = _sample(above[near.correlation[above] < THRESHOLD + 0.01], SHOWN // 2)
    below = _sample(rows[near.correlation < THRESHOLD], SHOWN // 2)
    title = f"Either side of the threshold: from {THRESHOLD} on pairs are counted, below they are not"
    pairs("threshold", title, np.concatenate([just, below]))
    flat = _sample(np.flatnonzero(found.flat))
    sheet("flat", "Flat pictures", flat, [f"{part[i]}\n{label[i]}" for i in flat])
    if found.not_a_face is not None:
        empty = _sample(np.flatnonzero(found.not_a_face & ~found.flat))
        sheet("not_a_face", "No faces, by FER+ votes", empty, [f"{part[i]}\n{label[i]}" for i in empty])
    if found.voted_other is not None:
        voted = found.voted_other
        chosen = _sample(np.flatnonzero(voted >= 0))
        captions = [f"{label[i]} \N{RIGHTWARDS ARROW}\n{faces.classes[voted[i]]}" for i in chosen]
        sheet("votes_disagree", "Labelled, and what FER+'s taggers say", chosen, captions)
    if found.errors is not None and found.predicted is not None:
        chosen = found.errors[:SHOWN]
        captions = [
            f"{label[i]} \N{RIGHTWARDS ARROW}\n{faces.classes[said.argmax()]} {said.max():.0%}"
            for i, said in zip(chosen, found.predicted[chosen], strict=True)
        ]
        sheet("label_errors", "The likeliest label errors: labelled, and what a net says", chosen, captions)


def _sample(positions: Indices, count: int = SHOWN) -> Indices:
    """That many of them at random, in their order; always the same ones."""
    chosen = np.random.default_rng(0).permutation(len(positions))[:count]
    return positions[np.sort(chosen)]


def _side_by_side(faces: FaceArrays, positions: Indices) -> Any:
    """The pictures in a row with two white pixels between them: (H, n W + 2 (n - 1)) or with a channel axis."""
    row = np.asarray(faces.images[positions[0]])
    for position in positions[1:]:
        picture = np.asarray(faces.images[position])
        row = np.concatenate([row, np.full_like(picture[:, :2], 255), picture], axis=1)
    return row


def table(found: Audit) -> Table:
    """The findings by part, for the terminal."""
    shown = Table(title=f"Audit of {escape(found.faces.name)}", title_justify="left", box=box.SIMPLE_HEAD)
    shown.add_column("pictures", overflow="fold")
    for column in ("all", *found.parts):
        shown.add_column(column, justify="right", no_wrap=True)
    for name, cells in _by(found, found.faces.usage, found.parts).items():
        shown.add_row(name, *cells)
    return shown


def worth_table(worth: Mapping[str, Any]) -> Table:
    """What copies are worth (`copies_worth`), for the terminal."""
    shown = Table(title="What copies are worth: accuracy", title_justify="left", box=box.SIMPLE_HEAD)
    shown.add_column("pictures of PrivateTest", overflow="fold")
    for column in ("number", *worth):
        shown.add_column(escape(column), justify="right", overflow="fold")
    for name, cells in rows_of(worth).items():
        shown.add_row(name, *cells)
    return shown


def _by(found: Audit, values: Any, columns: Sequence[Any]) -> dict[str, list[str]]:
    """One row a finding, and all pictures first: how many in all, and of each value."""
    every: dict[str, Any] = {"in the data set": np.ones(len(found.faces), bool), **found.findings()}
    return {
        name: ["not done"] + [""] * len(columns)
        if mask is None
        else [f"{mask.sum():,}", *(f"{mask[values == column].sum():,}" for column in columns)]
        for name, mask in every.items()
    }


def _markdown(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    return markdown.table(["pictures", *columns], ([name, *cells] for name, cells in rows.items()), numbers=True)


def page(found: Audit, record: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The report in Markdown.

    Args:
        found: The findings.
        record: What audit.json holds.
        pictures: Where each sheet that was drawn lies, by its name.
    """
    faces, counts = found.faces, record["counts"]
    shown = {name: f"![{name.replace('_', ' ')}]({path})" for name, path in pictures.items()}
    no_votes = "Not done: no FER+ votes were given. Add `data.votes_path=fer2013new.csv`."
    how = [
        "Not done: it needs what nets say of pictures that they did not train on. Train one a fold, measured on the "
        "fold that it did not see, and name their folder:\n",
        "```",
        "python train.py -m experiment=ours_mobile protocol=kfold protocol.fold=0,1,2,3,4 eval.split=val",
        "python -m fer_lightning audit predictions=outputs/DATE/TIME_multirun_ours_mobile",
        "```",
    ]
    not_a_face = f"{NO_FACE_VOTES} or more of FER+'s ten taggers call these no face. List: `not_a_face.csv`."
    voted = (
        f"More than half of a picture's FER+ votes go to one class, and it has at least {MARGIN} votes more than the "
        "label. List: `votes_disagree.csv`."
    )
    errors = (
        "By confident learning (Northcutt et al. 2021) from out-of-fold predictions of "
        f"{counts.get('pictures_with_predictions', 0):,} pictures, {counts.get('predicted_as_labelled', 0):.1%} of "
        "them as labelled. The better the nets, the truer the list; its order matters more than its length. List: "
        "`label_errors.csv`."
    )
    largest = f", the largest of {counts['largest_exact_group']}" if counts["exact_groups"] else ""
    sections = [
        f"# Audit of {faces.name}",
        f"{len(faces):,} pictures; content {faces.fingerprint[:12]}, code {record['commit'][:12]}. "
        f"Written by `{record['command']}`.",
        _markdown(["all", *found.parts], _by(found, faces.usage, found.parts)),
        "## Exact copies",
        f"{counts['exact_groups']:,} groups of byte-identical pictures"
        f"{largest}. {counts['conflicting_groups']:,} groups carry more than one label. "
        "List: `duplicates.csv`.",
        shown.get("conflicts"),
        "## Near copies",
        f"{counts['near_pairs']:,} pairs show the same photograph cut out, scaled, brightened or compressed another "
        f"time, {counts['mirrored_pairs']:,} of them in the mirror (exact copies count once here). Aligned with each "
        f"other, they correlate at {THRESHOLD} or more. That threshold was chosen by looking at the pictures on either "
        "side of it: above, few pairs show another moment of one scene or another person; below, ever more do. Copies "
        "that were cut out very differently are missed, so the numbers are lower bounds. "
        f"{counts['test_without_exact_or_near_copies']:,} pictures of PrivateTest have neither an exact nor a near "
        "copy in another part. List: `near_duplicates.csv`.",
        shown.get("near_copies"),
        shown.get("mirrored"),
        shown.get("threshold"),
        *_worth(record["copies_worth"]),
        "## Flat pictures",
        f"Their gray levels have a standard deviation under {FLAT_CONTRAST:g} of 255, or one single gray level fills "
        f"more than {FLAT_SHARE:.0%} of them. List: `flat.csv`.",
        shown.get("flat"),
        "## No faces",
        no_votes if found.not_a_face is None else not_a_face,
        shown.get("not_a_face"),
        "## Votes for another class",
        no_votes if found.voted_other is None else voted,
        shown.get("votes_disagree"),
        "## Probable label errors",
        "\n".join(how) if found.errors is None else errors,
        shown.get("label_errors"),
        "## By class",
        _markdown(["all", *faces.classes], _by(found, faces.labels, range(len(faces.classes)))),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _worth(worth: Mapping[str, Any]) -> list[str]:
    """The section on what copies are worth; none without measured runs."""
    if not worth:
        return []
    copied = {name: rows["copies of other labels only"]["copied"] for name, rows in worth.items()}
    shares = ", ".join(f"{share:.0%} of the time by {name}" for name, share in copied.items() if share is not None)
    sentence = (
        "Accuracy on pictures of PrivateTest by the copies that they have in Training and PublicTest, on which these "
        "nets were trained and chosen, with 95% intervals (Wilson 1927). Part of the gap is not memory: pictures that "
        "have copies may also be easier."
    )
    if shares:
        sentence += f" Where the copies carry other labels only, one of those is the answer {shares}."
    return ["## What copies are worth", sentence, _markdown(["number", *worth], rows_of(worth))]


def write_report(folder: Path, found: Audit, record: Mapping[str, Any], docs: Path | None = None) -> None:
    """Writes the report, its sheets and lists and audit.json.

    Args:
        folder: Where to; made if missing, and what an earlier audit left there is replaced.
        found: The findings.
        record: What audit.json is to hold.
        docs: A folder for the page alone, as AUDIT.md, with its sheets in images/; or None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.png"), *folder.glob("*.csv")):
        old.unlink()
    for name, rows in lists(found).items():
        rows.to_csv(folder / f"{name}.csv", index=False)
    draw_sheets(folder, found)
    sheets = {path.stem: path for path in sorted(folder.glob("*.png"))}
    (folder / "report.md").write_text(page(found, record, {name: path.name for name, path in sheets.items()}), "utf-8")
    write_json(folder / "audit.json", record)
    if docs is not None:
        (docs / "images").mkdir(parents=True, exist_ok=True)
        for old in (docs / "images").glob("audit_*.png"):
            old.unlink()
        for name, path in sheets.items():
            shutil.copyfile(path, docs / "images" / f"audit_{name}.png")
        (docs / "AUDIT.md").write_text(
            page(found, record, {name: f"images/audit_{name}.png" for name in sheets}), "utf-8"
        )
