"""`python -m fer_lightning baselines`: every published system beside what was measured here."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

HELP = """usage: python -m fer_lightning baselines [write]

Lists every experiment of conf/experiment with its source's claim and what results/*.json measured.
`write` also writes docs/RESULTS.md and the head of that table in README.md. Measure a row with

  python train.py experiment=NAME seed=0 paths.results_dir=results
"""

ROOT = Path(__file__).parents[2]
MARKS = ("<!-- results, written by `python -m fer_lightning baselines write` -->", "<!-- end of results -->")
NOT_RUN = "not run"


@dataclass(frozen=True)
class Baseline:
    """One row: an experiment, what its source claims, and the records of its runs.

    Attributes:
        name: `custom_cnn` for conf/experiment/custom_cnn.yaml.
        claim: What the source reports.
        cost: What a run is estimated to take, for rows that are not run.
        records: The measured runs, by seed.
    """

    name: str
    claim: str
    cost: str
    records: list[dict[str, Any]] = field(default_factory=list)

    def cells(self) -> list[str]:
        """The row of the table: name, claim, accuracy on all and on the deduplicated part, macro-F1 and so on."""
        if not self.records:
            command = f"`python train.py experiment={self.name} seed=0`"
            return [self.name, self.claim, NOT_RUN, NOT_RUN, "", "", self.cost, command]
        record = self.records[0]
        parts = [record["test"], record["test_deduplicated"]]
        accuracies = ["{:.2%} ({:.1%} to {:.1%})".format(p["accuracy"], *p["accuracy_interval"]) for p in parts]
        machine = record["machine"]["gpu"] or f"{record['machine']['cores']} CPU cores"
        return [
            self.name,
            self.claim,
            *accuracies,
            f"{parts[0]['macro_f1']:.2%}",
            f"{record['params'] / 1e6:.2f} M",
            f"{record['minutes']:.0f} on {machine}",
            f"`{record['command']}`",
        ]


COLUMNS = (
    "experiment",
    "source's claim",
    "PrivateTest accuracy (95%)",
    "without copies (95%)",
    "macro F1",
    "parameters",
    "minutes",
    "command",
)


def baselines(root: Path = ROOT) -> list[Baseline]:
    """All experiments, measured ones first and best first."""
    rows = []
    for path in sorted((root / "conf" / "experiment").glob("*.yaml")):
        header = dict(re.findall(r"^# (\w+) {2,}(.+?)$", path.read_text(), flags=re.MULTILINE))
        found = sorted((root / "results").glob(f"{path.stem}_seed*.json"))
        records = [json.loads(file.read_text()) for file in found]
        rows.append(Baseline(path.stem, header.get("Claim", ""), header.get("Cost", ""), records))
    return sorted(rows, key=lambda row: -row.records[0]["test"]["accuracy"] if row.records else 0.0)


def markdown(rows: Sequence[Baseline], columns: int = len(COLUMNS)) -> str:
    """The table in Markdown, its first `columns` columns."""
    lines = [COLUMNS[:columns], ["---"] * columns, *(row.cells()[:columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def results_head(rows: Sequence[Baseline]) -> str:
    """The measured rows, and how many wait."""
    measured = [row for row in rows if row.records]
    waiting = f"{len(rows) - len(measured)} more of the published systems can be run: {NOT_RUN} yet.\n"
    return f"{markdown(measured, columns=6)}\n{waiting}"


def results_page(rows: Sequence[Baseline]) -> str:
    """docs/RESULTS.md: the table, then each class's F1 and where each number comes from."""
    page = ["# Results\n"]
    page.append(
        "Trained on Training, chosen on PublicTest, measured on PrivateTest once. *Without copies* leaves out the\n"
        "pictures of PrivateTest whose exact pixels are also in Training or PublicTest. Intervals are 95% bootstrap\n"
        "intervals over the pictures. Written by `python -m fer_lightning baselines write` from `results/*.json`.\n"
    )
    page.append(markdown(rows))
    for row in rows:
        for record in row.records:
            f1 = ", ".join(f"{name} {value:.2f}" for name, value in record["test"]["per_class_f1"].items())
            page.append(
                f"## {row.name}, seed {record['seed']}\n\n"
                f"F1: {f1}.\n\n"
                f"Balanced accuracy {record['test']['balanced_accuracy']:.2%}, calibration error "
                f"{record['test']['ece']:.3f}, best epoch {record['best_epoch']} of {record['epochs']} "
                f"(PublicTest {record['val']['accuracy']:.2%}), {record['precision']}. "
                f"Data {record['data']} {record['data_fingerprint'][:12]}, protocol {record['protocol']}, "
                f"commit {record['commit'][:12]}, {record['machine']['cpu']}, torch {record['versions']['torch']}.\n"
            )
    return "\n".join(page)


def write(root: Path = ROOT) -> None:
    """Writes docs/RESULTS.md and the table between the marks in README.md."""
    rows = baselines(root)
    (root / "docs" / "RESULTS.md").write_text(results_page(rows))
    readme = root / "README.md"
    before, rest = readme.read_text().split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    readme.write_text(f"{before}{MARKS[0]}\n{results_head(rows)}{MARKS[1]}{after}")


def main(arguments: Sequence[str]) -> int:
    """The verb; returns its exit status."""
    if "--help" in arguments or "-h" in arguments:
        print(HELP)
        return 0
    if list(arguments) not in ([], ["write"]):
        print(f"fer baselines: {' '.join(arguments)!r} is not known; it takes nothing or 'write'", file=sys.stderr)
        return 2
    table = Table(title="Baselines", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for position, column in enumerate(COLUMNS[:5]):
        table.add_column(column, no_wrap=position == 0)
    for row in baselines():
        table.add_row(*row.cells()[:5])
    Console().print(table)
    if arguments:
        write()
    return 0
