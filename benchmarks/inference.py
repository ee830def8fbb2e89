"""How fast is a face classified on one thread? PyTorch against ONNX Runtime, float and int8, and ExecuTorch.

All answer the same faces; the rounds of the runtimes are interleaved and the table shows medians. ExecuTorch's
programs take one face, so that its batch is as many calls. The last lines are what a user sees: 1,000 JPEGs of 48x48 on
the disk through `FERPredictor.predict`, reading included, and the start of Python until the first answer.

    python benchmarks/inference.py --checkpoint RUN --bundle FOLDER \
        --out benchmarks/results/inference.json

The bundle is one that `python -m fer_lightning export checkpoint=... int8=true format=executorch` made.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before any of the runtimes is loaded

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from fer_lightning.inference import graphs
from fer_lightning.inference.export import ExportSource
from fer_lightning.inference.predict import FERPredictor
from fer_lightning.reporting import records

BATCHES = (1, 64)


def runners(checkpoint: Path, bundle: Path) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    found = {"PyTorch": graphs.torch_runner(ExportSource.load(checkpoint, []).network())}
    for kind in FERPredictor.load(bundle).bundle.graphs:
        found[f"ONNX Runtime {kind}"] = FERPredictor.load(bundle, graph=kind, threads=1).logits
    for file, name in {"model.pte": "ExecuTorch float", "model_int8.pte": "ExecuTorch int8"}.items():
        if (bundle / file).exists():
            found[name] = graphs.executorch_runner(bundle / file)
    return found


def measure(runs: dict[str, Callable[[np.ndarray], np.ndarray]], faces: np.ndarray, rounds: int) -> dict[str, float]:
    """Median milliseconds a face."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 3):
        for name, run in runs.items():
            started = time.perf_counter()
            run(faces)
            if round_ >= 3:  # the first ones warm up
                times[name].append(time.perf_counter() - started)
    return {name: 1000 * statistics.median(row) / len(faces) for name, row in times.items()}


def thousand_files(bundle: Path, kind: str, faces: np.ndarray) -> float:
    """Seconds for 1,000 JPEG files, with as many threads as there are cores."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.jpg" for number in range(1000)]
        for path, face in zip(paths, faces, strict=True):
            Image.fromarray(face).save(path)
        predictor = FERPredictor.load(bundle, graph=kind)
        predictor.predict(paths[:64])
        times = []
        for _ in range(5):
            started = time.perf_counter()
            predictor.predict(paths)
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def start(bundle: Path) -> float:
    """Seconds of a new Python until it has classified a face."""
    code = (
        "import numpy as np\nfrom fer_lightning.inference.predict import FERPredictor\n"
        f"FERPredictor.load({str(bundle)!r}).predict(np.zeros((48, 48), np.uint8))"
    )
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = runners(options.checkpoint, options.bundle)
    bundle = FERPredictor.load(options.bundle).bundle
    shape = (bundle.channels, bundle.input_size, bundle.input_size)
    faces = np.random.default_rng(0).random((max(BATCHES), *shape), dtype=np.float32)
    rows = {
        batch: measure(runs, faces[:batch], options.rounds if batch > 1 else 10 * options.rounds) for batch in BATCHES
    }
    jpegs = np.random.default_rng(1).integers(0, 256, (1000, 48, 48), dtype=np.uint8)
    result = {
        "question": __doc__.splitlines()[0],
        "bundle": bundle.name,
        "model": [network["model"]["_target_"] for network in bundle.description["networks"]],
        "parameters": bundle.description["training"]["parameters"],
        "milliseconds_a_face_one_thread": {f"batch {batch}": row for batch, row in rows.items()},
        "seconds_for_1000_jpegs_all_cores": {
            kind: thousand_files(options.bundle, kind, jpegs) for kind in bundle.graphs
        },
        "seconds_from_start_to_first_answer": start(options.bundle),
        "versions": records.versions(),
        "machine": records.machine(),
        "commit": records.commit(),
    }
    table = Table("", *(f"batch {batch}, ms per face" for batch in BATCHES), title=result["question"])
    for name in runs:
        table.add_row(name, *(f"{rows[batch][name]:.3f}" for batch in BATCHES))
    console = Console()
    console.print(table)
    for kind, seconds in result["seconds_for_1000_jpegs_all_cores"].items():
        console.print(f"1,000 JPEGs, {kind}: {seconds:.2f} s on {os.cpu_count()} cores")
    console.print(f"from the start of Python to the first answer: {result['seconds_from_start_to_first_answer']:.2f} s")
    if options.out:
        records.write_json(options.out, result)


if __name__ == "__main__":
    main()
