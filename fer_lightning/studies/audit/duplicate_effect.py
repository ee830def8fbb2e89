"""What copies are worth: a measured net's accuracy on test pictures with and without a copy in another part."""

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
from fer_lightning.studies.compare import Measured

Z = 1.959964  # of the two-sided 95% of a normal distribution


@dataclass(frozen=True)
class CopiesElsewhere:
    """Links of each picture to copies in the parts that trained or chose, Training and PublicTest.

    Attributes:
        exact: (N,) has an exact copy there.
        near: (N,) has near copies there, and no exact one.
        labels: (N, C) classes that its copies there carry.
    """

    exact: Mask
    near: Mask
    labels: Mask

    @classmethod
    def of(cls, found: Audit) -> CopiesElsewhere:
        """From the pairs of an audit."""
        faces, elsewhere = found.faces, found.faces.usage != USAGES[2]
        exact, near = (linked(pairs, elsewhere) for pairs in found.links)
        here, there = np.concatenate([pairs[:, order] for pairs in found.links for order in ([0, 1], [1, 0])]).T
        labels = np.zeros((len(faces), len(faces.classes)), bool)
        labels[here[elsewhere[there]], faces.labels[there[elsewhere[there]]]] = True
        return cls(exact, near & ~exact, labels)


def copies_worth(found: Audit, runs: Sequence[Measured]) -> dict[str, Any]:
    """The accuracy of runs on PrivateTest, by what copies of its pictures lie in Training and PublicTest.

    Args:
        found: The audit of the data set.
        runs: Measured on PrivateTest, trained and chosen on the official parts.

    Returns:
        By the name of the run's folder, or its path where that name is taken, by kind of picture: `n`, `accuracy` and
        its 95% `interval` (Wilson 1927), both None where there is no picture. For pictures whose copies all carry other
        labels also `copied`: the share of them that was answered with a label of a copy.

    Raises:
        ValueError: A run measured other data, another protocol or other pictures.
    """
    faces, elsewhere = found.faces, CopiesElsewhere.of(found)
    copied = elsewhere.exact | elsewhere.near
    alike = elsewhere.labels[np.arange(len(faces)), faces.labels]
    groups = {
        "all": np.ones(len(faces), bool),
        "no exact copy": ~elsewhere.exact,
        "no exact or near copy": ~copied,
        "an exact copy": elsewhere.exact,
        "near copies only": elsewhere.near,
        "a copy of the same label": copied & alike,
        "copies of other labels only": copied & ~alike,
    }
    worth: dict[str, Any] = {}
    for run in runs:
        record, index = run.record, run.table["index"].to_numpy()
        if record["data_fingerprint"] != faces.fingerprint:
            raise ValueError(f"measured={run.folder}: it measured {record['data']}, other data than {faces.name} here")
        of_the_test = index.max(initial=0) < len(faces) and (faces.usage[index] == USAGES[2]).all()
        if record["protocol"] != "official" or not of_the_test:
            raise ValueError(
                f"measured={run.folder}: a net of protocol {record['protocol']} on other pictures; "
                "give runs of protocol=official that measured PrivateTest (eval.split=test)"
            )
        said = run.positions("predicted")
        right = said == faces.labels[index]
        rows = {name: _share(right[mask[index]]) for name, mask in groups.items()}
        others = groups["copies of other labels only"][index]
        rows["copies of other labels only"]["copied"] = _share(elsewhere.labels[index, said][others])["accuracy"]
        name = run.folder.resolve().name
        worth[str(run.folder) if name in worth else name] = rows
    return worth


def rows_of(worth: Mapping[str, Any]) -> dict[str, list[str]]:
    """The cells of a table by kind of picture: how many, then the accuracy and interval of each run."""
    runs = list(worth.values())
    return {
        name: [f"{runs[0][name]['n']:,}", *(_percent(run[name]) for run in runs)] for name in (runs[0] if runs else ())
    }


def _share(right: NDArray[np.bool_]) -> dict[str, Any]:
    """The share of what is right and its Wilson score interval (1927)."""
    n = len(right)
    if not n:
        return {"n": 0, "accuracy": None, "interval": None}
    p = float(right.mean())
    centre, half = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    scale = 1 + Z**2 / n
    return {"n": n, "accuracy": p, "interval": [(centre - half) / scale, (centre + half) / scale]}


def _percent(row: Mapping[str, Any]) -> str:
    if row["accuracy"] is None:
        return "no picture"
    return with_interval(row["accuracy"], row["interval"], digits=1)
