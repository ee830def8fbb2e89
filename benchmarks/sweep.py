"""What is the overhead of a sweep per trial, and does its process grow? Many tiny trials of train.py in one process.

Overhead is the time from the start of one trial's `Trainer.fit` to the start of the next one's, minus the `fit` itself:
suggesting, composing, reading the data, building, MLflow, reporting to the study, cleaning up.

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
WARM_UP = 5  # trials that load and compile what later ones reuse
TINY = ["data=fer2013", "data.path=tiny.csv", "trainer.max_epochs=2", "trainer.precision=32-true", "model.width=4"]


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * resource.getpagesize() / 2**20


def run_sweep(trials: int, tracking: str) -> list[tuple[float, float, float]]:
    """Return the start and end of each `fit` in seconds, and the resident MiB before it."""
    import pytorch_lightning as pl  # after fer_lightning

    fits: list[tuple[float, float, float]] = []
    fit = pl.Trainer.fit

    def timed(self: pl.Trainer, *args, **kwargs) -> None:
        memory, start = resident_mib(), time.perf_counter()
        try:
            fit(self, *args, **kwargs)
        finally:
            fits.append((start, time.perf_counter(), memory))

    command = ["-m", "search=custom_cnn", *TINY, f"tracking={tracking}", "trainer.batch_size=32"]
    sys.argv = [str(ROOT / "train.py"), *command, f"hydra.sweeper.n_trials={trials}", "hydra.sweeper.sampler.seed=0"]
    cwd = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w", encoding="utf-8") as silence:
        os.chdir(folder)
        write_noise(Path("tiny.csv"), USAGES, distinct=len(USAGES))  # as with FER2013, only the first trial reads it
        pl.Trainer.fit = timed
        try:
            with redirect_stdout(silence):
                runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        finally:
            pl.Trainer.fit = fit
            os.chdir(cwd)
    return fits


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--tracking", default="mlflow")
    options = parser.parse_args()
    fits = run_sweep(options.trials, options.tracking)
    overheads = [after[0] - fit[1] for fit, after in zip(fits[WARM_UP:-1], fits[WARM_UP + 1 :], strict=True)]
    memory = [fit[2] for fit in fits]
    half = (len(fits) - WARM_UP) // 2
    slope = statistics.linear_regression(range(len(fits) - WARM_UP), memory[WARM_UP:]).slope
    result = {
        "trials": len(fits),
        "tracking": options.tracking,
        "overhead_s": {
            "median": round(statistics.median(overheads), 3),
            "largest": round(max(overheads), 3),
            "median_of_first_half": round(statistics.median(overheads[:half]), 3),
            "median_of_second_half": round(statistics.median(overheads[half:]), 3),
        },
        "resident_mib": {
            f"trial_{WARM_UP}": round(memory[WARM_UP]),
            "last_trial": round(memory[-1]),
            "slope_a_trial": round(slope, 2),
            "each": [round(value) for value in memory],
        },
    }
    finish("sweep", __doc__, result, options.out)


if __name__ == "__main__":
    main()
