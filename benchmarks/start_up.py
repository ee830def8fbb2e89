"""How long does a command take to start, and how much memory does it need?

Each command runs in a separate process, alternately; the table shows medians over the rounds. The first training step
is that of the demo, `python train.py` without a data set, from the start of Python until the step is complete; the run
then exits. Files that were read before may be in the page cache. A peak below this script's own is not measurable.

    python benchmarks/start_up.py --out benchmarks/results/start_up.json
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from harness import ROOT, finish, interleave, new_parser, run_subprocess
from PIL import Image

FIRST_STEP = f"""
import os, runpy, sys
import fer_lightning
from fer_lightning.training import callbacks

class ExitAfterFirstBatch(callbacks.TrainingProgress):
    def on_train_batch_end(self, *arguments):
        os._exit(0)

callbacks.TrainingProgress = ExitAfterFirstBatch
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


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        noise = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
        Image.fromarray(noise).save(Path(folder, "face.png"))
        sides = {name: partial(run_subprocess, [sys.executable, *argv], folder) for name, argv in COMMANDS.items()}
        results = interleave(sides, options.rounds, warm_up=1)  # fills the page cache
    commands = {
        name: {
            "seconds": round(statistics.median(seconds for seconds, _ in rows), 3),
            "largest_seconds": round(max(seconds for seconds, _ in rows), 3),
            "peak_mib": round(statistics.median(peak for _, peak in rows)),
        }
        for name, rows in results.items()
    }
    finish("start_up", __doc__, {"rounds": options.rounds, "commands": commands}, options.out)


if __name__ == "__main__":
    main()
