"""Are two trainings faster in parallel, one thread each, or in sequence with all threads?

Both are complete commands as `python -m fer_lightning baselines run NAME --seeds 0,1 --at_once 2` starts them, from the
first start to the last end; the two variants are measured alternately.

    python benchmarks/side_by_side.py --out benchmarks/results/side_by_side.json
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from harness import ROOT, finish, interleave, new_parser, ratios


def start(folder: Path, seed: int, experiment: str, overrides: list[str], threads: int) -> subprocess.Popen[bytes]:
    """Start one training in a subprocess."""
    run = [f"experiment={experiment}", f"seed={seed}", f"hydra.run.dir={folder}/{seed}", "tracking=none", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "train.py", *run]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def seconds(at_once: int, experiment: str, overrides: list[str]) -> float:
    """Return the seconds until two trainings have finished, with the given number in parallel."""
    threads = max(1, (os.cpu_count() or 1) // at_once)
    with tempfile.TemporaryDirectory() as name:
        started = time.monotonic()
        running: list[subprocess.Popen[bytes]] = []
        for seed in (0, 1):
            running.append(start(Path(name), seed, experiment, overrides, threads))
            if len(running) == at_once or seed == 1:
                if failed := [process for process in running if process.wait()]:
                    raise SystemExit(f"a training failed: {' '.join(map(str, failed[0].args))}")
                running.clear()
        return time.monotonic() - started


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--experiments", nargs="+", default=["speedrun_cpu", "speedrun_cpu_70"])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data_path", help="path of FER2013, if not in data/")
    options = parser.parse_args()
    overrides = [f"trainer.max_epochs={options.epochs}"]
    overrides += [f"data.path={options.data_path}"] if options.data_path else []
    rows = {}
    for experiment in options.experiments:
        sides = {at_once: partial(seconds, at_once, experiment, overrides) for at_once in (1, 2)}
        one, both = interleave(sides, options.rounds).values()
        rows[experiment] = {
            "one_after_the_other_seconds": statistics.median(one),
            "side_by_side_seconds": statistics.median(both),
            "ratio": statistics.median(ratios(one, both)),
        }
    result = {"epochs": options.epochs, "rounds": options.rounds, "experiments": rows}
    finish("side_by_side", __doc__, result, options.out)


if __name__ == "__main__":
    main()
