"""The rows of the results table: what each source claims and what `results/*.json` measured."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from fer_lightning.config import ROOT
from fer_lightning.reporting.records import read_record

NOT_RUN = "not run"
NEEDED = (
    "experiment",
    "seed",
    "command",
    "machine",
    "protocol",
    "data_fingerprint",
    "test",
    "val",
    "params",
    "minutes",
)
"""Keys of a record that is a row."""

GROUPS = ("experiment", "ensemble")
"""The folders of conf/ whose options are rows."""

NETWORK_COST = Path("benchmarks") / "results" / "network_cost.json"
"""Where `benchmarks/network_cost.py` writes what the networks cost, all measured in one run."""

Costs = Mapping[str, Mapping[str, float]]
"""By experiment: `parameters`, `milliseconds`."""

TEST = "PrivateTest accuracy (95%)"
WITHOUT_COPIES = "without copies (95%)"
ACCURACIES = {TEST: "test", WITHOUT_COPIES: "test_deduplicated", "kaggle_test (95%)": "kaggle_test"}
"""The columns of accuracy, each with the part of the data that it stands for."""

COLUMNS = (
    "experiment",
    "source's claim",
    "claim's protocol",
    *ACCURACIES,
    "macro F1",
    "parameters",
    "size",
    "latency",
    "minutes",
    "command",
)
HEAD = ("experiment", "source's claim", TEST, WITHOUT_COPIES, "macro F1", "parameters")
"""The columns of the table in README.md and of the app."""


@dataclass(frozen=True)
class Baseline:
    """One row: an experiment or an ensemble, what its source claims, and the records of its runs.

    Attributes:
        name: `custom_cnn` for conf/experiment/custom_cnn.yaml, `khanzada7` for conf/ensemble/khanzada7.yaml.
        header: The comment that opens its yaml, by key. `Claim` is what the source reports, in a row of this project's
            own `Aim` what was hoped for, `Protocol` how the source measured, `Verdict` what that is worth, `Ours` where
            this project's recipe differs, `Needs` what a run cannot do without, `After` the row whose trained net it
            starts from, `First` the command that makes of that net what it starts from, `Queue` its place among the
            rows that wait, `Cost` what a run is estimated to take, `Note` what else must be known of the measured
            runs, `Measured` what `write` puts there of them.
        records: The measured runs, by seed.
        members: Of an ensemble, those nets that are rows too.
        cost: What the network costs, `parameters` and `milliseconds` a face; empty where it was not measured.
    """

    name: str
    header: dict[str, str]
    records: list[dict[str, Any]] = field(default_factory=list)
    members: Sequence[str] = ()
    cost: Mapping[str, float] = field(default_factory=dict)

    @property
    def claimed(self) -> str:
        """The figure that opens `Claim` or `Aim`: `64.2 to 64.4%`, `aim 71.3%`; empty where there is none."""
        claim, aim = (re.match(r"[\d.]+( to [\d.]+)?%", self.header.get(key, "")) for key in ("Claim", "Aim"))
        return claim[0] if claim else f"aim {aim[0]}" if aim else ""

    @property
    def gpu_minutes(self) -> int | None:
        """The estimate of `Cost` for a run on a GPU."""
        found = re.search(r"(\d+) minutes? on a GPU", self.header.get("Cost", ""))
        return int(found[1]) if found else None

    @property
    def needs(self) -> str:
        """`a GPU and a trained vggnet`; empty where nothing is needed."""
        after = [f"a trained {self.header['After']}"] if "After" in self.header else []
        return " and ".join([*([self.header["Needs"]] if "Needs" in self.header else []), *after])

    def accuracy(self, part: str) -> str:
        """`67.15% (65.7% to 68.6%)`: one run with its 95% interval, or the mean of several seeds with their range."""
        rows = [record[part] for record in self.records if part in record]
        protocol = self.records[0]["protocol"] if self.records else "official"
        if part == "kaggle_test" and protocol != "official":
            return "other labels"
        if not rows:
            return NOT_RUN
        values = [row["accuracy"] for row in rows]
        under = "" if protocol == "official" else f", {protocol}"  # FER+'s labels make another, easier test
        if len(rows) == 1:
            low, high = rows[0]["accuracy_interval"]
            return f"{values[0]:.2%} ({low:.1%} to {high:.1%}{under})"
        return f"{mean(values):.2%} (mean of {len(rows)} seeds: {min(values):.1%} to {max(values):.1%}{under})"

    @property
    def command(self) -> str:
        """What repeats the measured run: its own command, but not where it once went on from."""
        words = [word for word in self.records[0]["command"].split() if not word.startswith("resume=")]
        needs = f" (needs {self.needs})" if self.needs else ""
        return f"`{' '.join(words)}`{needs}"

    def cells(self) -> dict[str, str]:
        """The row of the table, by column."""
        cells = dict.fromkeys(COLUMNS, "")
        aim = f"aim {self.header['Aim']}" if "Aim" in self.header else ""
        cells |= {"experiment": self.name, "source's claim": self.header.get("Claim", aim)}
        cells["claim's protocol"] = "; ".join(self.header[k] for k in ("Protocol", "Verdict") if k in self.header)
        cells |= {column: self.accuracy(part) for column, part in ACCURACIES.items()}
        parameters = self.records[0]["params"] if self.records else self.cost.get("parameters")
        if parameters:
            cells |= {"parameters": f"{parameters / 1e6:.2f} M", "size": f"{4 * parameters / 1e6:.1f} MB"}
        cells["latency"] = f"{self.cost['milliseconds']:.1f} ms" if self.cost else NOT_RUN
        if not self.records:
            why = f": needs {self.needs}" if self.needs else ""
            command = f"`python -m fer_lightning baselines run {self.name}`"
            return cells | {TEST: NOT_RUN + why, "minutes": self.header.get("Cost", ""), "command": command}
        record = self.records[0]
        on = record["machine"]
        threads = min(on["cores"], on.get("threads", on["cores"]))
        machine = on["gpu"] or f"{threads} CPU core{'s' * (threads > 1)}"
        return cells | {
            "macro F1": f"{mean(r['test']['macro_f1'] for r in self.records):.2%}",
            "minutes": f"{record['minutes']:.0f} on {machine}",
            "command": self.command,
        }


def file_of(root: Path, name: str) -> Path | None:
    """The yaml of an experiment or ensemble, None where there is none of that name."""
    return next((path for group in GROUPS if (path := root / "conf" / group / f"{name}.yaml").exists()), None)


def header_of(path: Path) -> dict[str, str]:
    """The comment that opens an experiment, `# Key       text` with indented further lines, by key."""
    header: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if found := re.match(r"# ([A-Z]\w+) {2,}(.+)", line):
            header[found[1]] = found[2]
        elif line.startswith("#  ") and header:
            header[list(header)[-1]] += " " + line[1:].strip()
    return header


def baselines(root: Path = ROOT) -> list[Baseline]:
    """All experiments and ensembles: measured ones, best first; those measured on other labels; then the queue.

    Raises:
        ValueError: A record is damaged, or those of one row do not compare.
    """
    rows = []
    measured = root / NETWORK_COST
    costs: Costs = read_record(measured, "networks")["networks"] if measured.exists() else {}
    for path in sorted(file for group in GROUPS for file in (root / "conf" / group).glob("*.yaml")):
        header = header_of(path)
        if "Source" in header:
            found = sorted((root / "results").glob(f"{path.stem}_seed*.json"))
            records = [read_record(file, *NEEDED) for file in found]
            if other := [record for record in records if record["experiment"] != path.stem]:
                said = other[0]["command"]
                raise ValueError(f"results/{path.stem}_seed*.json: `{said}` is another experiment; move it away")
            if any(record.get("synthetic") for record in records):
                raise ValueError(f"results/{path.stem}_seed*.json was measured on drawn faces: no result, delete it")
            if len({(record["protocol"], record["data_fingerprint"]) for record in records}) > 1:
                raise ValueError(f"results/{path.stem}_seed*.json are of several protocols or data sets: no single row")
            members = members_of(path) if path.parent.name == "ensemble" else {}
            cost = _together(members, records, costs) if members else costs.get(path.stem, {})
            if records and cost and abs(cost["parameters"] / records[0]["params"] - 1) > 0.01:
                cost = {}  # measured of another network than the record's, not only of another number of classes
            alone = [experiment_of(words) for words in members.values() if len(words) == 1]  # with its row's settings
            rows.append(Baseline(path.stem, header, records, alone, cost))

    def place(row: Baseline) -> tuple[int, float]:
        if not row.records:
            return 2, int(row.header.get("Queue", 1000))
        accuracies = [record["test"]["accuracy"] for record in row.records]
        return int(row.records[0]["protocol"] != "official"), -sum(accuracies) / len(accuracies)

    return sorted(rows, key=place)


def members_of(recipe: Path) -> Mapping[str, Sequence[str]]:
    """The nets of an ensemble: the folder of each, and the overrides that train it."""
    members: Mapping[str, Sequence[str]] = yaml.safe_load(recipe.read_text())["members"]
    return members


def experiment_of(words: Sequence[str]) -> str:
    """The experiment among overrides, empty where there is none."""
    return next((word.partition("=")[2] for word in words if word.startswith("experiment=")), "")


def _together(
    members: Mapping[str, Sequence[str]], records: Sequence[Mapping[str, Any]], costs: Costs
) -> Mapping[str, float]:
    """What the nets of an ensemble cost together: those that vote, where that was chosen already."""
    silent = {Path(m["run"]).name for record in records[:1] for m in record["members"] if not m["weight"]}
    rows = [_cost(member, words, costs) for member, words in members.items() if member not in silent]
    return {key: math.fsum(row[key] for row in rows) for key in ("parameters", "milliseconds")} if all(rows) else {}


def _cost(member: str, words: Sequence[str], costs: Costs) -> Mapping[str, float]:
    """What a net of an ensemble costs; one that is changed beside its experiment is measured under its own name."""
    changed = any(word.startswith("model") for word in words)
    return costs.get(member if changed else experiment_of(words), {})
