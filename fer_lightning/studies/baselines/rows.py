"""The rows of the results table: what each source claims and what `results/*.json` measured."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from fer_lightning.config import ROOT
from fer_lightning.overrides import defining, overrides_of, value_of, without
from fer_lightning.reporting.records import SUPERSEDED, read_record
from fer_lightning.studies.ensemble.recipe import Recipe

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

VIEWS = {"identity": 1, "centre_crop": 1, "flip": 2, "five_crop": 5, "shifts": 10, "ten_crop": 10}
"""How often a net looks at each picture, by the function of `models.tta`."""


Costs = Mapping[str, Mapping[str, float]]
"""By experiment: `parameters`, `milliseconds`."""


class Cost(NamedTuple):
    """Cost of a network, or of the networks of an ensemble.

    Attributes:
        parameters: Of all of them.
        milliseconds: One view of one face, for each network.
    """

    parameters: float
    milliseconds: Sequence[float]


TEST = "PrivateTest accuracy (95%)"
WITHOUT_COPIES = "without copies (95%)"
MACRO_F1 = "macro F1 (95%)"
ACCURACIES = {TEST: "test", WITHOUT_COPIES: "test_deduplicated", "kaggle_test (95%)": "kaggle_test"}
"""The columns of accuracy, each with the part of the data that it stands for."""

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
HEAD = ("experiment", "source's claim", TEST, WITHOUT_COPIES, MACRO_F1, "parameters", "latency")
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
        superseded: Records of its runs that later ones have replaced.
        members: Of an ensemble, those nets that are rows too.
        cost: What the network costs; None where it was not measured.
    """

    name: str
    header: dict[str, str]
    records: list[dict[str, Any]] = field(default_factory=list)
    superseded: list[dict[str, Any]] = field(default_factory=list)
    members: Sequence[str] = ()
    cost: Cost | None = None

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

    def score(self, part: str, name: str = "accuracy") -> str:
        """`67.15% (65.7% to 68.6%)`: a score with its 95% interval over the pictures.

        Of several seeds it is their mean, with the lowest and the highest end of their intervals and of the scores.
        """
        rows = [record[part] for record in self.records if part in record]
        protocol = self.records[0]["protocol"] if self.records else "official"
        if part == "kaggle_test" and protocol != "official":
            return "other labels"
        if not rows:
            return NOT_RUN
        values = [row[name] for row in rows]
        lows, highs = zip(*(row[f"{name}_interval"] for row in rows), strict=True)
        said = [f"{min(lows):.1%} to {max(highs):.1%}"]
        if protocol != "official":  # FER+'s labels make another, easier test
            said.append(protocol)
        if len(rows) > 1:
            said.append(f"{len(rows)} seeds: {min(values):.1%} to {max(values):.1%}")
        return f"{mean(values):.2%} ({', '.join(said)})"

    @property
    def latency(self) -> str:
        """`10 x 6.4 ms`: so many views of a face as its accuracy takes; `6.4 ms a view` where no run says how many."""
        if self.cost is None:
            return NOT_RUN
        views = views_a_face(self.records[0]) if self.records else None
        if views is None or len(views) != len(self.cost.milliseconds):
            return f"{math.fsum(self.cost.milliseconds):.1f} ms a view"
        looks = zip(views, self.cost.milliseconds, strict=True)
        return " + ".join(f"{count} x {one:.1f}" if count > 1 else f"{one:.1f}" for count, one in looks) + " ms"

    @property
    def command(self) -> str:
        """The command that repeats the measured run, without where it was once resumed from."""
        words = without(self.records[0]["command"].split(), "resume")
        needs = f" (needs {self.needs})" if self.needs else ""
        return f"`{' '.join(words)}`{needs}"

    def cells(self) -> dict[str, str]:
        """The row of the table, by column."""
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
            why = f": needs {self.needs}" if self.needs else ""
            command = f"`python -m fer_lightning baselines run {self.name}`"
            return cells | {TEST: NOT_RUN + why, "minutes": self.header.get("Cost", ""), "command": command}
        record = self.records[0]
        on = record["machine"]
        threads = min(on["cores"], on.get("threads", on["cores"]))
        machine = on["gpu"] or f"{threads} CPU core{'s' * (threads > 1)}"
        after = f", after {self.header['After']}" if "After" in self.header else ""
        return cells | {
            MACRO_F1: self.score("test", "macro_f1"),
            "minutes": f"{record['minutes']:.0f} on {machine}{after}",
            "command": self.command,
        }


def file_of(root: Path, name: str) -> Path | None:
    """The yaml of an experiment or ensemble, None where there is none of that name."""
    return next((path for group in GROUPS if (path := root / "conf" / group / f"{name}.yaml").exists()), None)


def header_of(path: Path) -> dict[str, str]:
    """The comment that opens an experiment, `# Key       text` with indented further lines, by key."""
    header: dict[str, str] = {}
    for line in path.read_text("utf-8").splitlines():
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
            records = _records(root / "results", path.stem)
            earlier = sorted((root / "results" / SUPERSEDED).glob(f"{path.stem}_seed*.json"))
            superseded = [read_record(file, *NEEDED) for file in earlier]
            members = Recipe.read(path).members if path.parent.name == "ensemble" else {}
            cost = _together(members, records, costs) if members else _cost(costs.get(path.stem))
            if records and cost and abs(cost.parameters / records[0]["params"] - 1) > 0.01:
                cost = None  # measured of another network than the record's, not only of another number of classes
            alone = [experiment_of(words) for words in members.values() if len(words) == 1]  # with its row's settings
            rows.append(Baseline(path.stem, header, records, superseded, alone, cost))

    def place(row: Baseline) -> tuple[int, float]:
        if not row.records:
            return 2, int(row.header.get("Queue", 1000))
        accuracies = [record["test"]["accuracy"] for record in row.records]
        return int(row.records[0]["protocol"] != "official"), -sum(accuracies) / len(accuracies)

    return sorted(rows, key=place)


def _records(results: Path, name: str) -> list[dict[str, Any]]:
    """The records of a row, by seed.

    Raises:
        ValueError: One is damaged, of something else or of drawn faces, or they are not of one recipe.
    """
    files = f"results/{name}_seed*.json"
    records = [read_record(file, *NEEDED) for file in sorted(results.glob(f"{name}_seed*.json"))]
    if other := [record for record in records if record["experiment"] != name]:
        raise ValueError(f"{files}: `{other[0]['command']}` is another experiment; move it away")
    if any(record.get("synthetic") for record in records):
        raise ValueError(f"{files} was measured on drawn faces: no result, delete it")
    if len({(record["protocol"], record["data_fingerprint"]) for record in records}) > 1:
        raise ValueError(f"{files} are of several protocols or data sets: no single row")
    if len(recipes := {_recipe(record) for record in records}) > 1:
        commands = " and ".join(f"`{' '.join(words)}`" for words, _ in sorted(recipes))
        raise ValueError(f"{files} are of several recipes, {commands}: no single row; move one away")
    return records


def _recipe(record: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """The recipe that seeds of one row share: the settings that were typed, and the size of the network."""
    return tuple(defining(without(overrides_of(record["command"]), "seed"))), record["params"]


def experiment_of(overrides: Iterable[str]) -> str:
    """The experiment that is chosen, empty where none is."""
    return value_of(overrides, "experiment") or ""


def views_a_face(record: Mapping[str, Any]) -> list[int] | None:
    """How many views of a face the accuracy of a record takes, for each net that votes; None where it is not known."""
    if "members" in record:
        named = [member.get("views") for member in record["members"] if member["weight"] > 0]
        return [VIEWS[name] for name in named] if all(name in VIEWS for name in named) else None
    views = record.get("evaluation", {}).get("views", {})
    name = str(views.get("_target_")).rpartition(".")[2]
    if name == "rotations":
        return [2 * int(views["angles"])]
    return [VIEWS[name]] if name in VIEWS else None


def _together(members: Mapping[str, Sequence[str]], records: Sequence[Mapping[str, Any]], costs: Costs) -> Cost | None:
    """Cost of the nets of an ensemble together: those that vote, where that was chosen already."""
    silent = {Path(m["run"]).name for record in records[:1] for m in record["members"] if not m["weight"]}
    nets = []
    for member, words in members.items():
        if member not in silent:
            changed = without(words, "model") != list(words)  # measured under a name of its own
            net = _cost(costs.get(member if changed else experiment_of(words)))
            if net is None:
                return None
            nets.append(net)
    return Cost(math.fsum(net.parameters for net in nets), [one for net in nets for one in net.milliseconds])


def _cost(measured: Mapping[str, float] | None) -> Cost | None:
    return Cost(measured["parameters"], [measured["milliseconds"]]) if measured else None
