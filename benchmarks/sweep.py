"""What does a sweep cost beside its trainings, and does its process grow? Many tiny trials by train.py in one process.

Overhead is the time from the start of one trial's `Trainer.fit` to the start of the next one's, less the `fit` itself:
suggesting, composing, reading the data, building, MLflow, telling the study, cleaning up.

    python benchmarks/sweep.py --trials 50 --out benchmarks/results/sweep.json
"""

from __future__ import annotations

import argparse
import os
import resource
import runpy
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from fer_lightning.reporting import records

ROOT = Path(__file__).parents[1]
WARM = 5  # trials that load and compile what the others find
TINY = ["data=fer2013", "data.path=tiny.csv", "trainer.max_epochs=2", "trainer.precision=32-true", "model.width=4"]


def write_tiny(path: Path) -> None:
    """A file like fer2013.csv with 300 pictures of noise; as with the real one, only the first trial parses it."""
    random = np.random.default_rng(0)
    usages = ["Training"] * 200 + ["PublicTest"] * 50 + ["PrivateTest"] * 50
    rows = (f"{i % 7},{' '.join(map(str, random.integers(256, size=48 * 48)))},{u}" for i, u in enumerate(usages))
    path.write_text("\n".join(["emotion,pixels,Usage", *rows, ""]))


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def swept(trials: int, tracking: str) -> list[tuple[float, float, float]]:
    """Start and end of each `fit` in seconds, and MiB resident before it."""
    import pytorch_lightning as pl  # after fer_lightning

    laps: list[tuple[float, float, float]] = []
    fit = pl.Trainer.fit

    def timed(self: pl.Trainer, *args, **kwargs) -> None:
        memory, start = resident_mib(), time.perf_counter()
        try:
            fit(self, *args, **kwargs)
        finally:
            laps.append((start, time.perf_counter(), memory))

    command = ["-m", "search=custom_cnn", *TINY, f"tracking={tracking}", "trainer.batch_size=32"]
    sys.argv = [str(ROOT / "train.py"), *command, f"hydra.sweeper.n_trials={trials}", "hydra.sweeper.sampler.seed=0"]
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as silence:
        os.chdir(folder)
        write_tiny(Path("tiny.csv"))
        pl.Trainer.fit = timed
        try:
            with redirect_stdout(silence):
                runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        finally:
            pl.Trainer.fit = fit
            os.chdir(here)
    return laps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--tracking", default="mlflow")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    laps = swept(options.trials, options.tracking)
    overheads = [after[0] - lap[1] for lap, after in zip(laps[WARM:-1], laps[WARM + 1 :], strict=True)]
    memory = [lap[2] for lap in laps]
    half = (len(laps) - WARM) // 2
    grown = statistics.linear_regression(range(len(laps) - WARM), memory[WARM:]).slope
    result = {
        "question": __doc__.splitlines()[0],
        "trials": len(laps),
        "tracking": options.tracking,
        "overhead_s": {
            "median": round(statistics.median(overheads), 3),
            "largest": round(max(overheads), 3),
            "median_of_first_half": round(statistics.median(overheads[:half]), 3),
            "median_of_second_half": round(statistics.median(overheads[half:]), 3),
        },
        "resident_mib": {
            f"trial_{WARM}": round(memory[WARM]),
            "last_trial": round(memory[-1]),
            "slope_a_trial": round(grown, 2),
            "each": [round(value) for value in memory],
        },
        "machine": records.machine(),
        "versions": records.versions(),
        "commit": records.commit(),
    }
    table = Table("what", "median", "largest", title=result["question"])
    table.add_row("overhead of a trial, s", f"{statistics.median(overheads):.2f}", f"{max(overheads):.2f}")
    table.add_row(
        f"resident memory from trial {WARM} on, MiB", f"{statistics.median(memory[WARM:]):.0f}", f"{max(memory):.0f}"
    )
    Console().print(table)
    Console().print(f"growth from trial {WARM} to {len(laps) - 1}: {grown:+.2f} MiB a trial")
    if options.out:
        records.write_json(options.out, result)


if __name__ == "__main__":
    main()
