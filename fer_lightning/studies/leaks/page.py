"""docs/LEAKS.md and its plot, from the records."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fer_lightning.config import ROOT
from fer_lightning.overrides import overrides_of
from fer_lightning.reporting import figures, markdown
from fer_lightning.studies.baselines.rows import file_of, header_of
from fer_lightning.studies.leaks.records import PROTOCOLS, Records, read_records, settings_of

NOT_RUN = "not run"

COLUMNS = (
    "protocol",
    "training images",
    "training accuracy",
    "reported accuracy (95%)",
    "gain over official (95%)",
    "without exact copies",
    "epoch",
    "minutes",
)


def gain(reported: Mapping[str, Any], reference: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return the difference of two accuracies with its 95% interval.

    The distances to the bounds of both intervals are combined as root sum of squares (Newcombe 1998, method 10), as for
    independent images; if both accuracies are measured on the same images, the interval is conservative.

    Args:
        reported: Scores of one test part: `accuracy` and `accuracy_interval`.
        reference: Scores of the part to subtract.

    Returns:
        Difference, lower and upper bound, as fractions.
    """
    difference = reported["accuracy"] - reference["accuracy"]
    low, high = ([abs(s["accuracy_interval"][side] - s["accuracy"]) for s in (reported, reference)] for side in (0, 1))
    return difference, difference - math.hypot(low[0], high[1]), difference + math.hypot(high[0], low[1])


def cells(protocol: str, records: Records) -> list[str]:
    """Return one row of the table."""
    if protocol not in records:
        return [protocol, "", "", NOT_RUN, "", "", "", ""]
    record = records[protocol]
    test = record["test"]
    difference = ""
    if protocol != "official" and "official" in records:
        added, low, high = map(markdown.points, gain(test, records["official"]["test"]))
        difference = f"{added} ({low} to {high})"
    deduplicated = record.get("test_deduplicated")
    return [
        record["protocol"],
        f"{record['images']['train']:,}",
        f"{record['train_accuracy']:.1%}",
        markdown.with_interval(test["accuracy"], test["accuracy_interval"]),
        difference,
        f"{deduplicated['accuracy']:.2%} of {deduplicated['n']:,}" if deduplicated else "none left",
        f"{record['best_epoch']:.0f} of {record['epochs']}",
        f"{record['minutes']:.0f}",
    ]


def claim_of(record: Mapping[str, Any]) -> float | None:
    """Return the accuracy that the source of the record's experiment claims, as a fraction, or None."""
    path = file_of(ROOT, record["experiment"])
    found = re.match(r"([\d.]+)%", header_of(path).get("Claim", "")) if path else None
    return float(found[1]) / 100 if found else None


def plot(records: Records, claim: float | None) -> Figure:
    """Plot the accuracy of each protocol with its 95% interval, with the official accuracy and the source's claim.

    Args:
        records: One or more records by protocol.
        claim: The claimed accuracy as a fraction, or None.
    """
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(8, 1.5 + 0.45 * len(records)), layout="constrained")
        axes = figure.subplots()
        for position, (protocol, record) in enumerate(records.items()):
            accuracy, interval = record["test"]["accuracy"], record["test"]["accuracy_interval"]
            color = figures.ORANGE if record["leaky"] else figures.BLUE
            axes.plot(interval, [position, position], color=color, linewidth=2.5, solid_capstyle="butt")
            axes.plot([accuracy], [position], color=color, marker="o", markersize=7)
            axes.text(1.02, position, f"{accuracy:.1%}", va="center", color=color, transform=axes.get_yaxis_transform())
            if protocol == "official":
                axes.axvline(accuracy, color=figures.BLUE, linestyle=(0, (4, 3)), linewidth=1.2, zorder=0)
        if claim is not None:
            axes.axvline(claim, color=figures.MUTED, linestyle=(0, (1, 2)), linewidth=1.5, zorder=0)
            axes.annotate(
                f"the source claims {claim:.0%}", (claim, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                textcoords="offset points", ha="center", color=figures.MUTED, fontsize=9,
            )  # fmt: skip
        axes.set_yticks(range(len(records)), [record["protocol"] for record in records.values()])
        axes.set_ylim(len(records) - 0.5, -0.5)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set(xlabel="reported accuracy with its 95% interval; blue: without leak, orange: leaky")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
    return figure


def page(records: Records, claim: float | None) -> str:
    """Return docs/LEAKS.md: plot, table, description of each protocol, and conclusions."""
    first = next(iter(records.values()))
    settings = " ".join(settings_of(overrides_of(first["command"])))
    blocks = [
        "# How much each leak adds\n",
        "One model with the same epochs and settings under the official protocol and under leaky protocols of the\n"
        "literature. **Only the official number is a result**; protocols whose names begin with `leaky_` exist only\n"
        "for this comparison. Written by `python -m fer_lightning leaks write` from `results/leaks/*.json`.\n",
        "![Reported accuracy under each protocol](images/leaks.png)\n",
        markdown.table(COLUMNS, (cells(protocol, records) for protocol in PROTOCOLS)) + "\n",
        "*Training accuracy* is measured during the selected epoch. *Without exact copies* excludes test images\n"
        "whose exact pixels were trained or selected on (under `leaky_selected`: according to the official parts).\n"
        "Gains are percentage points; their intervals combine the two bootstrap intervals by Newcombe's method.\n",
        "## The protocols\n",
        "\n".join(f"- `{protocol}`: {about}." for protocol, about in PROTOCOLS.items()) + "\n",
        "Validation and test parts have the official sizes everywhere. `leaky_pooled` and `leaky_selected` also train\n"
        "on as many images as `official`; where copies are added, the training part is larger and an epoch has more\n"
        "steps. `stored_copies` is therefore the control of `leaky_augmented`: equally many images and steps, without\n"
        "the leak. `leaky_oversampled` and `leaky_all` test equally many images of each class, the others the class\n"
        "frequencies of FER2013.\n",
    ]
    if conclusions := _conclusions(records, claim):
        blocks += ["## Conclusions\n", "\n".join(f"- {sentence}" for sentence in conclusions) + "\n"]
    blocks += [
        f"Run with `{settings}`; data {first['data']} {first['data_fingerprint'][:12]}, {_commits(records)}, "
        f"{first['machine']['gpu'] or first['machine']['cpu']}, torch {first['versions']['torch']}. "
        "`python -m fer_lightning leaks run` trains each protocol without a record in `results/leaks`.\n"
    ]
    if first["synthetic"]:
        blocks.insert(1, "**SYNTHETIC FACES: these numbers do not apply to real faces.**\n")
    return "\n".join(blocks)


def _commits(records: Records) -> str:
    """Return `commit 604766e6f779`, and the protocols that were run at another commit."""
    first, *others = dict.fromkeys(record["commit"] for record in records.values())
    parts = [f"commit {first[:12]}"]
    for other in others:
        names = [name for name, record in records.items() if record["commit"] == other]
        parts.append(f"{' and '.join(names)} at commit {other[:12]}")
    return ", ".join(parts)


def _conclusions(records: Records, claim: float | None) -> list[str]:
    """Return the conclusions, each with the numbers of the records, whatever they are."""
    accuracy = {name: record["test"]["accuracy"] for name, record in records.items()}
    sentences = []
    if {"stored_copies", "leaky_augmented"} <= accuracy.keys():
        leak = gain(records["leaky_augmented"]["test"], records["stored_copies"]["test"])
        added, low, high = map(markdown.points, leak)
        sentences.append(
            f"Copies added before the split instead of after it: {added} points ({low} to {high}) with the same "
            "number of images and steps. This includes the leak, and how much easier or harder the augmented copies in "
            "its test part are to classify than the original images."
        )
        if after := records["leaky_augmented"].get("test_deduplicated"):
            sentences.append(
                f"Excluding exact copies does not remove this leak: of the {after['n']:,} test images without one, "
                f"{after['accuracy']:.1%} are classified correctly. Their augmented copies were trained on."
            )
    if after := records.get("leaky_oversampled", {}).get("test_deduplicated"):
        sentences.append(
            f"Under `leaky_oversampled` {after['n']:,} of {records['leaky_oversampled']['test']['n']:,} test images "
            f"have no exact copy in training; of those {after['accuracy']:.1%} are classified correctly, of all "
            f"{accuracy['leaky_oversampled']:.1%}."
        )
    if claim is not None and len(accuracy) == len(PROTOCOLS):
        reached = [name for name, value in accuracy.items() if value >= claim]
        sentences.append(
            f"The source of this model claims {claim:.0%}. "
            + (f"Here {', '.join(reached)} reached it." if reached else "No protocol here reached it.")
        )
    return sentences


def write(root: Path = ROOT) -> None:
    """Write docs/LEAKS.md and its plot.

    Raises:
        ValueError: There is no record, or the records cannot be compared.
    """
    records = read_records(root)
    if not records:
        raise ValueError("there is no record in results/leaks; create them with `python -m fer_lightning leaks run`")
    claim = claim_of(next(iter(records.values())))
    figures.save(plot(records, claim), root / "docs" / "images" / "leaks.png")
    (root / "docs" / "LEAKS.md").write_text(page(records, claim), "utf-8")
