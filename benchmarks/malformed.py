"""Does any malformed input end in a traceback from inside, hang, or take over 1 GiB of memory?

Hypothesis makes inputs for everything that reads foreign bytes or words (tests/malformed.py): data sets and their
archives, votes, pictures, caches, checkpoints, weights, bundles, records, command lines. Each target has a process of
its own that may take 1 GiB of address space more than it has when its imports and its first inputs are done.

    python benchmarks/malformed.py --inputs 10000 --out benchmarks/results/malformed.json
"""

from __future__ import annotations

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

from harness import finish, new_parser, peak_mib

import fer_lightning.run.train  # noqa: F401  # before the first fork, and before torchvision

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from malformed import TARGETS, Target

GIB = 1 << 30


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
    before = peak_mib()
    taken = int(Path("/proc/self/statm").read_text("utf-8").split()[0]) * resource.getpagesize()
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
            "memory_mib": round(peak_mib() - before),
        }
    )


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="of all targets together")
    parser.add_argument("--only", help="part of the name of targets to feed again; the rows of others in --out stay")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = [target for target in TARGETS if not options.only or options.only in target.name]
    rows = []
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
        for failure, times in Counter(row["failures"]).most_common(8):
            print(f"{target.name}, {times} times: {failure}")
    if options.only and options.out and options.out.exists():
        measured = {row["target"]: row for row in [*json.loads(options.out.read_text("utf-8"))["targets"], *rows]}
        rows = [measured[target.name] for target in TARGETS]
    result = {
        "inputs": sum(row.get("inputs", 0) for row in rows),
        "failures": sum(len(row["failures"]) for row in rows),
        "most_memory_mib": max(row.get("memory_mib", 0) for row in rows),
        "targets": rows,
    }
    finish("malformed", __doc__, result, options.out)
    sys.exit(bool(result["failures"]))


if __name__ == "__main__":
    main()
