"""How much memory does training the custom CNN on FER2013 take? Peak resident set of a separate process.

python benchmarks/peak_memory.py --data data/fer2013.csv.xz --out benchmarks/results/peak_memory.json
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness import ROOT, finish, new_parser, run_subprocess


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    overrides = [
        "experiment=custom_cnn",
        f"data.path={options.data.absolute()}",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=40",
        "paths.mlruns_dir=outputs/benchmark/mlruns",
        "hydra.run.dir=outputs/benchmark/run",
    ]
    _, mib = run_subprocess([sys.executable, "train.py", *overrides], ROOT)
    finish("peak_memory", __doc__, {"peak_gib": round(mib / 1024, 3)}, options.out)


if __name__ == "__main__":
    main()
