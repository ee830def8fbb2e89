"""How much memory does a training of the custom CNN on FER2013 take? Peak resident set of a process of its own.

python benchmarks/peak_memory.py --data data/fer2013.csv.xz --out benchmarks/results/peak_memory.json
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fer_lightning.reporting import records

ROOT = Path(__file__).parents[1]


def peak_gib(*overrides: str) -> float:
    """Runs train.py and returns the largest resident set of its process, in GiB."""
    code = (
        "import resource, runpy, sys; sys.argv = ['train.py', *sys.argv[1:]]\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    subprocess.run([sys.executable, "-c", code, *overrides], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert after > before, "a larger child ran before"
    return after / 1024**2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    common = [
        "experiment=custom_cnn",
        f"data.path={options.data.absolute()}",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=40",
        "paths.mlruns_dir=outputs/benchmark/mlruns",
        "hydra.run.dir=outputs/benchmark/run",
    ]
    result = {
        "question": __doc__.splitlines()[0],
        "peak_gib": round(peak_gib(*common), 3),
        "machine": records.machine(),
        "versions": records.versions(),
        "commit": records.commit(),
    }
    table = Table("what", "GiB", title=result["question"])
    table.add_row("40 steps of 128, whole validation and test, MLflow", f"{result['peak_gib']:.2f}")
    Console().print(table)
    if options.out:
        records.write_json(options.out, result)


if __name__ == "__main__":
    main()
