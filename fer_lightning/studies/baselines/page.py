"""The results table in the terminal, in docs/RESULTS.md and in README.md."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fer_lightning.config import ROOT
from fer_lightning.reporting.markdown import table
from fer_lightning.studies.baselines.rows import (
    COLUMNS,
    NOT_RUN,
    README_COLUMNS,
    TEST,
    WITHOUT_COPIES,
    Baseline,
    baselines,
    file_of,
)

MARKS = ("<!-- results, written by `python -m fer_lightning baselines write` -->", "<!-- end of results -->")

READING = """\
Trained on Training, epoch selected on PublicTest, measured on PrivateTest at the end. *Without copies* excludes
PrivateTest images whose exact pixels also occur in Training or PublicTest. *kaggle_test* is PublicTest and
PrivateTest together, the 7,178 images that many sources report on; half of it selected the epoch, so it only
serves to compare with them. A row that names a protocol beside its interval is measured on other labels, FER+'s:
it compares with FER+ only, and comes after the others.

Intervals are 95% bootstrap intervals over the images. They do not include the variance of a repeated training. For
several seeds the table shows the mean with the lowest and highest score; for several runs of one command it shows
the latest, and the earlier results are listed with the row below. This project's recipes were developed one after
the other, each with knowledge of the earlier scores. So a difference of one point between two rows says little.

Size is that of float32 weights. Latency is one face on one CPU thread in PyTorch, all measured in one run
(`benchmarks/network_cost.py`); `10 x`: the accuracy is that of ten averaged views of each face, with one term per
network of an ensemble. Parameters and minutes of an ensemble are those of the networks with a weight; the minutes of
a row *after* another exclude that row's. Minutes are wall-clock time: longer if the machine did other work at the
same time.

Claims of *unpublished* sources cannot be cited: they are given as reported. Weights are not in the repository: if a
command starts from another row's network, `python -m fer_lightning baselines run NAME --weights` trains that first.
Written by `python -m fer_lightning baselines write` from `results/*.json`.
"""
"""How to read the table."""


def markdown(rows: Sequence[Baseline], columns: Sequence[str] = COLUMNS) -> str:
    """Format the table in Markdown."""
    return table(columns, ([cells[column] for column in columns] for cells in (row.cells() for row in rows))) + "\n"


def results_head(rows: Sequence[Baseline]) -> str:
    """Format the table of the measured rows and the number of the others."""
    measured = [row for row in rows if row.records]
    others = (
        f"{len(rows) - len(measured)} more experiments are defined but {NOT_RUN} yet, most because they need a GPU.\n"
    )
    return f"{markdown(measured, README_COLUMNS)}\n{others}"


def results_page(rows: Sequence[Baseline]) -> str:
    """Return docs/RESULTS.md: the table, then the F1 of each class and the origin of each number."""
    page = [f"# Results\n\n{READING}"]
    page.append(markdown(rows))
    for row in rows:
        for record in row.records:
            f1 = ", ".join(f"{name} {value:.2f}" for name, value in record["test"]["per_class_f1"].items())
            device = record["machine"]["gpu"] or record["machine"]["cpu"]
            page.append(
                f"## {row.name}, seed {record['seed']}\n\n"
                f"{'. '.join(row.header[key] for key in ('Source', 'Note') if key in row.header)}.\n\n"
                f"F1: {f1}.\n\n"
                f"Balanced accuracy {record['test']['balanced_accuracy']:.2%}, calibration error "
                f"{record['test']['ece']:.1%}, {_selection(record)}; PublicTest {_public_test(record)}. "
                f"Data {record['data']} {record['data_fingerprint'][:12]}, protocol {record['protocol']}, "
                f"commit {record['commit'][:12]}, {device}, torch {record['versions']['torch']}.\n"
            )
        for record in row.superseded:
            page.append(
                f"Earlier result, seed {record['seed']}: {record['test']['accuracy']:.2%} on PrivateTest, commit "
                f"{record['commit'][:12]}, {_selection(record)}.\n"
            )
    return "\n".join(page)


def _selection(record: Mapping[str, Any]) -> str:
    """Describe what was selected on PublicTest: the epoch of a network, the members of an ensemble."""
    if "members" in record:
        voting = sum(member["weight"] > 0 for member in record["members"])
        return f"{voting} of {len(record['members'])} networks vote ({record['choose']}, weights {record['weights']})"
    return f"best epoch {record['best_epoch']} of {record['epochs']}, {record['precision']}"


def _public_test(record: Mapping[str, Any]) -> str:
    """Format the accuracy on PublicTest, with the views used on PrivateTest and as it was at the selected epoch."""
    selected, test, both = record["val"]["accuracy"], record["test"], record.get("kaggle_test")
    if not both:
        return f"{selected:.2%}"
    viewed = (both["accuracy"] * both["n"] - test["accuracy"] * test["n"]) / (both["n"] - test["n"])
    if abs(viewed - selected) < 1e-6:
        return f"{selected:.2%}"
    return f"{viewed:.2%} with the same views, {selected:.2%} when selected"


def write(root: Path = ROOT) -> None:
    """Write docs/RESULTS.md, the table between the marks in README.md and the line `Measured` of each row's yaml.

    Raises:
        ValueError: A record is damaged, or README.md lacks a mark.
    """
    rows = baselines(root)
    readme = root / "README.md"
    text = readme.read_text("utf-8")
    for mark in MARKS:
        if text.count(mark) != 1:
            raise ValueError(f"{readme} must have the line {mark} once; the table of results is between two such lines")
    before, after = text.partition(MARKS[0])[0], text.partition(MARKS[1])[2]
    (root / "docs" / "RESULTS.md").write_text(results_page(rows), "utf-8")
    readme.write_text(f"{before}{MARKS[0]}\n{results_head(rows)}{MARKS[1]}{after}", "utf-8")
    for row in rows:
        path = file_of(root, row.name)
        assert path is not None
        path.write_text(with_measured(path.read_text("utf-8"), row), "utf-8")


def with_measured(text: str, row: Baseline) -> str:
    """Return the yaml of a row, with the line `Measured` at the end of its header if and only if it has records."""
    lines = [line for line in text.splitlines() if not line.startswith("# Measured ")]
    if row.records:
        cells = row.cells()
        minutes, machine = cells["minutes"].partition(", after ")[0].split(" on ", 1)
        line = f"# Measured  {cells[TEST]} on PrivateTest, {minutes} minute{'s' * (minutes != '1')} on {machine}"
        end = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
        lines.insert(end, line)
    return "\n".join(lines) + "\n"


def show(rows: Sequence[Baseline], console: Console) -> None:
    """Print the measured rows and the queue of the others."""
    columns = ("experiment", "source's claim", "PrivateTest", "95% interval", "without copies")
    measured = _table("Measured accuracies", columns)
    queued = [row for row in rows if not row.records]
    for row in rows:
        if row.records:
            cells = row.cells()
            accuracy, _, interval = cells[TEST].removesuffix(")").partition(" (")
            without_copies = cells[WITHOUT_COPIES].split()[0]
            measured.add_row(row.name, row.claimed, accuracy, re.sub(r"(?<=[:,]) ", "\n", interval), without_copies)
    console.print(measured)
    console.print("Verdicts on the claims, and the whole table: docs/RESULTS.md", highlight=False)
    console.print()
    if queued:
        queue = _table("Not run, most valuable first", ("experiment", "source's claim", "needs", "GPU minutes"))
        queue.columns[3].justify = "right"
        for row in queued:
            queue.add_row(row.name, row.claimed, row.needs.replace(" and ", ", "), str(row.gpu_minutes or ""))
        console.print(queue)
        minutes = {row.name: row.gpu_minutes or 0 for row in queued}
        counted_twice = sum(minutes.get(member, 0) for row in queued for member in row.members)
        console.print(f"About {sum(minutes.values()) - counted_twice} minutes on a GPU in total. Run one with")
        console.print(f"  python -m fer_lightning baselines run {queued[0].name}", highlight=False)
        if without_needs := [row for row in queued if not row.needs and row is not queued[0]]:
            console.print("or, on any machine,")
            console.print(f"  python -m fer_lightning baselines run {without_needs[0].name}", highlight=False)


def _table(title: str, columns: Sequence[str]) -> Table:
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        shown.add_column(column, no_wrap=column not in ("needs", "without copies"), overflow="fold")
    return shown
