"""What does a sweep cost beside its trainings, and does its process grow? Many tiny trials by train.py in one process.

Overhead is the time from the start of one trial's `Trainer.fit` to the start of the next one's, less the `fit` itself:
suggesting, composing, reading the data, building, MLflow, telling the study, cleaning up.

    python benchmarks/sweep.py --trials 50 --out benchmarks/results/sweep.json
"""

from __future__ import annotations

import os
import resource
import runpy
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

from harness import ROOT, finish, new_parser, write_noise

USAGES = ["Training"] * 200 + ["PublicTest"] * 50 + ["PrivateTest"] * 50
WARM = 5  # trials that load and compile what the others find
TINY = ["data=fer2013", "data.path=tiny.csv", "trainer.max_epochs=2", "trainer.precision=32-true", "model.width=4"]


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * resource.getpagesize() / 2**20


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
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w", encoding="utf-8") as silence:
        os.chdir(folder)
        write_noise(Path("tiny.csv"), USAGES, distinct=len(USAGES))  # as with FER2013, only the first trial parses it
        pl.Trainer.fit = timed
        try:
            with redirect_stdout(silence):
                runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        finally:
            pl.Trainer.fit = fit
            os.chdir(here)
    return laps


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--tracking", default="mlflow")
    options = parser.parse_args()
    laps = swept(options.trials, options.tracking)
    overheads = [after[0] - lap[1] for lap, after in zip(laps[WARM:-1], laps[WARM + 1 :], strict=True)]
    memory = [lap[2] for lap in laps]
    half = (len(laps) - WARM) // 2
    grown = statistics.linear_regression(range(len(laps) - WARM), memory[WARM:]).slope
    result = {
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
    }
    finish("sweep", __doc__, result, options.out)


if __name__ == "__main__":
    main()
