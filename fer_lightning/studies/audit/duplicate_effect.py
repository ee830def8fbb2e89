"""Effect of duplicates: accuracy on test images with and without a copy in another part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_lightning.labels import USAGES
from fer_lightning.reporting.markdown import with_interval
from fer_lightning.studies.audit.findings import Audit, Mask, linked
from fer_lightning.studies.measurement import Measurement

Z = 1.959964  # 97.5% quantile of the normal distribution


@dataclass(frozen=True)
class CopiesElsewhere:
    """Copies of each image in Training and PublicTest, the parts used for training and selection.

    Attributes:
        exact: (N,) images with an exact copy there.
        near: (N,) images with near copies there, but no exact one.
        labels: (N, C) classes of their copies there.
    """

    exact: Mask
    near: Mask
    labels: Mask

    @classmethod
    def of(cls, found: Audit) -> CopiesElsewhere:
        """Collect the copies from the pairs of an audit."""
        faces, elsewhere = found.faces, found.faces.usage != USAGES[2]
        exact, near = (linked(pairs, elsewhere) for pairs in found.links)
        here, there = np.concatenate([pairs[:, order] for pairs in found.links for order in ([0, 1], [1, 0])]).T
        labels = np.zeros((len(faces), len(faces.classes)), bool)
        labels[here[elsewhere[there]], faces.labels[there[elsewhere[there]]]] = True
        return cls(exact, near & ~exact, labels)


def accuracy_by_copies(found: Audit, runs: Sequence[Measurement]) -> dict[str, Any]:
    """Compute the accuracy on PrivateTest, grouped by the copies of its images in Training and PublicTest.

    Args:
        found: The audit of the data set.
        runs: Measurements on PrivateTest of networks trained and selected on the official parts.

    Returns:
        By the name of the run's folder, or its path if that name is taken, and by group of images: `n`, `accuracy` and
        its 95% `interval` (Wilson 1927), both None for an empty group. For images whose copies all have other labels
        also `copied`: the fraction of them that is predicted as the label of a copy.

    Raises:
        ValueError: A run is of other data, another protocol or other images.
    """
    faces, elsewhere = found.faces, CopiesElsewhere.of(found)
    copied = elsewhere.exact | elsewhere.near
    same_label = elsewhere.labels[np.arange(len(faces)), faces.labels]
    groups = {
        "all": np.ones(len(faces), bool),
        "no exact copy": ~elsewhere.exact,
        "no exact or near copy": ~copied,
        "an exact copy": elsewhere.exact,
        "near copies only": elsewhere.near,
        "a copy of the same label": copied & same_label,
        "copies of other labels only": copied & ~same_label,
    }
    accuracies: dict[str, Any] = {}
    for run in runs:
        record, index = run.record, run.table["index"].to_numpy()
        if record["data_fingerprint"] != faces.fingerprint:
            raise ValueError(f"measured={run.folder} is of {record['data']}, other data than the current {faces.name}")
        on_private_test = index.max(initial=0) < len(faces) and (faces.usage[index] == USAGES[2]).all()
        if record["protocol"] != "official" or not on_private_test:
            raise ValueError(
                f"measured={run.folder} is of protocol {record['protocol']} or on other images; "
                "give runs of protocol=official evaluated on PrivateTest (eval.split=test)"
            )
        predicted = run.positions("predicted")
        correct = predicted == faces.labels[index]
        rows = {name: _accuracy(correct[mask[index]]) for name, mask in groups.items()}
        other_labels = groups["copies of other labels only"][index]
        matches_copy = elsewhere.labels[index, predicted][other_labels]
        rows["copies of other labels only"]["copied"] = _accuracy(matches_copy)["accuracy"]
        name = run.folder.resolve().name
        accuracies[str(run.folder) if name in accuracies else name] = rows
    return accuracies


def table_rows(accuracies: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the cells of a table by group of images: the count, then accuracy and interval of each run."""
    runs = list(accuracies.values())
    return {
        name: [f"{runs[0][name]['n']:,}", *(_cell(run[name]) for run in runs)] for name in (runs[0] if runs else ())
    }


def _accuracy(correct: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the fraction of correct predictions and its Wilson score interval (1927)."""
    n = len(correct)
    if not n:
        return {"n": 0, "accuracy": None, "interval": None}
    p = float(correct.mean())
    centre, half = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    scale = 1 + Z**2 / n
    return {"n": n, "accuracy": p, "interval": [(centre - half) / scale, (centre + half) / scale]}


def _cell(row: Mapping[str, Any]) -> str:
    if row["accuracy"] is None:
        return "no images"
    return with_interval(row["accuracy"], row["interval"], digits=1)
