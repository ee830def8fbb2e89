"""How long does a command take to start, and how much memory does it need?

Each command runs in a process of its own, in turns; the table shows medians over the rounds. The first training step is
that of the demo, `python train.py` without a data set, from the start of Python until the step is done; the run then
ends. Files that were read before may lie in the page cache. A peak below this script's own cannot be seen.

    python benchmarks/start_up.py --out benchmarks/results/start_up.json
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
from PIL import Image
from rich.console import Console
from rich.table import Table

from fer_lightning.reporting import records

ROOT = Path(__file__).parents[1]
FIRST_STEP = f"""
import os, runpy, sys
import fer_lightning
from fer_lightning.training import callbacks

class Stopped(callbacks.TrainingProgress):
    def on_train_batch_end(self, *arguments):
        os._exit(0)

callbacks.TrainingProgress = Stopped
sys.argv = ["train.py", "data=synthetic"]
sys.path.insert(0, {str(ROOT)!r})
runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
"""
TRAIN = str(ROOT / "train.py")
COMMANDS = {
    "python train.py --cfg job": [TRAIN, "--cfg", "job"],
    "python train.py --help": [TRAIN, "--help"],
    "python -m fer_lightning --help": ["-m", "fer_lightning", "--help"],
    "first training step of the demo": ["-c", FIRST_STEP],
    "python -m fer_lightning predict, one face": ["-m", "fer_lightning", "predict", "face.png"],
}


def run(arguments: list[str], folder: str) -> tuple[float, float]:
    """Seconds and peak MiB."""
    started = time.perf_counter()
    with open(os.devnull, "w") as silence:
        process = subprocess.Popen([sys.executable, *arguments], cwd=folder, stdout=silence, stderr=subprocess.PIPE)
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        sys.exit(f"{arguments} ended with {status}\n{errors.decode()[-3000:]}")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        noise = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
        Image.fromarray(noise).save(Path(folder, "face.png"))
        for round_ in range(options.rounds + 1):
            for name, arguments in COMMANDS.items():
                measured = run(arguments, folder)
                if round_:  # the first round warms the page cache up
                    seen[name].append(measured)
    result = {
        "question": __doc__.splitlines()[0],
        "rounds": options.rounds,
        "commands": {
            name: {
                "seconds": round(statistics.median(seconds for seconds, _ in rows), 3),
                "largest_seconds": round(max(seconds for seconds, _ in rows), 3),
                "peak_mib": round(statistics.median(peak for _, peak in rows)),
            }
            for name, rows in seen.items()
        },
        "machine": records.machine(),
        "versions": records.versions(),
        "commit": records.commit(),
    }
    table = Table("command", "seconds", "slowest", "peak MiB", title=result["question"])
    for name, row in result["commands"].items():
        table.add_row(name, f"{row['seconds']:.2f}", f"{row['largest_seconds']:.2f}", f"{row['peak_mib']:,}")
    Console().print(table)
    if options.out:
        records.write_json(options.out, result)


if __name__ == "__main__":
    main()
