"""How do time and memory grow with the pictures, the epochs and the processes?

Each row is a run of train.py, MLflow included, on a csv of FER2013's form and a small net: so many times the pictures
and epochs of the first row. The csv is read once before, so that each run opens its cache as a second run of a user
does. `an epoch` counts from the first training step to the last epoch's end, validation included; the whole from the
start of Python to its end. The memory is the largest process's peak resident set.

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
from harness import ROOT, finish, interleaved, new_parser, run_alone, write_noise

TINY = ["data=fer2013", "model.width=8", "trainer.precision=32-true", "trainer.accelerator=cpu", "eval.bootstrap=100"]
USAGES = ["Training"] * 8 + ["PublicTest", "PrivateTest"]
EPOCHS = 2
CASES = [(1, 1, 1), (10, 1, 1), (1, 10, 1), (1, 1, 2), (10, 1, 2)]
"""Times the pictures, times the epochs, processes."""


def run(folder: Path, data: Path, epochs: int, processes: int) -> dict[str, float]:
    """Seconds of one training, whole and an epoch, and GiB."""
    several = ["trainer=ddp", f"trainer.devices={processes}"] if processes > 1 else []
    words = [*TINY, *several, f"data.path={data}", f"trainer.max_epochs={epochs}", "hydra.run.dir=run"]
    cores = max(1, (os.cpu_count() or 1) // processes)  # several processes share them
    with tempfile.TemporaryDirectory(dir=folder) as place:
        whole, peak = run_alone([sys.executable, str(ROOT / "train.py"), *words], place, OMP_NUM_THREADS=str(cores))
        saved = torch.load(Path(place, "run/checkpoints/last.ckpt"), weights_only=True)
    trained = saved["callbacks"]["TrainingProgress"]["seconds"]
    return {
        "seconds_an_epoch": trained / epochs,
        "seconds_whole": whole,
        "seconds_beside_training": whole - trained,
        "peak_gib": peak / 1024,
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--pictures", type=int, default=2000, help="of the first row")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sets = {}
        for times in {pictures for pictures, _, _ in CASES}:
            sets[times] = Path(folder, f"fer2013_{times}.csv")
            usages = [USAGES[i % len(USAGES)] for i in range(times * options.pictures)]
            write_noise(sets[times], usages, distinct=97)
            run(Path(folder), sets[times], 1, 1)  # makes the cache
        sides = {
            (pictures, epochs, processes): partial(run, Path(folder), sets[pictures], epochs * EPOCHS, processes)
            for pictures, epochs, processes in CASES
        }
        seen = interleaved(sides, options.rounds)
    rows = [
        {"pictures": pictures * options.pictures, "epochs": epochs * EPOCHS, "processes": processes}
        | {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
        for (pictures, epochs, processes), runs in seen.items()
    ]
    finish("growth", __doc__, {"rounds": options.rounds, "rows": rows}, options.out)


if __name__ == "__main__":
    main()
