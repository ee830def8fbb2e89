"""How long does the first reading of FER2013 take, how much memory, and how long its cache to open?

Give the forms of FER2013 that are at hand; for a csv a plain loop over its rows is measured beside. Each
figure is the median over rounds in which the cases take turns, each in its own process. The memory is the
peak over that of the interpreter with its imports.

    python benchmarks/first_read.py fer2013.csv fer2013.csv.xz fer2013-kaggle.zip --out first_read.json
"""

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from fer_lightning.data.sources import read_faces
from fer_lightning.reporting import records


def naive(path):
    """The loop over rows of most tutorials."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return np.stack([np.array(row["pixels"].split(), np.uint8).reshape(48, 48) for row in rows])


CASES = {
    "naive loop": naive,
    "first read": read_faces,
    "first read, no cache": lambda path: read_faces(path, cache=False),
    "cache opened": read_faces,
}


def measure_here(case, path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    CASES[case](path)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "peak_mb": (after - before) / 1024}))


def in_a_process(case, path):
    command = [sys.executable, __file__, "--case", case, str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(case, source):
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / source.name
        link.symlink_to(source.resolve())  # the cache lies beside the link, so each first read is one
        if case == "cache opened":
            in_a_process("first read", link)
        return in_a_process(case, link)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        return measure_here(options.case, options.paths[0])

    pairs = [(case, path) for path in options.paths for case in CASES if case != "naive loop" or path.suffix == ".csv"]
    seen = {pair: [] for pair in pairs}
    for _ in range(options.rounds):
        for case, path in pairs:
            seen[case, path].append(measure(case, path))
    figures = [
        {"file": path.name, "case": case}
        | {key: statistics.median(each[key] for each in runs) for key in ("seconds", "peak_mb")}
        for (case, path), runs in seen.items()
    ]
    print(f"{'file':<20} {'case':<21} {'seconds':>9} {'peak MB':>8}")
    for row in figures:
        print(f"{row['file']:<20} {row['case']:<21} {row['seconds']:>9.4f} {row['peak_mb']:>8.0f}")
    if options.out:
        result = {
            "question": __doc__.splitlines()[0],
            "rounds": options.rounds,
            "figures": figures,
            "machine": records.machine(),
            "versions": records.versions(),
            "commit": records.commit(),
        }
        records.write_json(options.out, result)


if __name__ == "__main__":
    main()
