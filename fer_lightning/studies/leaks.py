"""`python -m fer_lightning leaks`: the same model under the official and under leaky protocols; what each adds."""

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
from fer_lightning.overrides import effective_overrides, key_of, merge_overrides, overrides_of
from fer_lightning.reporting import figures, markdown
from fer_lightning.reporting.records import publish, read_record
from fer_lightning.studies.baselines.rows import file_of, header_of

HELP = """usage: python -m fer_lightning leaks [run|write] [key=value ...]

Trains one model under the official protocol and under each leaky one, the same epochs and settings, and shows what
every shortcut adds to the accuracy.

  leaks                      lists what is measured
  leaks run [key=value ...]  trains what has no record in results/leaks yet, one after the other, then writes;
                             typed again after a kill, it goes on where it was
  leaks write                writes docs/LEAKS.md and docs/images/leaks.png from the records

The settings are experiment=sequential_cnn augmentation=none trainer.max_epochs=20 tracking=none; whatever key=value is
typed wins. The trainings lie in outputs/leaks, a folder for each settings; records of other settings have to be moved
out of results/leaks first:

  python -m fer_lightning leaks run data.path=fer2013.csv trainer.max_epochs=40
"""

RUNS = Path("outputs") / "leaks"
COLLECTED = ".collected"
"""Marks a run whose record went to results/leaks: if it is not there any more, somebody deleted it."""

SETTINGS = ("experiment=sequential_cnn", "augmentation=none", "trainer.max_epochs=20", "tracking=none")
NOT_RUN = "not run"

STUDIED = {
    "official": "trained on Training, epoch chosen on PublicTest, measured on PrivateTest at the end",
    "leaky_selected": "the official parts, but PrivateTest itself chooses the epoch and lowers the learning rate",
    "leaky_pooled": "all parts pooled and split at random in the official sizes: copies of a picture lie on both sides",
    "leaky_oversampled": (
        "rare classes filled up with exact copies to the size of the largest, all pooled, only then split at random"
    ),
    "stored_copies": (
        "no leak: the official parts, with changed copies (mirrored, turned, in another light) of the training "
        "pictures stored beside them"
    ),
    "leaky_augmented": "changed copies of every picture stored, all pooled, only then split at random",
    "leaky_all": "all of it: rare classes filled up, a changed copy of every picture stored, all pooled and split at "
    "random, and the epoch is chosen on the test part",
}
"""The protocols that are compared (conf/protocol), the honest one first, and what each does."""

UNGROWN = ("official", "leaky_selected", "leaky_pooled")
"""Those that store no further pictures, so that their data are the same."""

COLUMNS = (
    "protocol",
    "training pictures",
    "training accuracy",
    "accuracy reported (95%)",
    "gain over official (95%)",
    "without exact copies",
    "epoch",
    "minutes",
)

Records = dict[str, dict[str, Any]]


def folder_of(words: Sequence[str]) -> Path:
    """Where the trainings of these settings and protocols lie, a folder for each protocol."""
    options = [(CONF / "protocol" / f"{protocol}.yaml").read_text("utf-8") for protocol in STUDIED]
    settings = "\n".join([*settings_of(words), *options])
    return RUNS / hashlib.sha256(settings.encode()).hexdigest()[:8]


def settings_of(overrides: Iterable[str]) -> list[str]:
    """The overrides that decide a result beside the protocol, sorted."""
    return [override for override in effective_overrides(overrides) if key_of(override) != "protocol"]


def read_records(root: Path = ROOT) -> Records:
    """The measured protocols by name, in the order of `STUDIED`.

    Raises:
        ValueError: Two records are of different settings, so that they do not compare.
    """
    paths = [root / "results" / "leaks" / f"{protocol}.json" for protocol in STUDIED]
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
    alike = {name: found[name]["data_fingerprint"] for name in UNGROWN if name in found}
    if len(set(alike.values())) > 1:
        raise ValueError(
            f"results/leaks: {', '.join(alike)} were run on different data; delete all but those of one set"
        )
    return found


def run(overrides: Sequence[str], root: Path = ROOT) -> int:
    """Trains under every protocol that has no record yet, in one process.

    Args:
        overrides: Hydra overrides on top of `SETTINGS`.
        root: Where results/leaks lies.

    Returns:
        The exit status of the training.

    Raises:
        ValueError: The records that are there were run with other settings.
    """
    words = merge_overrides(SETTINGS, overrides)
    collect(words, root)
    before, now = read_records(root), settings_of(words)
    for name, record in before.items():
        earlier = settings_of(overrides_of(record["command"]))
        if earlier != now:
            raise ValueError(
                f"results/leaks/{name}.json was run with {' '.join(earlier)}, not {' '.join(now)}; "
                "type those settings, or delete results/leaks to start anew"
            )
    missing = [protocol for protocol in STUDIED if protocol not in before]
    if not missing:
        return 0
    for protocol in missing:
        move_collected(folder_of(words) / protocol)
    command = [sys.executable, str(ROOT / "train.py"), "-m", *words, f"protocol={','.join(missing)}"]
    command += [f"hydra.sweep.dir={folder_of(words)}", "hydra.sweep.subdir=${hydra.runtime.choices.protocol}"]
    training = subprocess.Popen([*command, "resume=auto"])
    before_it = signal.signal(signal.SIGTERM, lambda *_: training.terminate())
    try:
        return training.wait()
    finally:  # after Ctrl-C, which the training got too
        training.wait()
        signal.signal(signal.SIGTERM, before_it)
        collect(words, root)


def collect(words: Sequence[str], root: Path = ROOT) -> None:
    """Copies the records of finished runs with these settings into results/leaks, each one once, also after a kill."""
    for protocol in STUDIED:
        folder, published = folder_of(words) / protocol, root / "results" / "leaks" / f"{protocol}.json"
        if (folder / "record.json").is_file() and not (folder / COLLECTED).exists():
            if not published.exists():
                publish(published, read_record(folder / "record.json", "command"))
            (folder / COLLECTED).touch()


def move_collected(folder: Path) -> None:
    """Makes room to repeat a run whose record was collected and then deleted; `resume=auto` takes it for done."""
    if (folder / COLLECTED).exists():
        number = 1
        while (place := folder.with_name(f"{folder.name}_{number}")).exists():
            number += 1
        folder.rename(place)


def gain(reported: Mapping[str, Any], honest: Mapping[str, Any]) -> tuple[float, float, float]:
    """By how much an accuracy lies above another, with its 95% interval.

    The two intervals are put together by squaring and adding (Newcombe 1998, method 10), as for independent pictures;
    where both are measured on the same pictures, the interval is wider than it need be.

    Args:
        reported: Scores of one test part: `accuracy` and `accuracy_interval`.
        honest: Scores of the other.

    Returns:
        Difference, lower and upper bound, as fractions.
    """
    difference = reported["accuracy"] - honest["accuracy"]
    low, high = ([abs(s["accuracy_interval"][side] - s["accuracy"]) for s in (reported, honest)] for side in (0, 1))
    return difference, difference - math.hypot(low[0], high[1]), difference + math.hypot(high[0], low[1])


def cells(protocol: str, records: Records) -> list[str]:
    """One row of the table."""
    if protocol not in records:
        return [protocol, "", "", NOT_RUN, "", "", "", ""]
    record = records[protocol]
    test = record["test"]
    above = ""
    if protocol != "official" and "official" in records:
        above = "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * v for v in gain(test, records["official"]["test"])))
    deduplicated = record.get("test_deduplicated")
    return [
        record["protocol"],
        f"{record['pictures']['train']:,}",
        f"{record['train_accuracy']:.1%}",
        markdown.with_interval(test["accuracy"], test["accuracy_interval"]),
        above,
        f"{deduplicated['accuracy']:.2%} of {deduplicated['n']:,}" if deduplicated else "none left",
        f"{record['best_epoch']:.0f} of {record['epochs']}",
        f"{record['minutes']:.0f}",
    ]


def claim_of(record: Mapping[str, Any]) -> float | None:
    """The accuracy that the source of the record's experiment claims, as a fraction, or None."""
    path = file_of(ROOT, record["experiment"])
    found = re.match(r"([\d.]+)%", header_of(path).get("Claim", "")) if path else None
    return float(found[1]) / 100 if found else None


def plot(records: Records, claim: float | None) -> Figure:
    """One line a protocol: its accuracy with the 95% interval, beside the official one and the source's claim.

    Args:
        records: One or more.
        claim: A fraction to mark, or None.
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
        axes.set(xlabel="accuracy reported, with its 95% interval; blue: honest, orange: leaky")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
    return figure


def page(records: Records, claim: float | None) -> str:
    """docs/LEAKS.md: plot, table, what each protocol does, and what follows from the numbers."""
    first = next(iter(records.values()))
    settings = " ".join(settings_of(overrides_of(first["command"])))
    said = [
        "# What each shortcut adds\n",
        "One model with the same epochs and settings under the official protocol and under the shortcuts of the\n"
        "literature. **Only the official number is a result**; protocols whose names begin with `leaky_` exist to be\n"
        "measured here. Written by `python -m fer_lightning leaks write` from `results/leaks/*.json`.\n",
        "![Accuracy reported under each protocol](images/leaks.png)\n",
        markdown.table(COLUMNS, (cells(protocol, records) for protocol in STUDIED)) + "\n",
        "*Training accuracy* was measured while the chosen epoch was trained. *Without exact\n"
        "copies* leaves out test pictures whose very pixels were trained or chosen on (under `leaky_selected`: by the\n"
        "official parts). Gains are percentage points, their intervals Newcombe's from the two bootstrap intervals.\n",
        "## The protocols\n",
        "\n".join(f"- `{protocol}`: {about}." for protocol, about in STUDIED.items()) + "\n",
        "Validation and test parts have the official sizes everywhere. `leaky_pooled` and `leaky_selected` also train\n"
        "on as many pictures as `official`; where copies are stored, the training part grows with them, and an epoch\n"
        "has more steps. Therefore `stored_copies` stands beside `leaky_augmented`: as many pictures and steps,\n"
        "without the leak. `leaky_oversampled` and `leaky_all` test as many pictures of each class, the others\n"
        "FER2013's shares.\n",
    ]
    if conclusions := _conclusions(records, claim):
        said += ["## What follows\n", "\n".join(f"- {sentence}" for sentence in conclusions) + "\n"]
    said += [
        f"Run with `{settings}`; data {first['data']} {first['data_fingerprint'][:12]}, {_commits(records)}, "
        f"{first['machine']['gpu'] or first['machine']['cpu']}, torch {first['versions']['torch']}. "
        "`python -m fer_lightning leaks run` repeats what has no record in `results/leaks`.\n"
    ]
    if first["synthetic"]:
        said.insert(1, "**SYNTHETIC FACES drawn by the program: these numbers say nothing about real faces.**\n")
    return "\n".join(said)


def _commits(records: Records) -> str:
    """`commit 604766e6f779`, and which protocols were run at another, with what the code had become by then."""
    first, *others = dict.fromkeys(record["commit"] for record in records.values())
    said = [f"commit {first[:12]}"]
    for other in others:
        names = [name for name, record in records.items() if record["commit"] == other]
        said.append(f"{' and '.join(names)} at commit {other[:12]}")
    return ", ".join(said)


def _conclusions(records: Records, claim: float | None) -> list[str]:
    """Sentences that hold whatever was measured: each says a number of the records."""
    accuracy = {name: record["test"]["accuracy"] for name, record in records.items()}
    sentences = []
    if {"stored_copies", "leaky_augmented"} <= accuracy.keys():
        leak = gain(records["leaky_augmented"]["test"], records["stored_copies"]["test"])
        sentences.append(
            "Stored copies before the split instead of after it: {:+.1f} points ({:+.1f} to {:+.1f}) with the same "
            "number of pictures and steps. That is the leak, and by how much the changed copies in its test part are "
            "easier or harder to tell than the pictures themselves.".format(*(100 * v for v in leak))
        )
        if after := records["leaky_augmented"].get("test_deduplicated"):
            sentences.append(
                f"Leaving out exact copies does not find this leak: of the {after['n']:,} test pictures without one, "
                f"{after['accuracy']:.1%} are right. Their changed copies were trained on."
            )
    if after := records.get("leaky_oversampled", {}).get("test_deduplicated"):
        sentences.append(
            f"Under `leaky_oversampled` {after['n']:,} of {records['leaky_oversampled']['test']['n']:,} test pictures "
            f"have no exact copy in training; of those {after['accuracy']:.1%} are right, of all "
            f"{accuracy['leaky_oversampled']:.1%}."
        )
    if claim is not None and len(accuracy) == len(STUDIED):
        reach = [name for name, value in accuracy.items() if value >= claim]
        sentences.append(
            f"The source of this model claims {claim:.0%}. "
            + (f"Here {', '.join(reach)} came as high." if reach else "No protocol here came as high.")
        )
    return sentences


def write(root: Path = ROOT) -> None:
    """Writes docs/LEAKS.md and its plot.

    Raises:
        ValueError: Nothing was measured, or the records do not compare.
    """
    records = read_records(root)
    if not records:
        raise ValueError("there is no record in results/leaks; `python -m fer_lightning leaks run` makes them")
    claim = claim_of(next(iter(records.values())))
    figures.save(plot(records, claim), root / "docs" / "images" / "leaks.png")
    (root / "docs" / "LEAKS.md").write_text(page(records, claim), "utf-8")


def main(arguments: Sequence[str]) -> int:
    """The verb; returns its exit status."""
    if "--help" in arguments or "-h" in arguments:
        print(wrap_text(HELP))
        return 0
    action, overrides = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    wrong = [o for o in overrides if "=" not in o or o.startswith(("protocol=", "-"))]
    if action not in ("", "run", "write") or wrong or (overrides and action != "run"):
        raise ValueError(
            f"{' '.join(arguments)!r} is not known; it takes nothing, 'write', or 'run' with key=value of any key but "
            "the protocol"
        )
    status = run(overrides) if action == "run" else 0
    records = read_records()
    if action == "write" or (action and records):
        write()
    table = Table(title="Leaks", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in (*COLUMNS[:4], "gain"):
        table.add_column(column, no_wrap=column in (COLUMNS[0], COLUMNS[3]))
    for protocol in STUDIED:
        *first, gained = cells(protocol, records)[:5]
        table.add_row(*first, gained.partition(" ")[0])
    Console().print(table)
    return status
