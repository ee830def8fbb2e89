"""`python -m fer_lightning leaks`: one model under the official and under leaky protocols, and the effect of each."""

from __future__ import annotations

import hashlib
import math
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from rich import box
from rich.console import Console
from rich.table import Table

from fer_lightning.cli.help import wrap_text
from fer_lightning.config import CONF, ROOT
from fer_lightning.files import free_path
from fer_lightning.overrides import effective_overrides, key_of, merge_overrides, overrides_of
from fer_lightning.reporting import figures, markdown
from fer_lightning.reporting.records import RESULTS, publish, read_record
from fer_lightning.run_folder import RECORD
from fer_lightning.studies.baselines.rows import file_of, header_of

HELP = """usage: python -m fer_lightning leaks [run|write] [key=value ...]

Trains one model under the official protocol and under each leaky one, with the same epochs and settings, and shows by
how much each leak raises the accuracy.

  leaks                      lists the protocols and their scores
  leaks run [key=value ...]  trains each protocol without a record in results/leaks, one after another, then writes;
                             the same command continues after an interruption
  leaks write                writes docs/LEAKS.md and docs/images/leaks.png from the records

The default settings are experiment=sequential_cnn augmentation=none trainer.max_epochs=20 tracking=none; overrides
take precedence. Runs are stored in outputs/leaks, in one folder per settings; move records of other settings out of
results/leaks first:

  python -m fer_lightning leaks run data.path=fer2013.csv trainer.max_epochs=40
"""

RUNS = Path("outputs") / "leaks"
PUBLISHED = RESULTS / "leaks"
COLLECTED = ".collected"
"""Marks a run whose record went to results/leaks: if it is not there any more, somebody deleted it."""

SETTINGS = ("experiment=sequential_cnn", "augmentation=none", "trainer.max_epochs=20", "tracking=none")
NOT_RUN = "not run"

PROTOCOLS = {
    "official": "trained on Training, epoch selected on PublicTest, measured once on PrivateTest",
    "leaky_selected": "the official parts, but PrivateTest itself selects the epoch and lowers the learning rate",
    "leaky_pooled": "all parts pooled, then split at random in the official sizes: copies of an image in several parts",
    "leaky_oversampled": (
        "rare classes oversampled with exact copies to the size of the largest, all pooled, then split at random"
    ),
    "stored_copies": (
        "no leak: the official parts, with augmented copies (mirrored, rotated, in other lighting) of the training "
        "images added"
    ),
    "leaky_augmented": "augmented copies of every image added, all pooled, then split at random",
    "leaky_all": "all leaks together: rare classes oversampled, an augmented copy of every image added, all pooled and "
    "split at random, and the epoch selected on the test part",
}
"""The compared protocols (conf/protocol) with a description of each, the official one first."""

WITHOUT_ADDED_IMAGES = ("official", "leaky_selected", "leaky_pooled")
"""The protocols that add no images, so that their data are equal."""

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

Records = dict[str, dict[str, Any]]


def folder_of(overrides: Sequence[str]) -> Path:
    """Return the folder for runs with these settings and protocols; it has a subfolder per protocol."""
    options = [(CONF / "protocol" / f"{protocol}.yaml").read_text("utf-8") for protocol in PROTOCOLS]
    settings = "\n".join([*settings_of(overrides), *options])
    return RUNS / hashlib.sha256(settings.encode()).hexdigest()[:8]


def settings_of(overrides: Iterable[str]) -> list[str]:
    """Return the overrides that determine a result, without the protocol, sorted."""
    return [override for override in effective_overrides(overrides) if key_of(override) != "protocol"]


def read_records(root: Path = ROOT) -> Records:
    """Read the records of the measured protocols by name, in the order of `PROTOCOLS`.

    Raises:
        ValueError: Two records have different settings or data and cannot be compared.
    """
    paths = [root / PUBLISHED / f"{protocol}.json" for protocol in PROTOCOLS]
    found: Records = {
        path.stem: read_record(path, "command", "data_fingerprint", "test") for path in paths if path.is_file()
    }
    settings = {name: settings_of(overrides_of(record["command"])) for name, record in found.items()}
    for name in found:
        first = next(iter(found))
        if settings[name] != settings[first]:
            raise ValueError(
                f"results/leaks/{name}.json was run with {' '.join(settings[name])}, {first}.json with "
                f"{' '.join(settings[first])}; delete one of them and run again"
            )
    fingerprints = {name: found[name]["data_fingerprint"] for name in WITHOUT_ADDED_IMAGES if name in found}
    if len(set(fingerprints.values())) > 1:
        raise ValueError(
            f"results/leaks: {', '.join(fingerprints)} were run on different data; delete all but those of one data set"
        )
    return found


def run(overrides: Sequence[str], root: Path = ROOT) -> int:
    """Train under every protocol without a record, in one process.

    Args:
        overrides: Hydra overrides in addition to `SETTINGS`.
        root: The folder that contains results/leaks.

    Returns:
        The exit status of the training.

    Raises:
        ValueError: Existing records were run with other settings.
    """
    overrides = merge_overrides(SETTINGS, overrides)
    collect(overrides, root)
    records, wanted = read_records(root), settings_of(overrides)
    for name, record in records.items():
        earlier = settings_of(overrides_of(record["command"]))
        if earlier != wanted:
            raise ValueError(
                f"results/leaks/{name}.json was run with {' '.join(earlier)}, not {' '.join(wanted)}; "
                "use those settings, or delete results/leaks to start again"
            )
    missing = [protocol for protocol in PROTOCOLS if protocol not in records]
    if not missing:
        return 0
    for protocol in missing:
        move_collected(folder_of(overrides) / protocol)
    command = [sys.executable, str(ROOT / "train.py"), "-m", *overrides, f"protocol={','.join(missing)}"]
    command += [f"hydra.sweep.dir={folder_of(overrides)}", "hydra.sweep.subdir=${hydra.runtime.choices.protocol}"]
    training = subprocess.Popen([*command, "resume=auto"])
    earlier_handler = signal.signal(signal.SIGTERM, lambda *_: training.terminate())
    try:
        return training.wait()
    finally:  # after Ctrl-C, which the training received too
        training.wait()
        signal.signal(signal.SIGTERM, earlier_handler)
        collect(overrides, root)


def collect(overrides: Sequence[str], root: Path = ROOT) -> None:
    """Copy the records of finished runs with these settings into results/leaks, once, also after an interruption."""
    for protocol in PROTOCOLS:
        folder, published = folder_of(overrides) / protocol, root / PUBLISHED / f"{protocol}.json"
        if (folder / RECORD).is_file() and not (folder / COLLECTED).exists():
            if not published.exists():
                publish(published, read_record(folder / RECORD, "command"))
            (folder / COLLECTED).touch()


def move_collected(folder: Path) -> None:
    """Rename the folder of a run whose published record was deleted, which `resume=auto` would not train again."""
    if (folder / COLLECTED).exists():
        folder.rename(free_path(folder, first=1))


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
        difference = "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * v for v in gain(test, records["official"]["test"])))
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
        sentences.append(
            "Copies added before the split instead of after it: {:+.1f} points ({:+.1f} to {:+.1f}) with the same "
            "number of images and steps. This includes the leak, and how much easier or harder the augmented copies in "
            "its test part are to classify than the original images.".format(*(100 * v for v in leak))
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


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand and return its exit status."""
    if "--help" in arguments or "-h" in arguments:
        print(wrap_text(HELP))
        return 0
    action, overrides = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    invalid = [o for o in overrides if "=" not in o or o.startswith(("protocol=", "-"))]
    if action not in ("", "run", "write") or invalid or (overrides and action != "run"):
        raise ValueError(
            f"{' '.join(arguments)!r} is invalid: give no arguments, 'write', or 'run' with overrides key=value other "
            "than protocol"
        )
    status = run(overrides) if action == "run" else 0
    records = read_records()
    if action == "write" or (action and records):
        write()
    table = Table(title="Leaks", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in (*COLUMNS[:4], "gain"):
        table.add_column(column, no_wrap=column in (COLUMNS[0], COLUMNS[3]))
    for protocol in PROTOCOLS:
        *first, gain_cell = cells(protocol, records)[:5]
        table.add_row(*first, gain_cell.partition(" ")[0])
    Console().print(table)
    return status
