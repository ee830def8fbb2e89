"""Rows of the results table: the claim of each source and the results in `results/*.json`."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from fer_lightning.config import ROOT
from fer_lightning.overrides import drop_overrides, effective_overrides, overrides_of, value_of
from fer_lightning.reporting.records import RESULTS, SUPERSEDED, read_record
from fer_lightning.run.resume import changed_settings
from fer_lightning.studies.ensemble.recipe import Recipe

NOT_RUN = "not run"
RECORD_KEYS = (
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
"""Keys that the record of a row must have."""

GROUPS = ("experiment", "ensemble")
"""Folders of conf/ whose options are rows."""

NETWORK_COST = Path("benchmarks") / "results" / "network_cost.json"
"""Output of `benchmarks/network_cost.py`: the cost of all networks, measured in one run."""

VIEWS = {"identity": 1, "centre_crop": 1, "flip": 2, "five_crop": 5, "shifts": 10, "ten_crop": 10}
"""Number of views per image, by the function of `models.tta`."""


Costs = Mapping[str, Mapping[str, float]]
"""`parameters` and `milliseconds` by experiment."""


class Cost(NamedTuple):
    """Cost of a network, or of the networks of an ensemble.

    Attributes:
        parameters: Number of parameters in total.
        milliseconds: Latency of one view of one face, for each network.
    """

    parameters: float
    milliseconds: Sequence[float]


TEST = "PrivateTest accuracy (95%)"
WITHOUT_COPIES = "without copies (95%)"
MACRO_F1 = "macro F1 (95%)"
ACCURACIES = {TEST: "test", WITHOUT_COPIES: "test_deduplicated", "kaggle_test (95%)": "kaggle_test"}
"""The columns of accuracy, each with its part of the data."""

COLUMNS = (
    "experiment",
    "source's claim",
    "claim's protocol",
    *ACCURACIES,
    MACRO_F1,
    "parameters",
    "size",
    "latency",
    "minutes",
    "command",
)
README_COLUMNS = ("experiment", "source's claim", TEST, WITHOUT_COPIES, MACRO_F1, "parameters", "latency", "minutes")
"""The columns of the table in README.md and in the app."""


@dataclass(frozen=True)
class Baseline:
    """A row of the table: an experiment or an ensemble, its source's claim, and the records of its runs.

    Attributes:
        name: `custom_cnn` for conf/experiment/custom_cnn.yaml, `khanzada7` for conf/ensemble/khanzada7.yaml.
        header: The comment at the top of its yaml, by key. `Claim`: the result that the source reports; `Aim`: the
            target of a row of this project; `Protocol`: how the source measured; `Verdict`: how reliable that is;
            `Ours`: differences of this project's recipe; `Needs`: requirements of a run; `After`: the rows whose
            trained networks it starts from; `First`: the command that prepares a network; `Queue`: position among the
            rows that have not been run; `Cost`: estimated cost of a run; `Note`: further remarks on the measured runs;
            `Measured`: summary of the measured runs, added by `write`.
        records: The records of its runs, by seed.
        superseded: Records of its runs that were replaced by later ones.
        members: The members of an ensemble that are rows too.
        cost: Cost of the network; None if it was not measured.
    """

    name: str
    header: dict[str, str]
    records: list[dict[str, Any]] = field(default_factory=list)
    superseded: list[dict[str, Any]] = field(default_factory=list)
    members: Sequence[str] = ()
    cost: Cost | None = None

    @property
    def claimed(self) -> str:
        """The percentage at the start of `Claim` or `Aim`: `64.2 to 64.4%`, `aim 71.3%`; empty if there is none."""
        claim, aim = (re.match(r"[\d.]+( to [\d.]+)?%", self.header.get(key, "")) for key in ("Claim", "Aim"))
        return claim[0] if claim else f"aim {aim[0]}" if aim else ""

    @property
    def gpu_minutes(self) -> int | None:
        """The estimated minutes in `Cost` of a run on a GPU."""
        found = re.search(r"(\d+) minutes? on a GPU", self.header.get("Cost", ""))
        return int(found[1]) if found else None

    @property
    def needs(self) -> str:
        """Requirements: `a GPU and a trained vggnet`; empty if there are none."""
        after = [f"a trained {self.header['After']}"] if "After" in self.header else []
        return " and ".join([*([self.header["Needs"]] if "Needs" in self.header else []), *after])

    def score(self, part: str, name: str = "accuracy") -> str:
        """Format a score with its 95% interval over the images: `67.15% (65.7% to 68.6%)`.

        Several seeds are averaged, with the lowest and highest bound of their intervals, and the range of the scores.
        """
        rows = [record[part] for record in self.records if part in record]
        protocol = self.records[0]["protocol"] if self.records else "official"
        if part == "kaggle_test" and protocol != "official":
            return "other labels"
        if not rows:
            return NOT_RUN
        values = [row[name] for row in rows]
        lows, highs = zip(*(row[f"{name}_interval"] for row in rows), strict=True)
        notes = [f"{min(lows):.1%} to {max(highs):.1%}"]
        if protocol != "official":  # FER+'s labels make another, easier test
            notes.append(protocol)
        if len(rows) > 1:
            notes.append(f"{len(rows)} seeds: {min(values):.1%} to {max(values):.1%}")
        return f"{mean(values):.2%} ({', '.join(notes)})"

    @property
    def latency(self) -> str:
        """Views and latency per view: `10 x 6.4 ms`; `6.4 ms per view` if no run defines the views."""
        if self.cost is None:
            return NOT_RUN
        views = views_per_face(self.records[0]) if self.records else None
        if views is None or len(views) != len(self.cost.milliseconds):
            return f"{math.fsum(self.cost.milliseconds):.1f} ms per view"
        terms = zip(views, self.cost.milliseconds, strict=True)
        return " + ".join(f"{count} x {one:.1f}" if count > 1 else f"{one:.1f}" for count, one in terms) + " ms"

    @property
    def command(self) -> str:
        """The command that repeats the measured run, without its `resume`."""
        arguments = drop_overrides(shlex.split(self.records[0]["command"]), "resume")
        needs = f" (needs {self.needs})" if self.needs else ""
        return f"`{shlex.join(arguments)}`{needs}"

    def cells(self) -> dict[str, str]:
        """Return the cells of the row, by column."""
        cells = dict.fromkeys(COLUMNS, "")
        aim = f"aim {self.header['Aim']}" if "Aim" in self.header else ""
        cells |= {"experiment": self.name, "source's claim": self.header.get("Claim", aim)}
        cells["claim's protocol"] = "; ".join(self.header[k] for k in ("Protocol", "Verdict") if k in self.header)
        cells |= {column: self.score(part) for column, part in ACCURACIES.items()}
        parameters = self.records[0]["params"] if self.records else self.cost and self.cost.parameters
        if parameters:
            cells |= {"parameters": f"{parameters / 1e6:.2f} M", "size": f"{4 * parameters / 1e6:.1f} MB"}
        cells["latency"] = self.latency
        if not self.records:
            needs = f": needs {self.needs}" if self.needs else ""
            command = f"`python -m fer_lightning baselines run {self.name}`"
            return cells | {TEST: NOT_RUN + needs, "minutes": self.header.get("Cost", ""), "command": command}
        record = self.records[0]
        hardware = record["machine"]
        threads = min(hardware["cores"], hardware.get("threads", hardware["cores"]))
        machine = hardware["gpu"] or f"{threads} CPU core{'s' * (threads > 1)}"
        after = f", after {self.header['After']}" if "After" in self.header else ""
        return cells | {
            MACRO_F1: self.score("test", "macro_f1"),
            "minutes": f"{record['minutes']:.0f} on {machine}{after}",
            "command": self.command,
        }


def file_of(root: Path, name: str) -> Path | None:
    """Return the yaml of an experiment or ensemble, None if there is none of that name."""
    return next((path for group in GROUPS if (path := root / "conf" / group / f"{name}.yaml").exists()), None)


def header_of(path: Path) -> dict[str, str]:
    """Parse the comment at the top of a yaml, `# Key       text` with indented continuation lines, by key."""
    header: dict[str, str] = {}
    for line in path.read_text("utf-8").splitlines():
        if found := re.match(r"# ([A-Z]\w+) {2,}(.+)", line):
            header[found[1]] = found[2]
        elif line.startswith("#  ") and header:
            header[list(header)[-1]] += " " + line[1:].strip()
    return header


def starts_from(header: Mapping[str, str]) -> list[str]:
    """Return the rows whose trained networks a row starts from: those in its `After`, `a, b and c`."""
    return re.split(", | and ", header["After"]) if "After" in header else []


def baselines(root: Path = ROOT) -> list[Baseline]:
    """Return all experiments and ensembles: measured ones, best first; those on other labels; then the queue.

    Raises:
        ValueError: A record is damaged, or the records of one row are not comparable.
    """
    rows = []
    cost_file = root / NETWORK_COST
    costs: Costs = read_record(cost_file, "networks")["networks"] if cost_file.exists() else {}
    for path in sorted(file for group in GROUPS for file in (root / "conf" / group).glob("*.yaml")):
        header = header_of(path)
        if "Source" in header:
            records = _records(root / RESULTS, path.stem)
            earlier = sorted((root / RESULTS / SUPERSEDED).glob(f"{path.stem}_seed*.json"))
            superseded = [read_record(file, *RECORD_KEYS) for file in earlier]
            members = Recipe.read(path).members if path.parent.name == "ensemble" else {}
            cost = _ensemble_cost(members, records, costs) if members else _network_cost(costs.get(path.stem))
            if records and cost and abs(cost.parameters / records[0]["params"] - 1) > 0.01:
                cost = None  # of another network than the record's, not only of another number of classes
            # only members that are trained exactly like their row
            member_rows = [experiment_of(overrides) for overrides in members.values() if len(overrides) == 1]
            rows.append(Baseline(path.stem, header, records, superseded, member_rows, cost))

    def order(row: Baseline) -> tuple[int, float]:
        if not row.records:
            return 2, int(row.header.get("Queue", 1000))
        accuracies = [record["test"]["accuracy"] for record in row.records]
        return int(row.records[0]["protocol"] != "official"), -sum(accuracies) / len(accuracies)

    return sorted(rows, key=order)


def _records(results: Path, name: str) -> list[dict[str, Any]]:
    """Read the records of a row, by seed.

    Raises:
        ValueError: A record is damaged, of another experiment or of synthetic faces, or they differ in the recipe.
    """
    files = f"results/{name}_seed*.json"
    records = [read_record(file, *RECORD_KEYS) for file in sorted(results.glob(f"{name}_seed*.json"))]
    if other := [record for record in records if record["experiment"] != name]:
        raise ValueError(f"{files}: `{other[0]['command']}` is of another experiment; move it away")
    if any(record.get("synthetic") for record in records):
        raise ValueError(f"{files} was measured on synthetic faces, which is not a result; delete it")
    votes = {record.get("votes_fingerprint") for record in records} - {None}
    if len(votes) > 1 or len({(record["protocol"], record["data_fingerprint"]) for record in records}) > 1:
        raise ValueError(f"{files} are of several protocols, data sets or votes and cannot be one row; move one away")
    if len(recipes := {_recipe(record) for record in records}) > 1:
        commands = " and ".join(f"`{' '.join(overrides)}`" for overrides, _ in sorted(recipes))
        raise ValueError(f"{files} are of several recipes, {commands}, and cannot be one row; move one away")
    complete = [record for record in records if "settings" in record]  # early records have none
    for one, following in pairwise(complete):
        if differ := changed_settings(one["settings"], following["settings"]):
            raise ValueError(
                f"{files} are of several recipes and cannot be one row: from seed {one['seed']} to seed "
                f"{following['seed']}, {differ}; move one away"
            )
    return records


def _recipe(record: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """Return the recipe that the seeds of a row share: the overrides, and the number of parameters."""
    return tuple(effective_overrides(drop_overrides(overrides_of(record["command"]), "seed"))), record["params"]


def experiment_of(overrides: Iterable[str]) -> str:
    """Return the selected experiment, empty if there is none."""
    return value_of(overrides, "experiment") or ""


def views_per_face(record: Mapping[str, Any]) -> list[int] | None:
    """Return the number of views per face, for each network with a weight in the vote; None if it is unknown."""
    if "members" in record:
        names = [member.get("views") for member in record["members"] if member["weight"] > 0]
        return [VIEWS[name] for name in names] if all(name in VIEWS for name in names) else None
    views = record.get("evaluation", {}).get("views", {})
    name = str(views.get("_target_")).rpartition(".")[2]
    if name == "rotations":
        return [2 * int(views["angles"])]
    return [VIEWS[name]] if name in VIEWS else None


def _ensemble_cost(
    members: Mapping[str, Sequence[str]], records: Sequence[Mapping[str, Any]], costs: Costs
) -> Cost | None:
    """Sum the cost of the networks of an ensemble, without those whose recorded weight is 0."""
    unused = {Path(m["run"]).name for record in records[:1] for m in record["members"] if not m["weight"]}
    networks = []
    for member, overrides in members.items():
        if member not in unused:
            has_own_model = drop_overrides(overrides, "model") != list(overrides)  # measured under the member's name
            network = _network_cost(costs.get(member if has_own_model else experiment_of(overrides)))
            if network is None:
                return None
            networks.append(network)
    milliseconds = [one for network in networks for one in network.milliseconds]
    return Cost(math.fsum(network.parameters for network in networks), milliseconds)


def _network_cost(row: Mapping[str, float] | None) -> Cost | None:
    return Cost(row["parameters"], [row["milliseconds"]]) if row else None
