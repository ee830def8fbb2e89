"""Do two trainings end sooner side by side, one thread each, or one after the other with all threads?

Both are whole commands as `python -m fer_lightning baselines run NAME --seeds 0,1 --at_once 2` starts them, from the
first start to the last end; the two ways take turns.

    python benchmarks/side_by_side.py --out benchmarks/results/side_by_side.json
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fer_lightning.reporting import records

ROOT = Path(__file__).parents[1]


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", default=["speedrun_cpu", "speedrun_cpu_70"])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data_path", help="where FER2013 lies, if not in data/")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    words = [f"trainer.max_epochs={options.epochs}", *([f"data.path={options.data_path}"] if options.data_path else [])]
    rows = {}
    for experiment in options.experiments:
        rounds = [[seconds(at_once, experiment, words) for at_once in (1, 2)] for _ in range(options.rounds)]
        rows[experiment] = {
            "one_after_the_other_seconds": statistics.median(one for one, _ in rounds),
            "side_by_side_seconds": statistics.median(both for _, both in rounds),
            "ratio": statistics.median(one / both for one, both in rounds),
        }
    result = {
        "question": __doc__.splitlines()[0],
        "epochs": options.epochs,
        "rounds": options.rounds,
        "experiments": rows,
        "versions": records.versions(),
        "machine": records.machine(),
        "commit": records.commit(),
    }
    table = Table("experiment", "one after the other, s", "side by side, s", "ratio", title=result["question"])
    for name, row in rows.items():
        table.add_row(name, *(f"{row[k]:.1f}" for k in list(row)[:2]), f"{row['ratio']:.2f}")
    Console().print(table)
    if options.out:
        records.write_json(options.out, result)


if __name__ == "__main__":
    main()
