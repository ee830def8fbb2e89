"""How fast is a face classified on one thread? PyTorch against ONNX Runtime, float and int8, and ExecuTorch.

All answer the same faces; the rounds of the runtimes are interleaved and the table shows medians. ExecuTorch's
programs take one face, so that its batch is as many calls. The last lines are what a user sees: 1,000 JPEGs of 48x48 on
the disk through `FERPredictor.predict`, reading included, and the start of Python until the first answer.

    python benchmarks/inference.py --checkpoint RUN --bundle FOLDER \
        --out benchmarks/results/inference.json

The bundle is one that `python -m fer_lightning export checkpoint=... int8=true format=executorch` made.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before any of the runtimes is loaded

import numpy as np
import torch
from harness import finish, interleaved, new_parser, run_alone, seconds_of
from PIL import Image

from fer_lightning.export import graphs
from fer_lightning.export.source import ExportSource
from fer_lightning.inference.predict import FERPredictor

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
    times = interleaved({name: partial(seconds_of, run, faces) for name, run in runs.items()}, rounds, warm_up=3)
    return {name: 1000 * statistics.median(row) / len(faces) for name, row in times.items()}


def thousand_files(bundle: Path, kind: str, faces: np.ndarray) -> float:
    """Seconds for 1,000 JPEG files, with as many threads as there are cores."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.jpg" for number in range(1000)]
        for path, face in zip(paths, faces, strict=True):
            Image.fromarray(face).save(path)
        predictor = FERPredictor.load(bundle, graph=kind)
        predictor.predict(paths[:64])
        return statistics.median(seconds_of(predictor.predict, paths) for _ in range(5))


def start(bundle: Path) -> float:
    """Seconds of a new Python until it has classified a face."""
    code = (
        "import numpy as np\nfrom fer_lightning.inference.predict import FERPredictor\n"
        f"FERPredictor.load({str(bundle)!r}).predict(np.zeros((48, 48), np.uint8))"
    )
    return statistics.median(run_alone([sys.executable, "-c", code])[0] for _ in range(5))


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=30)
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
        "bundle": bundle.name,
        "model": [network["model"]["_target_"] for network in bundle.description["networks"]],
        "parameters": bundle.description["training"]["parameters"],
        "milliseconds_a_face_one_thread": {f"batch {batch}": row for batch, row in rows.items()},
        "seconds_for_1000_jpegs_all_cores": {
            kind: thousand_files(options.bundle, kind, jpegs) for kind in bundle.graphs
        },
        "seconds_from_start_to_first_answer": start(options.bundle),
    }
    finish("inference", __doc__, result, options.out)


if __name__ == "__main__":
    main()
