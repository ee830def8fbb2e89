"""How do time and memory scale with the number of images, epochs and processes?

Each row is a run of train.py, including MLflow, on a csv like FER2013's with a small network; images and epochs are
multiples of those of the first row. The csv is read once before, so that each run opens the cache like a user's second
run. The time per epoch is that from the first training step to the end of the last epoch, including validation; the
total is from the start of Python to its end. The memory is the peak resident set of the largest process.

    python benchmarks/growth.py --out benchmarks/results/growth.json
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from harness import ROOT, finish, interleave, new_parser, run_subprocess, write_noise

TINY = ["data=fer2013", "model.width=8", "trainer.precision=32-true", "trainer.accelerator=cpu", "eval.bootstrap=100"]
USAGES = ["Training"] * 8 + ["PublicTest", "PrivateTest"]
EPOCHS = 2
CASES = [(1, 1, 1), (10, 1, 1), (1, 10, 1), (1, 1, 2), (10, 1, 2)]
"""Multiples of the images and epochs of the first row, and processes."""


def run(folder: Path, data: Path, epochs: int, processes: int) -> dict[str, float]:
    """Run one training and return its seconds, in total and per epoch, and its memory in GiB."""
    parallel = ["trainer=ddp", f"trainer.devices={processes}"] if processes > 1 else []
    overrides = [*TINY, *parallel, f"data.path={data}", f"trainer.max_epochs={epochs}", "hydra.run.dir=run"]
    threads = max(1, (os.cpu_count() or 1) // processes)
    command = [sys.executable, str(ROOT / "train.py"), *overrides]
    with tempfile.TemporaryDirectory(dir=folder) as cwd:
        total, peak = run_subprocess(command, cwd, OMP_NUM_THREADS=str(threads))
        saved = torch.load(Path(cwd, "run/checkpoints/last.ckpt"), weights_only=True)
    trained = saved["callbacks"]["TrainingProgress"]["seconds"]
    return {
        "seconds_an_epoch": trained / epochs,
        "seconds_whole": total,
        "seconds_beside_training": total - trained,
        "peak_gib": peak / 1024,
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--images", type=int, default=2000, help="images of the first row")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for factor in {images for images, _, _ in CASES}:
            files[factor] = Path(folder, f"fer2013_{factor}.csv")
            usages = [USAGES[i % len(USAGES)] for i in range(factor * options.images)]
            write_noise(files[factor], usages, distinct=97)
            run(Path(folder), files[factor], 1, 1)  # creates the cache
        sides = {
            (images, epochs, processes): partial(run, Path(folder), files[images], epochs * EPOCHS, processes)
            for images, epochs, processes in CASES
        }
        results = interleave(sides, options.rounds)
    rows = [
        {"images": images * options.images, "epochs": epochs * EPOCHS, "processes": processes}
        | {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
        for (images, epochs, processes), runs in results.items()
    ]
    finish("growth", __doc__, {"rounds": options.rounds, "rows": rows}, options.out)


if __name__ == "__main__":
    main()
