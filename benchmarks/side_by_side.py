"""Do two trainings end sooner side by side, one thread each, or one after the other with all threads?

Both are whole commands as `python -m fer_lightning baselines run NAME --seeds 0,1 --at_once 2` starts them, from the
first start to the last end; the two ways take turns.

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

from harness import ROOT, finish, interleaved, new_parser, ratios


def start(folder: Path, seed: int, experiment: str, words: list[str], threads: int) -> subprocess.Popen[bytes]:
    """One training in a process of its own."""
    typed = [f"experiment={experiment}", f"seed={seed}", f"hydra.run.dir={folder}/{seed}", "tracking=none", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "train.py", *typed]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def seconds(at_once: int, experiment: str, words: list[str]) -> float:
    """Seconds until two trainings have ended, of which so many run at once."""
    threads = max(1, (os.cpu_count() or 1) // at_once)
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        running: list[subprocess.Popen[bytes]] = []
        for seed in (0, 1):
            running.append(start(Path(name), seed, experiment, words, threads))
            if len(running) == at_once or seed == 1:
                if failed := [process for process in running if process.wait()]:
                    raise SystemExit(f"a training failed: {' '.join(map(str, failed[0].args))}")
                running.clear()
        return time.monotonic() - began


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--experiments", nargs="+", default=["speedrun_cpu", "speedrun_cpu_70"])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data_path", help="where FER2013 lies, if not in data/")
    options = parser.parse_args()
    words = [f"trainer.max_epochs={options.epochs}", *([f"data.path={options.data_path}"] if options.data_path else [])]
    rows = {}
    for experiment in options.experiments:
        sides = {at_once: partial(seconds, at_once, experiment, words) for at_once in (1, 2)}
        one, both = interleaved(sides, options.rounds).values()
        rows[experiment] = {
            "one_after_the_other_seconds": statistics.median(one),
            "side_by_side_seconds": statistics.median(both),
            "ratio": statistics.median(ratios(one, both)),
        }
    result = {"epochs": options.epochs, "rounds": options.rounds, "experiments": rows}
    finish("side_by_side", __doc__, result, options.out)


if __name__ == "__main__":
    main()
