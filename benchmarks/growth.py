"""How do time and memory grow with the pictures, the epochs and the processes?

Each row is a run of train.py, MLflow included, on a csv of FER2013's form and a small net: so many times the pictures
and epochs of the first row. The csv is read once before, so that each run opens its cache as a second run of a user
does. `an epoch` counts from the first training step to the last epoch's end, validation included; the whole from the
start of Python to its end. The memory is the largest process's peak resident set.

    python benchmarks/growth.py --out benchmarks/results/growth.json
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

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from fer_lightning.reporting import records

ROOT = Path(__file__).parents[1]
TINY = ["data=fer2013", "model.width=8", "trainer.precision=32-true", "trainer.accelerator=cpu", "eval.bootstrap=100"]
EPOCHS = 2
CASES = [(1, 1, 1), (10, 1, 1), (1, 10, 1), (1, 1, 2), (10, 1, 2)]
"""Times the pictures, times the epochs, processes."""


def write_csv(path: Path, pictures: int) -> None:
    """A file like fer2013.csv, eight tenths of it Training; a hundred pictures of noise follow each other again."""
    random = np.random.default_rng(0)
    noise = [" ".join(map(str, random.integers(256, size=48 * 48))) for _ in range(100)]
    usage = ["Training"] * 8 + ["PublicTest", "PrivateTest"]
    with path.open("w") as file:
        file.write("emotion,pixels,Usage\n")
        file.writelines(f"{i % 7},{noise[i % 97]},{usage[i % 10]}\n" for i in range(pictures))


def run(folder: Path, data: Path, epochs: int, processes: int) -> dict[str, float]:
    """Seconds of one training, whole and an epoch, and GiB."""
    several = ["trainer=ddp", f"trainer.devices={processes}"] if processes > 1 else []
    words = [*TINY, *several, f"data.path={data}", f"trainer.max_epochs={epochs}", "hydra.run.dir=run"]
    with tempfile.TemporaryDirectory(dir=folder) as place, open(Path(place, "log.txt"), "w+") as log:
        command = [sys.executable, str(ROOT / "train.py"), *words]
        cores = max(1, (os.cpu_count() or 1) // processes)  # several processes share them
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=place, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": str(cores)}
        )
        _, status, usage = os.wait4(process.pid, 0)
        whole = time.perf_counter() - started
        if status:
            log.seek(0)
            sys.exit(log.read()[-3000:])
        saved = torch.load(Path(place, "run/checkpoints/last.ckpt"), weights_only=True)
        trained = saved["callbacks"]["TrainingProgress"]["seconds"]
    return {
        "seconds_an_epoch": trained / epochs,
        "seconds_whole": whole,
        "seconds_beside_training": whole - trained,
        "peak_gib": usage.ru_maxrss / 1024**2,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000, help="of the first row")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seen: dict[tuple[int, int, int], list[dict[str, float]]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory() as folder:
        sets = {}
        for times in {pictures for pictures, _, _ in CASES}:
            sets[times] = Path(folder, f"fer2013_{times}.csv")
            write_csv(sets[times], times * options.pictures)
            run(Path(folder), sets[times], 1, 1)  # makes the cache
        for _ in range(options.rounds):
            for pictures, epochs, processes in CASES:
                measured = run(Path(folder), sets[pictures], epochs * EPOCHS, processes)
                seen[pictures, epochs, processes].append(measured)
    rows = [
        {"pictures": pictures * options.pictures, "epochs": epochs * EPOCHS, "processes": processes}
        | {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
        for (pictures, epochs, processes), runs in seen.items()
    ]
    result = {
        "question": __doc__.splitlines()[0],
        "rounds": options.rounds,
        "rows": rows,
        "machine": records.machine(),
        "versions": records.versions(),
        "commit": records.commit(),
    }
    headings = ("pictures", "epochs", "processes", "s an epoch", "s whole", "s beside training", "peak GiB")
    table = Table(*headings, title=result["question"])
    for row in rows:
        table.add_row(*(f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" for value in row.values()))
    Console().print(table)
    if options.out:
        records.write_json(options.out, result)


if __name__ == "__main__":
    main()
