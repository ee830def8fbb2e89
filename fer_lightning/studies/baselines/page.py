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
    HEAD,
    NOT_RUN,
    TEST,
    WITHOUT_COPIES,
    Baseline,
    baselines,
    file_of,
)

MARKS = ("<!-- results, written by `python -m fer_lightning baselines write` -->", "<!-- end of results -->")

READING = """\
Trained on Training, the epoch chosen on PublicTest, measured on PrivateTest at the end. *Without copies* leaves
out the pictures of PrivateTest whose exact pixels are also in Training or PublicTest. *kaggle_test* is PublicTest
and PrivateTest together, the 7,178 pictures that many sources report on; half of it chose the epoch, so it only
serves to compare with them. A row that names a protocol beside its interval is measured on other labels, FER+'s:
it compares with FER+ alone, behind the rest.

Intervals are 95% bootstrap intervals over the pictures. They leave out what training anew changes: of several
seeds the mean is shown, with the lowest and the highest; of several runs of one command the latest stands in the
table, and what it measured before below with its row. And this project's recipes came one after the other, each
knowing the figures before it. So a difference of a point between two rows says little.

Size is that of float32 weights. Latency is one face on one CPU thread in PyTorch, all measured in one run
(`benchmarks/network_cost.py`): `10 x` where the accuracy is the average of ten views of each face, one number for
each net of an ensemble. An ensemble's parameters and minutes are those of the nets that vote; the minutes of a row
*after* another leave out that one's. Minutes are those of the clock: more where the machine did other work
meanwhile.

Claims of *unpublished* sources cannot be cited: they stand as they were reported. Weights are not in the
repository: what a command starts from, `python -m fer_lightning baselines run NAME --weights` trains first.
Written by `python -m fer_lightning baselines write` from `results/*.json`.
"""
"""How the table is to be read."""


def markdown(rows: Sequence[Baseline], columns: Sequence[str] = COLUMNS) -> str:
    """The table in Markdown."""
    return table(columns, ([cells[column] for column in columns] for cells in (row.cells() for row in rows))) + "\n"


def results_head(rows: Sequence[Baseline]) -> str:
    """The measured rows, and how many wait."""
    measured = [row for row in rows if row.records]
    waiting = f"{len(rows) - len(measured)} more experiments are ready and {NOT_RUN} yet, most for want of a GPU.\n"
    return f"{markdown(measured, HEAD)}\n{waiting}"


def results_page(rows: Sequence[Baseline]) -> str:
    """docs/RESULTS.md: the table, then each class's F1 and where each number comes from."""
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
                f"{record['test']['ece']:.1%}, {_chosen(record)}; PublicTest {_public_test(record)}. "
                f"Data {record['data']} {record['data_fingerprint'][:12]}, protocol {record['protocol']}, "
                f"commit {record['commit'][:12]}, {device}, torch {record['versions']['torch']}.\n"
            )
        for record in row.superseded:
            page.append(
                f"Measured before, with seed {record['seed']}: {record['test']['accuracy']:.2%} on PrivateTest, commit "
                f"{record['commit'][:12]}, {_chosen(record)}.\n"
            )
    return "\n".join(page)


def _chosen(record: Mapping[str, Any]) -> str:
    """The choice made on PublicTest: the epoch of a net, the members of an ensemble."""
    if "members" in record:
        voting = sum(member["weight"] > 0 for member in record["members"])
        return f"{voting} of {len(record['members'])} nets vote ({record['choose']}, weights {record['weights']})"
    return f"best epoch {record['best_epoch']} of {record['epochs']}, {record['precision']}"


def _public_test(record: Mapping[str, Any]) -> str:
    """Accuracy on PublicTest, by the views that PrivateTest is measured with and as it was at the chosen epoch."""
    alone, test, both = record["val"]["accuracy"], record["test"], record.get("kaggle_test")
    if not both:
        return f"{alone:.2%}"
    viewed = (both["accuracy"] * both["n"] - test["accuracy"] * test["n"]) / (both["n"] - test["n"])
    return f"{alone:.2%}" if abs(viewed - alone) < 1e-6 else f"{viewed:.2%} by the same views, {alone:.2%} when chosen"


def write(root: Path = ROOT) -> None:
    """Writes docs/RESULTS.md, the table between the marks in README.md and what was measured into each row's header."""
    rows = baselines(root)
    (root / "docs" / "RESULTS.md").write_text(results_page(rows), "utf-8")
    readme = root / "README.md"
    before, rest = readme.read_text("utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    readme.write_text(f"{before}{MARKS[0]}\n{results_head(rows)}{MARKS[1]}{after}", "utf-8")
    for row in rows:
        path = file_of(root, row.name)
        assert path is not None
        path.write_text(with_measured(path.read_text("utf-8"), row), "utf-8")


def with_measured(text: str, row: Baseline) -> str:
    """The yaml of a row, with the line `Measured` at the end of its header where there are records, else without."""
    lines = [line for line in text.splitlines() if not line.startswith("# Measured ")]
    if row.records:
        cells = row.cells()
        minutes, machine = cells["minutes"].split(" on ", 1)
        line = f"# Measured  {cells[TEST]} on PrivateTest, {minutes} minutes on {machine}"
        end = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
        lines.insert(end, line)
    return "\n".join(lines) + "\n"


def show(rows: Sequence[Baseline], console: Console) -> None:
    """What was measured, and the queue of what was not, in the terminal."""
    columns = ("experiment", "source's claim", "PrivateTest", "95% interval", "without copies")
    measured = _table("Measured, accuracies", columns)
    waiting = [row for row in rows if not row.records]
    for row in rows:
        if row.records:
            cells = row.cells()
            accuracy, _, interval = cells[TEST].removesuffix(")").partition(" (")
            without_copies = cells[WITHOUT_COPIES].split()[0]
            measured.add_row(row.name, row.claimed, accuracy, re.sub(r"(?<=[:,]) ", "\n", interval), without_copies)
    console.print(measured)
    console.print("What each claim is worth, and the whole table: docs/RESULTS.md", highlight=False)
    console.print()
    if waiting:
        queue = _table("Not run, most valuable first", ("experiment", "source's claim", "needs", "GPU minutes"))
        queue.columns[3].justify = "right"
        for row in waiting:
            queue.add_row(row.name, row.claimed, row.needs.replace(" and ", ", "), str(row.gpu_minutes or ""))
        console.print(queue)
        alone = {row.name: row.gpu_minutes or 0 for row in waiting}
        twice = sum(alone.get(member, 0) for row in waiting for member in row.members)
        console.print(f"About {sum(alone.values()) - twice} minutes on a GPU in all. Run one with")
        console.print(f"  python -m fer_lightning baselines run {waiting[0].name}", highlight=False)
        if anywhere := [row for row in waiting if not row.needs and row is not waiting[0]]:
            console.print("or, on any machine,")
            console.print(f"  python -m fer_lightning baselines run {anywhere[0].name}", highlight=False)


def _table(title: str, columns: Sequence[str]) -> Table:
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        shown.add_column(column, no_wrap=column not in ("needs", "without copies"), overflow="fold")
    return shown
