"""Does any malformed input end in a traceback from inside, hang, or take over 1 GiB of memory?

Hypothesis makes inputs for everything that reads foreign bytes or words (tests/malformed.py): data sets and their
archives, votes, pictures, caches, checkpoints, weights, bundles, records, command lines. Each target has a process of
its own that may take 1 GiB of address space more than it has when its imports and its first inputs are done.

    python benchmarks/malformed.py --inputs 10000 --out benchmarks/results/malformed.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from rich.console import Console
from rich.table import Table

import fer_lightning.run  # noqa: F401  # before the first fork, and before torchvision

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from malformed import TARGETS, Target

from fer_lightning.reporting import records

GIB = 1 << 30


def peak() -> int:
    """The most memory that this process ever held, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def campaign(target: Target, inputs: int, number: int, answer: Connection) -> None:
    """Feeds one target, and sends what came of it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries complain there
    warnings.simplefilter("ignore")
    outcomes: Counter[str] = Counter()
    failures: list[str] = []

    def fed(count: int) -> None:
        @seed(number)
        @settings(
            max_examples=count, database=None, deadline=None, verbosity=Verbosity.quiet,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(target.inputs)
        def feed(malformed: object) -> None:
            outcomes["inputs"] += 1
            try:
                outcomes["accepted" if target.accepts(malformed) else "refused"] += 1
            except BaseException as error:
                at = traceback.extract_tb(error.__traceback__)[-1]
                failures.append(f"{type(error).__name__} in {Path(at.filename).name}, {at.lineno}: {error}"[:300])

        feed()

    fed(5)  # imports and caches
    before = peak()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + GIB, resource.RLIM_INFINITY))
    outcomes.clear()
    start = time.monotonic()
    number += 1
    while (missing := inputs - outcomes["inputs"]) > 0:  # it ends a little early at times
        fed(missing)
        number += 1
    answer.send(
        {
            **{key: outcomes[key] for key in ("inputs", "refused", "accepted")},
            "failures": failures,
            "seconds": round(time.monotonic() - start, 1),
            "memory_mib": round((peak() - before) / 2**20),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="of all targets together")
    parser.add_argument("--only", help="part of the name of targets to feed again; the rows of others in --out stay")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    chosen = [target for target in TARGETS if not options.only or options.only in target.name]
    table, rows = Table(), []
    for column in ("target", "inputs", "refused", "accepted", "failures", "seconds", "memory, MiB"):
        table.add_column(column, justify="right" if rows or column != "target" else "left")
    for target in chosen:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        each = -(-options.inputs // len(TARGETS))
        process = multiprocessing.get_context("fork").Process(
            target=campaign, args=(target, each, options.seed, sender)
        )
        process.start()
        sender.close()
        try:
            row = {"target": target.name, **receiver.recv()}
        except EOFError:
            process.join()
            row = {"target": target.name, "failures": [f"the process died with {process.exitcode}"]}
        process.join()
        rows.append(row)
        table.add_row(
            *(str(row.get(key, "")) for key in ("target", "inputs", "refused", "accepted")),
            str(len(row["failures"])),
            *(str(row.get(key, "")) for key in ("seconds", "memory_mib")),
        )
        for failure, times in Counter(row["failures"]).most_common(8):
            print(f"{target.name}, {times} times: {failure}")
    Console().print(table)
    if options.only and options.out and options.out.exists():
        measured = {row["target"]: row for row in [*json.loads(options.out.read_text())["targets"], *rows]}
        rows = [measured[target.name] for target in TARGETS]
    result = {
        "question": __doc__.splitlines()[0],
        "inputs": sum(row.get("inputs", 0) for row in rows),
        "failures": sum(len(row["failures"]) for row in rows),
        "most_memory_mib": max(row.get("memory_mib", 0) for row in rows),
        "targets": rows,
        "machine": records.machine(),
        "versions": records.versions(),
        "commit": records.commit(),
    }
    if options.out:
        records.write_json(options.out, result)
    sys.exit(bool(result["failures"]))


if __name__ == "__main__":
    main()
