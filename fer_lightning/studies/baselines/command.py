"""`python -m fer_lightning baselines`: published systems and the results measured in this project."""

from __future__ import annotations

import argparse
import re
import signal
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from fer_lightning.config import CONF, nearest
from fer_lightning.studies.baselines.page import show, write
from fer_lightning.studies.baselines.rows import baselines
from fer_lightning.studies.baselines.runner import OUT_OF_TIME, Runner


def parser() -> argparse.ArgumentParser:
    """Create the argument parser of the subcommand."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lightning baselines",
        description="Lists every experiment and ensemble with its source's claim and the results in results/*.json, "
        "and the queue of those that have not been run.",
    )
    actions = parser.add_subparsers(dest="action", metavar="write | run")
    actions.add_parser(
        "write", help="also write docs/RESULTS.md, the table in README.md and the line `Measured` of each row's yaml"
    )
    runs = actions.add_parser(
        "run",
        help="train rows and record them in results/; resumes interrupted trainings",
        epilog=f"Exit status: 0 done, {OUT_OF_TIME} time limit reached (the same command resumes), "
        "otherwise that of the training that failed.",
    )
    runs.add_argument("names", nargs="+", metavar="NAME", help="experiments or ensembles")
    runs.add_argument("--seeds", default="0", help="for example 0,1,2 (default: 0)")
    runs.add_argument(
        "--at_once", type=int, default=1, metavar="N", help="number of parallel trainings, which share the cores"
    )
    runs.add_argument(
        "--weights", action="store_true", help="also train measured rows whose weights are missing; records stay"
    )
    runs.add_argument("--minutes", type=float, help="stop after this time; the same command resumes later")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand and return its exit status."""
    try:
        chosen = parser().parse_args(list(arguments))
    except SystemExit as stop:  # argparse has printed the message
        return int(stop.code or 0)
    if chosen.action == "run":
        known = [row.name for row in baselines()]
        for name in chosen.names:
            if name not in known:
                suggestion = nearest(name, known)
                raise ValueError(f"{name} is not a row{suggestion} `python -m fer_lightning baselines` lists the rows")
        if not re.fullmatch(r"\d+(,\d+)*", chosen.seeds):
            raise ValueError(f"--seeds is {chosen.seeds!r}; give numbers such as 0,1,2")
        if chosen.minutes is not None and not chosen.minutes > 0:
            raise ValueError(f"--minutes is {chosen.minutes:g}; give a number above 0")
        seeds = [int(seed) for seed in chosen.seeds.split(",")]
        if any(seeds) and (ensembles := [row for row in chosen.names if (CONF / "ensemble" / f"{row}.yaml").exists()]):
            raise ValueError(f"{ensembles[0]} is an ensemble, whose recipe sets the seeds; run it without --seeds")
        if chosen.at_once < 1:
            raise ValueError(f"--at_once is {chosen.at_once}; give 1 or more")
        deadline = time.monotonic() + 60 * chosen.minutes if chosen.minutes else None
        runner = Runner(deadline, chosen.at_once, chosen.weights)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(OUT_OF_TIME))
        return runner.run_rows([(name, seed) for name in chosen.names for seed in seeds])
    if chosen.action == "write":
        write()
    show(baselines(), Console())
    return 0
