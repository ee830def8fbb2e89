"""How much time and memory does the first reading of FER2013 take, and how long does opening its cache take?

Pass the available formats of FER2013; for a csv, a plain loop over its rows is measured too. Each value is the median
over rounds in which the cases are measured alternately, each in its own process. The memory is the peak beyond that of
the interpreter with its imports.

    python benchmarks/first_read.py fer2013.csv fer2013.csv.xz fer2013-kaggle.zip --out first_read.json
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from harness import finish, interleave, new_parser, peak_mib, seconds_of
from numpy.typing import NDArray

from fer_lightning.data.sources.readers import read_faces


def naive(path: Path) -> NDArray[np.uint8]:
    """Read the csv row by row, as in most tutorials."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return np.stack([np.array(row["pixels"].split(), np.uint8).reshape(48, 48) for row in rows])


CASES = {
    "naive loop": naive,
    "first read": read_faces,
    "first read, no cache": lambda path: read_faces(path, cache=False),
    "cache opened": read_faces,
}


def measure_in_process(case: str, path: Path) -> None:
    before = peak_mib()
    seconds = seconds_of(CASES[case], path)
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mib() - before}))


def measure_in_subprocess(case: str, path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", case, str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(case: str, source: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / source.name
        link.symlink_to(source.resolve())  # the cache is beside the link, so that every first read is one
        if case == "cache opened":
            measure_in_subprocess("first read", link)
        return measure_in_subprocess(case, link)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        return measure_in_process(options.case, options.paths[0])

    pairs = [(case, path) for path in options.paths for case in CASES if case != "naive loop" or path.suffix == ".csv"]
    results = interleave({(case, path): partial(measure, case, path) for case, path in pairs}, options.rounds)
    figures = [
        {"file": path.name, "case": case}
        | {key: statistics.median(each[key] for each in runs) for key in ("seconds", "peak_mb")}
        for (case, path), runs in results.items()
    ]
    finish("first_read", __doc__, {"rounds": options.rounds, "figures": figures}, options.out)


if __name__ == "__main__":
    main()
