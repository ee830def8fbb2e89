"""Does any malformed input cause an unhandled exception, a hang, or more than 1 GiB of memory?

Hypothesis generates inputs for everything that reads untrusted files or arguments (tests/malformed/): data sets and
their archives, votes, images, caches, checkpoints, weights, bundles, records, command lines. Each target runs in its
own process, limited to 1 GiB of address space beyond what it has after its imports and first inputs.

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


def run_campaign(target: Target, inputs: int, number: int, results: Connection) -> None:
    """Feed one target and send the outcome."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # warnings of libraries
    warnings.simplefilter("ignore")
    outcomes: Counter[str] = Counter()
    failures: list[str] = []

    def feed_many(count: int) -> None:
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
                frame = traceback.extract_tb(error.__traceback__)[-1]
                location = f"{Path(frame.filename).name}, {frame.lineno}"
                failures.append(f"{type(error).__name__} in {location}: {error}"[:300])

        feed()

    feed_many(5)  # imports and caches
    before = peak_mib()
    used = int(Path("/proc/self/statm").read_text("utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + GIB, resource.RLIM_INFINITY))
    outcomes.clear()
    start = time.monotonic()
    number += 1
    while (missing := inputs - outcomes["inputs"]) > 0:  # Hypothesis may stop early
        feed_many(missing)
        number += 1
    results.send(
        {
            **{key: outcomes[key] for key in ("inputs", "refused", "accepted")},
            "failures": failures,
            "seconds": round(time.monotonic() - start, 1),
            "memory_mib": round(peak_mib() - before),
        }
    )


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="number for all targets together")
    parser.add_argument("--only", help="run only targets whose name contains this; other rows in --out stay")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    selected = [target for target in TARGETS if not options.only or options.only in target.name]
    rows = []
    for target in selected:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        each = -(-options.inputs // len(TARGETS))
        process = multiprocessing.get_context("fork").Process(
            target=run_campaign, args=(target, each, options.seed, sender)
        )
        process.start()
        sender.close()
        try:
            row = {"target": target.name, **receiver.recv()}
        except EOFError:
            process.join()
            row = {"target": target.name, "failures": [f"the process exited with {process.exitcode}"]}
        process.join()
        rows.append(row)
        for failure, times in Counter(row["failures"]).most_common(8):
            print(f"{target.name}, {times} times: {failure}")
    if options.only and options.out and options.out.exists():
        all_rows = {row["target"]: row for row in [*json.loads(options.out.read_text("utf-8"))["targets"], *rows]}
        rows = [all_rows[target.name] for target in TARGETS]
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
