"""Findings of an audit: copies, images without a face, labels that are probably wrong."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fer_lightning.data.arrays import FaceArrays
from fer_lightning.data.near_duplicates import THRESHOLD, NearDuplicates, find_near_duplicates
from fer_lightning.data.protocols.split import Indices, first_occurrences
from fer_lightning.labels import EMOTIONS, FERPLUS_COLUMNS, FERPLUS_POSITIONS, USAGES
from fer_lightning.reporting import records
from fer_lightning.reporting.report import read_predictions
from fer_lightning.run_folder import PREDICTIONS, RECORD

FLAT_CONTRAST: Final = 8.0
"""Standard deviation of the gray levels below which an image is flat."""
FLAT_SHARE: Final = 0.5
"""Fraction of pixels with one single value above which an image is flat: signs on black, empty placeholders."""
NO_FACE_VOTES: Final = 5
"""FER+ votes for 'not a face', of ten, from which an image counts as having no face."""
MARGIN: Final = 5
"""Minimum lead in votes of another emotion over the label."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Audit:
    """The findings of an audit; None if an input for a check is missing.

    Attributes:
        faces: The data set.
        copies: int64 (N,), `first_occurrences(faces)`.
        near: Pairs of first copies that are near copies of each other; pairs below `THRESHOLD` are only examples.
        flat: (N,) images of one colour, or nearly.
        not_a_face: (N,) images without a face, by FER+ votes.
        voted_other: int64 (N,), the class that FER+'s taggers clearly prefer to the label, or -1.
        predicted: float32 (N, C), out-of-fold probabilities, NaN if there is no prediction.
        errors: Positions of probable label errors, the most probable first.
    """

    faces: FaceArrays
    copies: Indices
    near: NearDuplicates
    flat: Mask
    not_a_face: Mask | None
    voted_other: Indices | None
    predicted: NDArray[np.float32] | None
    errors: Indices | None

    @property
    def conflicting(self) -> Mask:
        """Mask (N,) of images whose exact copies have different labels."""
        return _differs(self.copies, self.faces.labels)

    @cached_property
    def links(self) -> tuple[Indices, Indices]:
        """Pairs of images, each (P, 2): exact copies of each other, and near copies with all their exact copies."""
        order = np.argsort(self.copies, kind="stable")
        starts = np.flatnonzero(np.diff(self.copies[order], prepend=-1))
        members = {int(self.copies[group[0]]): group for group in np.split(order, starts[1:])}
        exact = [np.argwhere(np.tri(len(g), k=-1, dtype=bool)) for g in members.values()]
        exact = [group[pairs[:, ::-1]] for group, pairs in zip(members.values(), exact, strict=True)]
        near = [_pairs(members[int(i)], members[int(j)]) for i, j in self.near.above(THRESHOLD).pairs]
        none = np.empty((0, 2), np.int64)
        return np.concatenate([none, *exact]), np.concatenate([none, *near])

    def findings(self) -> dict[str, Mask | None]:
        """Return a mask (N,) per check, the rows of the report's tables; None if the check was not possible."""
        exact, near = self.links
        both = np.concatenate([exact, near])
        count, usage = len(self.faces), self.faces.usage
        found: dict[str, Mask | None] = {
            "exact copy of an earlier image": self.copies != np.arange(count),
            "exact copies with different labels": self.conflicting,
            "near copy of another image": linked(near, np.ones(count, bool)),
        }
        for part in self.parts:
            inside = usage == part
            found[f"exact copy in {part}"] = linked(exact, inside) & ~inside
            found[f"exact or near copy in {part}"] = linked(both, inside) & ~inside
        found["flat"] = self.flat
        found[f"not a face ({NO_FACE_VOTES} or more of 10 votes)"] = self.not_a_face
        found["FER+ votes clearly for another class"] = None if self.voted_other is None else self.voted_other >= 0
        errors = None if self.errors is None else np.isin(np.arange(count), self.errors)
        found["probable label error"] = errors
        return found

    @property
    def parts(self) -> list[str]:
        """The parts of the data set, in FER2013's order."""
        return [usage for usage in USAGES if (self.faces.usage == usage).any()]

    def counts(self) -> dict[str, Any]:
        """Return all numbers of the report, as stored in audit.json."""
        sizes = np.bincount(self.copies)
        near = self.near.above(THRESHOLD)
        test, other = self.faces.usage == USAGES[2], self.faces.usage != USAGES[2]
        has_copy = linked(np.concatenate(self.links), other)
        counts: dict[str, Any] = {
            "images": len(self.faces),
            "exact_groups": int((sizes > 1).sum()),
            "largest_exact_group": int(sizes.max()),
            "conflicting_groups": len(np.unique(self.copies[self.conflicting])),
            "near_pairs": len(near.pairs),
            "mirrored_pairs": int(near.mirrored.sum()),
            "test_without_exact_or_near_copies": int((test & ~has_copy).sum()),
        }
        if self.predicted is not None:
            known = ~np.isnan(self.predicted[:, 0])
            correct = self.predicted[known].argmax(axis=1) == self.faces.labels[known]
            counts |= {"images_with_predictions": int(known.sum()), "predicted_as_labelled": float(correct.mean())}
        for name, mask in self.findings().items():
            if mask is not None:
                parts = {part: int(mask[self.faces.usage == part].sum()) for part in self.parts}
                classes = {c: int(mask[self.faces.labels == i].sum()) for i, c in enumerate(self.faces.classes)}
                counts[name] = {"all": int(mask.sum()), **parts, "classes": classes}
            else:
                counts[name] = "not done"
        return counts


def audit(faces: FaceArrays, predicted: NDArray[np.float32] | None = None) -> Audit:
    """Audit a data set.

    Args:
        faces: The data set.
        predicted: (N, C) out-of-fold probabilities, NaN rows for images without a prediction.
    """
    copies = first_occurrences(faces)
    flat = flat_images(faces.images)
    unique = np.flatnonzero((copies == np.arange(len(faces))) & ~flat)
    voted = faces.votes is not None and faces.classes == EMOTIONS
    return Audit(
        faces,
        copies,
        find_near_duplicates(faces.images, unique),
        flat,
        None if faces.votes is None else faces.votes[:, FERPLUS_COLUMNS.index("NF")] >= NO_FACE_VOTES,
        clearly_other(faces.votes, faces.labels) if voted and faces.votes is not None else None,
        predicted,
        None if predicted is None else label_errors(faces.labels, predicted),
    )


def flat_images(images: NDArray[np.uint8]) -> Mask:
    """Return a mask (N,) of images with low contrast (`FLAT_CONTRAST`) or mostly one pixel value (`FLAT_SHARE`)."""
    flat = np.empty(len(images), bool)
    for position, image in enumerate(images):
        values = image if image.ndim == 2 else image.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])
        most_common = np.unique(values, return_counts=True)[1].max() / values.size
        flat[position] = image.std(axis=(0, 1)).max() < FLAT_CONTRAST or most_common > FLAT_SHARE
    return flat


def clearly_other(votes: NDArray[np.float32], labels: Indices) -> Indices:
    """Return the class with most of an image's FER+ votes if it leads the label by `MARGIN` votes, else -1.

    Args:
        votes: (N, 10) counts in the order of `labels.FERPLUS_COLUMNS`.
        labels: (N,) FER2013 codes.

    Returns:
        (N,).
    """
    seven = votes[:, FERPLUS_POSITIONS]
    top, rows = seven.argmax(axis=1), np.arange(len(votes))
    clear = (seven[rows, top] * 2 > votes.sum(axis=1)) & (seven[rows, top] - seven[rows, labels] >= MARGIN)
    return np.where(clear, top, -1)


def label_errors(labels: Indices, predicted: NDArray[np.float32]) -> Indices:
    """Find probable label errors by confident learning (Northcutt et al. 2021), the most probable first.

    Args:
        labels: (N,).
        predicted: (N, C) out-of-fold probabilities, NaN rows for images without a prediction.

    Raises:
        ValueError: cleanlab is not installed, or no predicted image has the label of some class.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        raise ValueError("probable label errors need cleanlab: pip install -e '.[audit]'") from None
    known = np.flatnonzero(~np.isnan(predicted).any(axis=1))
    missing = sorted(set(range(predicted.shape[1])) - set(labels[known].tolist()))
    if missing:
        raise ValueError(f"no predicted image has the label {missing[0]}: predictions= must cover every class")
    ranked = find_label_issues(
        labels[known], predicted[known], return_indices_ranked_by="normalized_margin", n_jobs=1, verbose=False
    )
    return np.asarray(known[ranked], np.int64)


def out_of_fold(folder: Path, faces: FaceArrays) -> NDArray[np.float32]:
    """Read the out-of-fold predictions of all runs below a folder; several predictions of an image are averaged.

    Args:
        folder: A multirun of `protocol=kfold`, or a single run; reports of `evaluate` below it are included.
        faces: The data set that they were trained on.

    Returns:
        (N, C), NaN rows for images without a prediction.

    Raises:
        ValueError: There are none, or a run is of other data or was evaluated on images that it was trained on.
    """
    total = np.zeros((len(faces), len(faces.classes)))
    times = np.zeros((len(faces), 1))
    files = sorted(folder.rglob(PREDICTIONS))
    if not files:
        raise ValueError(f"predictions={folder} contains no {PREDICTIONS}; give the folder of finished runs")
    for file in files:
        record = records.read_record(file.parent / RECORD, "data", "data_fingerprint", "protocol", "evaluation")
        if record["data_fingerprint"] != faces.fingerprint:
            raise ValueError(f"{file.parent} is of {record['data']}, other data than the current {faces.name}")
        evaluation = record["evaluation"]
        part, protocol = evaluation.get("split") if isinstance(evaluation, dict) else None, str(record["protocol"])
        if part in ("train", None) or not protocol.startswith(("kfold(", "official")):
            raise ValueError(
                f"{file.parent} was evaluated on {part} of {protocol}, on which it may have been trained: "
                "use runs of protocol=kfold with eval.split=val"
            )
        table = read_predictions(file.parent)
        index = table["index"].to_numpy()
        probabilities = [f"p_{name}" for name in faces.classes]
        if not set(probabilities) <= set(table.columns) or index.max(initial=0) >= len(faces):
            raise ValueError(f"{file} has other classes or images than the current {faces.name}")
        total[index] += table[probabilities].to_numpy()
        times[index] += 1
    with np.errstate(invalid="ignore"):
        return (total / times).astype(np.float32)


def _differs(groups: Indices, values: Indices) -> Mask:
    """Return a mask (N,) of the members of groups with more than one value."""
    differs = np.zeros(len(groups), bool)
    np.logical_or.at(differs, groups, values != values[groups])
    return np.asarray(differs[groups])


def _pairs(first: Indices, second: Indices) -> Indices:
    """Return all pairs of an element of the first and one of the second: (P, 2)."""
    return np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1).reshape(-1, 2)


def linked(pairs: Indices, inside: Mask) -> Mask:
    """Return a mask (N,) of images that are paired with an image of another mask.

    Args:
        pairs: (P, 2) positions.
        inside: (N,), the other mask.
    """
    mask = np.zeros(len(inside), bool)
    for column, partner in ((0, 1), (1, 0)):
        mask[pairs[inside[pairs[:, partner]], column]] = True
    return mask
