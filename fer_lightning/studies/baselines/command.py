"""`python -m fer_lightning baselines`: every published system beside what was measured here."""

from __future__ import annotations

import argparse
import re
import signal
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from fer_lightning.config import CONF
from fer_lightning.studies.baselines.page import show, write
from fer_lightning.studies.baselines.rows import baselines
from fer_lightning.studies.baselines.runner import OUT_OF_TIME, Runner


def parser() -> argparse.ArgumentParser:
    """The verb's command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lightning baselines",
        description="Lists every experiment and ensemble with its source's claim and what results/*.json measured, "
        "and the queue of those that are not run.",
    )
    actions = parser.add_subparsers(dest="action", metavar="write | run")
    actions.add_parser(
        "write", help="also write docs/RESULTS.md, the table in README.md and the line `Measured` of each row's yaml"
    )
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
    runs.add_argument(
        "--weights", action="store_true", help="also train measured rows whose weights are not here; records stay"
    )
    runs.add_argument("--minutes", type=float, help="stop after so many minutes; the same command goes on later")
    return parser


def main(arguments: Sequence[str]) -> int:
    """The verb; returns its exit status."""
    try:
        chosen = parser().parse_args(list(arguments))
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    if chosen.action == "run":
        known = [row.name for row in baselines()]
        for name in chosen.names:
            if name not in known:
                raise ValueError(f"{name} is no row of the table; there are {', '.join(known)}")
        if not re.fullmatch(r"\d+(,\d+)*", chosen.seeds):
            raise ValueError(f"--seeds is {chosen.seeds!r}; give numbers such as 0,1,2")
        if chosen.minutes is not None and not chosen.minutes > 0:
            raise ValueError(f"--minutes is {chosen.minutes:g}; give a number above 0")
        seeds = [int(seed) for seed in chosen.seeds.split(",")]
        if any(seeds) and (voting := [row for row in chosen.names if (CONF / "ensemble" / f"{row}.yaml").exists()]):
            raise ValueError(f"{voting[0]} is an ensemble, whose members have seeds of their own")
        if chosen.at_once < 1:
            raise ValueError(f"--at_once is {chosen.at_once}; give 1 or more")
        deadline = time.monotonic() + 60 * chosen.minutes if chosen.minutes else None
        runner = Runner(deadline, chosen.at_once, chosen.weights)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(OUT_OF_TIME))
        return runner.rows([(name, seed) for name in chosen.names for seed in seeds])
    if chosen.action == "write":
        write()
    show(baselines(), Console())
    return 0
