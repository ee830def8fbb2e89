"""`python -m fer_lightning baselines`: every published system beside what was measured here."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from fer_lightning.config import CONF, ROOT
from fer_lightning.reporting.records import read_record

MARKS = ("<!-- results, written by `python -m fer_lightning baselines write` -->", "<!-- end of results -->")
NOT_RUN = "not run"
NEEDED = ("seed", "command", "machine", "protocol", "data_fingerprint", "test", "val", "params", "minutes")
"""Keys of a record that is a row."""


@dataclass(frozen=True)
class Baseline:
    """One row: an experiment or an ensemble, what its source claims, and the records of its runs.

    Attributes:
        name: `custom_cnn` for conf/experiment/custom_cnn.yaml, `khanzada7` for conf/ensemble/khanzada7.yaml.
        header: The comment that opens its yaml, by key. `Claim` is what the source reports, `Protocol` how it measured,
            `Verdict` what that is worth, `Ours` where this project's recipe differs, `Needs` what a run cannot do
            without, `Queue` its place among the rows that wait, `Cost` what a run is estimated to take.
        records: The measured runs, by seed.
        cost: What the network costs, `parameters` and `milliseconds` a face; empty where it was not measured.
    """

    name: str
    header: dict[str, str]
    records: list[dict[str, Any]] = field(default_factory=list)
    cost: Mapping[str, float] = field(default_factory=dict)

    @property
    def gpu_minutes(self) -> int | None:
        """The estimate of `Cost` for a run on a GPU."""
        found = re.search(r"(\d+) minutes on a GPU", self.header.get("Cost", ""))
        return int(found[1]) if found else None

    def accuracy(self, part: str) -> str:
        """`67.15% (65.7% to 68.6%)`: one run with its 95% interval, or the mean of several seeds with their range."""
        rows = [record[part] for record in self.records if part in record]
        if not rows:
            return NOT_RUN
        values = [row["accuracy"] for row in rows]
        protocol = self.records[0]["protocol"]
        under = "" if protocol == "official" else f", {protocol}"  # FER+'s labels make another, easier test
        if len(rows) == 1:
            low, high = rows[0]["accuracy_interval"]
            return f"{values[0]:.2%} ({low:.1%} to {high:.1%}{under})"
        return f"{mean(values):.2%} (mean of {len(rows)} seeds: {min(values):.1%} to {max(values):.1%}{under})"

    @property
    def command(self) -> str:
        """What repeats the measured run: its own command, but not where it once went on from."""
        words = [word for word in self.records[0]["command"].split() if not word.startswith("resume=")]
        needs = f" (needs {self.header['Needs']})" if "Needs" in self.header else ""
        return f"`{' '.join(words)}`{needs}"

    def cells(self) -> dict[str, str]:
        """The row of the table, by column."""
        cells = dict.fromkeys(COLUMNS, "")
        cells |= {"experiment": self.name, "source's claim": self.header.get("Claim", "")}
        cells["claim's protocol"] = "; ".join(self.header[k] for k in ("Protocol", "Verdict") if k in self.header)
        cells |= {column: self.accuracy(part) for column, part in ACCURACIES.items()}
        parameters = self.records[0]["params"] if self.records else self.cost.get("parameters")
        if parameters:
            cells |= {"parameters": f"{parameters / 1e6:.2f} M", "size": f"{4 * parameters / 1e6:.1f} MB"}
        cells["latency"] = f"{self.cost['milliseconds']:.1f} ms" if self.cost else NOT_RUN
        if not self.records:
            why = f": needs {self.header['Needs']}" if "Needs" in self.header else ""
            command = f"`python -m fer_lightning baselines run {self.name}`"
            return cells | {TEST: NOT_RUN + why, "minutes": self.header.get("Cost", ""), "command": command}
        record = self.records[0]
        machine = record["machine"]["gpu"] or f"{record['machine']['cores']} CPU cores"
        return cells | {
            "macro F1": f"{mean(r['test']['macro_f1'] for r in self.records):.2%}",
            "minutes": f"{record['minutes']:.0f} on {machine}",
            "command": self.command,
        }


GROUPS = ("experiment", "ensemble")
"""The folders of conf/ whose options are rows."""

NETWORK_COST = Path("benchmarks") / "results" / "network_cost.json"
"""Where `benchmarks/network_cost.py` writes what the networks cost, all measured in one run."""

Costs = Mapping[str, Mapping[str, float]]
"""By experiment: `parameters`, `milliseconds`."""

TEST = "PrivateTest accuracy (95%)"
ACCURACIES = {TEST: "test", "without copies (95%)": "test_deduplicated", "kaggle_test (95%)": "kaggle_test"}
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
HEAD = ("experiment", "source's claim", TEST, "without copies (95%)", "macro F1", "parameters")
"""The columns of the table in README.md and in the terminal."""


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
        if "Claim" in header:  # a member of an ensemble makes no claim and has no row
            found = sorted((root / "results").glob(f"{path.stem}_seed*.json"))
            records = [read_record(file, *NEEDED) for file in found]
            if len({(record["protocol"], record["data_fingerprint"]) for record in records}) > 1:
                raise ValueError(f"results/{path.stem}_seed*.json are of several protocols or data sets: no single row")
            cost = costs.get(path.stem, {}) if path.parent.name == "experiment" else _together(path, records, costs)
            if records and cost and abs(cost["parameters"] / records[0]["params"] - 1) > 0.01:
                cost = {}  # measured of another network than the record's, not only of another number of classes
            rows.append(Baseline(path.stem, header, records, cost))

    def place(row: Baseline) -> tuple[int, float]:
        if not row.records:
            return 2, int(row.header.get("Queue", 1000))
        return int(row.records[0]["protocol"] != "official"), -row.records[0]["test"]["accuracy"]

    return sorted(rows, key=place)


def _together(recipe: Path, records: Sequence[Mapping[str, Any]], costs: Costs) -> Mapping[str, float]:
    """What the nets of an ensemble cost together: those that vote, where that was chosen already."""
    members: Mapping[str, Sequence[str]] = yaml.safe_load(recipe.read_text())["members"]
    silent = {Path(m["run"]).name for record in records[:1] for m in record["members"] if not m["weight"]}
    rows = [_cost(member, members[member], costs) for member in members.keys() - silent]
    return {key: sum(row[key] for row in rows) for key in ("parameters", "milliseconds")} if all(rows) else {}


def _cost(member: str, words: Sequence[str], costs: Costs) -> Mapping[str, float]:
    """What a net of an ensemble costs; one that is changed beside its experiment is measured under its own name."""
    changed = any(word.startswith("model") for word in words)
    experiment = next(word.partition("=")[2] for word in words if word.startswith("experiment="))
    return costs.get(member if changed else experiment, {})


def markdown(rows: Sequence[Baseline], columns: Sequence[str] = COLUMNS) -> str:
    """The table in Markdown."""
    lines = [columns, ["---"] * len(columns), *([row.cells()[c] for c in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def results_head(rows: Sequence[Baseline]) -> str:
    """The measured rows, and how many wait."""
    measured = [row for row in rows if row.records]
    waiting = f"{len(rows) - len(measured)} more experiments are ready and {NOT_RUN} yet, most for want of a GPU.\n"
    return f"{markdown(measured, HEAD)}\n{waiting}"


def results_page(rows: Sequence[Baseline]) -> str:
    """docs/RESULTS.md: the table, then each class's F1 and where each number comes from."""
    page = ["# Results\n"]
    page.append(
        "Trained on Training, chosen on PublicTest, measured on PrivateTest once. *Without copies* leaves out the\n"
        "pictures of PrivateTest whose exact pixels are also in Training or PublicTest. *kaggle_test* is PublicTest\n"
        "and PrivateTest together, the 7,178 pictures that many sources report on; half of it chose the epoch, so it\n"
        "only serves to compare with them. Intervals are 95% bootstrap intervals over the pictures. Size is that of\n"
        "float32 weights, latency one face on one CPU thread in PyTorch, all measured in one run\n"
        "(`benchmarks/network_cost.py`); an ensemble's is that of its nets together. A row that names a protocol\n"
        "beside its interval is measured on other labels, FER+'s: it compares with FER+ alone, behind the rest.\n"
        "Written by `python -m fer_lightning baselines write` from `results/*.json`.\n"
    )
    page.append(markdown(rows))
    for row in rows:
        for record in row.records:
            f1 = ", ".join(f"{name} {value:.2f}" for name, value in record["test"]["per_class_f1"].items())
            device = record["machine"]["gpu"] or record["machine"]["cpu"]
            page.append(
                f"## {row.name}, seed {record['seed']}\n\n"
                f"{row.header.get('Source', '')}.\n\n"
                f"F1: {f1}.\n\n"
                f"Balanced accuracy {record['test']['balanced_accuracy']:.2%}, calibration error "
                f"{record['test']['ece']:.1%}, {_chosen(record)} (PublicTest {record['val']['accuracy']:.2%}). "
                f"Data {record['data']} {record['data_fingerprint'][:12]}, protocol {record['protocol']}, "
                f"commit {record['commit'][:12]}, {device}, torch {record['versions']['torch']}.\n"
            )
    return "\n".join(page)


def _chosen(record: Mapping[str, Any]) -> str:
    """What was chosen on PublicTest: the epoch of a net, the members of an ensemble."""
    if "members" in record:
        voting = sum(member["weight"] > 0 for member in record["members"])
        return f"{voting} of {len(record['members'])} nets vote ({record['choose']}, weights {record['weights']})"
    return f"best epoch {record['best_epoch']} of {record['epochs']}, {record['precision']}"


def write(root: Path = ROOT) -> None:
    """Writes docs/RESULTS.md and the table between the marks in README.md."""
    rows = baselines(root)
    (root / "docs" / "RESULTS.md").write_text(results_page(rows))
    readme = root / "README.md"
    before, rest = readme.read_text().split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    readme.write_text(f"{before}{MARKS[0]}\n{results_head(rows)}{MARKS[1]}{after}")


def show(rows: Sequence[Baseline], console: Console) -> None:
    """What was measured, and the queue of what was not, in the terminal."""
    measured = _table("Measured", HEAD[:5])
    for row in rows:
        if row.records:
            measured.add_row(*(row.cells()[column] for column in HEAD[:5]))
    console.print(measured)
    waiting = [row for row in rows if not row.records]
    if waiting:
        queue = _table("Not run, most valuable first", ("experiment", "source's claim", "needs", "minutes on a GPU"))
        for row in waiting:
            claim, needs = row.header.get("Claim", ""), row.header.get("Needs", "")
            queue.add_row(row.name, claim, needs, str(row.gpu_minutes or ""))
        console.print(queue)
        console.print(f"About {sum(row.gpu_minutes or 0 for row in waiting)} minutes on a GPU in all. Run one with")
        console.print(f"  python -m fer_lightning baselines run {waiting[0].name}", highlight=False)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for position, column in enumerate(columns):
        table.add_column(column, no_wrap=position == 0, overflow="fold")
    return table


@dataclass(frozen=True)
class Runner:
    """Trains rows in processes of their own, and publishes their records.

    Attributes:
        deadline: `time.monotonic()` at which it has to stop, or None.
        at_once: How many trainings share the machine. A small net fills neither a GPU nor several cores, so that two
            side by side end sooner than one after the other; each gets its share of the cores and writes to a log.
        root: The project's folder.
    """

    deadline: float | None = None
    at_once: int = 1
    root: Path = ROOT

    def rows(self, wanted: Sequence[tuple[str, int]]) -> int:
        """Runs the rows that have no record yet.

        Args:
            wanted: Experiments, or ensembles, whose members are trained first and have seeds of their own; each with
                its seed.

        Returns:
            The exit status: 0 done or measured before, `OUT_OF_TIME`, or that of what failed.
        """
        waiting: dict[str, list[str]] = {}
        for name, seed in wanted:
            record = self.root / "results" / f"{name}_seed{seed}.json"
            if record.exists():
                print(f"{name} seed {seed}: measured already, {record.relative_to(self.root)}")
                continue
            recipe = self.root / "conf" / "ensemble" / f"{name}.yaml"
            header = header_of(recipe if recipe.exists() else self.root / "conf" / "experiment" / f"{name}.yaml")
            if needs := header.get("Needs"):
                print(f"{name} needs {needs} ({header.get('Cost', 'cost unknown')})")
            if not recipe.exists():
                seeded = [f"seed={seed}"] if seed else []
                waiting[f"{name}_seed{seed}"] = [f"experiment={name}", *seeded, "paths.results_dir=results"]
                continue
            for member, words in yaml.safe_load(recipe.read_text())["members"].items():
                if not (self.root / RUNS / member / "record.json").exists():
                    waiting.setdefault(member, words)
            vote = ["-m", "fer_lightning", "ensemble", f"recipe={name}", f"publish={name}"]
            if status := self.trainings(waiting) or self.processes({name: vote}):
                return status
            waiting = {}
        return self.trainings(waiting)

    def trainings(self, runs: Mapping[str, Sequence[str]]) -> int:
        """Trains in the folders of these names, on from the last checkpoint there; taught ones last."""
        taught = {run: words for run, words in runs.items() if self._is_taught(words)}
        others = {run: words for run, words in runs.items() if run not in taught}
        return self._train(others) or self._train(taught)

    def _train(self, runs: Mapping[str, Sequence[str]]) -> int:
        commands = {}
        for run, words in runs.items():
            last = RUNS / run / "checkpoints" / "last.ckpt"
            resume = [f"resume={last}"] if (self.root / last).exists() else []
            commands[run] = ["train.py", *words, f"hydra.run.dir={RUNS / run}", *resume]
        return self.processes(commands)

    def _is_taught(self, words: Sequence[str]) -> bool:
        """Whether a training begins with what another one left."""
        experiments = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
        files = [self.root / "conf" / "experiment" / f"{name}.yaml" for name in experiments]
        return any(header_of(file).get("Needs", "").startswith("a trained") for file in files if file.exists())

    def processes(self, commands: Mapping[str, Sequence[str]]) -> int:
        """Runs Python with each of these command lines until they end, one fails or the time is up."""
        waiting = list(commands.items())
        running: dict[str, subprocess.Popen[bytes]] = {}
        status = 0
        try:
            while running or (waiting and not status):
                while waiting and len(running) < self.at_once and not status:
                    what, words = waiting.pop(0)
                    running[what] = self._start(what, words)
                time.sleep(0.1)
                for what in [what for what, process in running.items() if process.poll() is not None]:
                    ended = running.pop(what).returncode
                    status = status or ended
                    if self.at_once > 1:
                        print(f"{what}: {f'failed ({ended}), see {self._log(what)}' if ended else 'done'}", flush=True)
                if running and self.deadline is not None and time.monotonic() > self.deadline:
                    for process in running.values():
                        process.send_signal(signal.SIGTERM)
                    for what, process in running.items():
                        process.wait()
                        print(f"{what}: the time is up; the same command goes on from the last whole epoch")
                    return status or OUT_OF_TIME
        except KeyboardInterrupt:  # the processes got it too
            for process in running.values():
                process.wait()
            raise
        return status

    def _start(self, what: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
        resumed = [word.partition("=")[2] for word in words if word.startswith("resume=")]
        to = f", writes to {self._log(what)}" if self.at_once > 1 else ""
        print(f"{what}: {f'goes on from {resumed[0]}' if resumed else 'starts'}{to}", flush=True)
        command = [sys.executable, *words]
        if self.at_once == 1:
            return subprocess.Popen(command, cwd=self.root)
        cores = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.at_once))}
        log = self.root / self._log(what)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            return subprocess.Popen(
                command, cwd=self.root, env=cores | os.environ, stdout=file, stderr=subprocess.STDOUT
            )

    def _log(self, what: str) -> Path:
        return RUNS / f"{what}.log"


RUNS = Path("outputs") / "baselines"
"""Where rows and members of ensembles are trained."""

OUT_OF_TIME = 75
"""EX_TEMPFAIL: not an error, try again."""


def parser() -> argparse.ArgumentParser:
    """The verb's command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lightning baselines",
        description="Lists every experiment and ensemble with its source's claim and what results/*.json measured, "
        "and the queue of those that are not run.",
    )
    actions = parser.add_subparsers(dest="action", metavar="write | run")
    actions.add_parser("write", help="also write docs/RESULTS.md and the head of the table in README.md")
    runs = actions.add_parser(
        "run",
        help="train rows and record them in results/; goes on where it was stopped",
        epilog=f"Exit status: 0 done, {OUT_OF_TIME} the minutes are over and the same command goes on, "
        "else that of the training that failed.",
    )
    runs.add_argument("names", nargs="+", metavar="NAME", help="experiments or ensembles")
    runs.add_argument("--seeds", default="0", help="for example 0,1,2 (default: 0)")
    runs.add_argument(
        "--at_once", type=int, default=1, metavar="N", help="so many trainings side by side, which share the cores"
    )
    runs.add_argument("--minutes", type=float, help="stop after so many minutes; the same command goes on later")
    return parser


def main(arguments: Sequence[str]) -> int:
    """The verb; returns its exit status."""
    try:
        chosen = parser().parse_args(list(arguments))
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    try:
        return _act(chosen)
    except ValueError as error:  # a record that is damaged or belongs elsewhere
        print(f"fer baselines: {error}", file=sys.stderr)
        return 2


def _act(chosen: argparse.Namespace) -> int:
    if chosen.action == "run":
        known = [row.name for row in baselines()]
        for name in chosen.names:
            if name not in known:
                print(f"fer baselines: {name} is no row of the table; there are {', '.join(known)}", file=sys.stderr)
                return 2
        if not re.fullmatch(r"\d+(,\d+)*", chosen.seeds):
            print(f"fer baselines: --seeds is {chosen.seeds!r}; give numbers such as 0,1,2", file=sys.stderr)
            return 2
        if chosen.minutes is not None and not chosen.minutes > 0:
            print(f"fer baselines: --minutes is {chosen.minutes:g}; give a number above 0", file=sys.stderr)
            return 2
        seeds = [int(seed) for seed in chosen.seeds.split(",")]
        if any(seeds) and (voting := [row for row in chosen.names if (CONF / "ensemble" / f"{row}.yaml").exists()]):
            print(f"fer baselines: {voting[0]} is an ensemble, whose members have seeds of their own", file=sys.stderr)
            return 2
        if chosen.at_once < 1:
            print(f"fer baselines: --at_once is {chosen.at_once}; give 1 or more", file=sys.stderr)
            return 2
        deadline = time.monotonic() + 60 * chosen.minutes if chosen.minutes else None
        runner = Runner(deadline, chosen.at_once)
        return runner.rows([(name, seed) for name in chosen.names for seed in seeds])
    show(baselines(), Console())
    if chosen.action == "write":
        write()
    return 0
