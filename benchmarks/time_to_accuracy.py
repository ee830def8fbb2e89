"""How long does it take to train a network to a given accuracy? Complete commands, from process start to process end.

Each experiment runs as a user would run it, including start-up, reading of the cached data, validation after every
epoch, the evaluation on PrivateTest, the figures and MLflow. PrivateTest is the result that the run reports at its end.
Runs already in the file are kept, so that a recipe that was changed after it had missed its aim remains visible.

    python benchmarks/time_to_accuracy.py --experiments speedrun_cpu --out benchmarks/results/time_to_accuracy.json
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import ROOT, finish, new_parser


def run(experiment: str, seed: int, data_path: str | None, publish: bool) -> dict[str, Any]:
    """Run one training in a subprocess; if it is published, its record is also a row of docs/RESULTS.md."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"experiment={experiment}", *([f"seed={seed}"] if seed else [])]
        overrides += [f"data.path={data_path}"] if data_path else []
        if publish:
            overrides += ["paths.results_dir=results"]
            record_file = ROOT / "results" / f"{experiment}_seed{seed}.json"
        else:
            overrides += [f"hydra.run.dir={folder}/run", f"paths.mlruns_dir={folder}/mlruns"]
            record_file = Path(folder, "run", "record.json")
        start = time.monotonic()
        subprocess.run([sys.executable, "train.py", *overrides], cwd=ROOT, check=True)
        seconds = time.monotonic() - start
        record = json.loads(record_file.read_text("utf-8"))
    return {
        "experiment": experiment,
        "seed": seed,
        "seconds": round(seconds, 1),
        "training_seconds": round(record["minutes"] * 60, 1),
        "private_test_accuracy": record["test"]["accuracy"],
        "public_test_accuracy": record["val"]["accuracy"],
        "epochs": record["epochs"],
        "parameters": record["params"],
        "commit": record["commit"],
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--experiments", nargs="+", default=["speedrun_cpu", "speedrun_cpu_65", "speedrun_cpu_70"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data_path", help="path of FER2013, if not in data/")
    parser.add_argument("--publish", action="store_true", help="also record the runs in results/")
    options = parser.parse_args()
    runs = json.loads(options.out.read_text("utf-8"))["runs"] if options.out and options.out.exists() else []
    for experiment in options.experiments:
        for seed in options.seeds:
            runs.append(run(experiment, seed, options.data_path, options.publish))
            finish("time_to_accuracy", __doc__, {"runs": runs}, options.out)


if __name__ == "__main__":
    main()
