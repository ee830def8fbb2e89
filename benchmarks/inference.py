"""How fast is a face classified on one thread? PyTorch compared to ONNX Runtime and ExecuTorch in float and int8.

All runtimes classify the same faces; their rounds are interleaved and the table shows medians. ExecuTorch's programs
take one face, so a batch is a sequence of calls. The last rows are end-to-end times: 1,000 JPEGs of 48x48 on disk with
`FERPredictor.predict`, including reading, and the start of Python until the first prediction.

    python benchmarks/inference.py --checkpoint RUN --bundle FOLDER \
        --out benchmarks/results/inference.json

The bundle must be created by `python -m fer_lightning export checkpoint=... int8=true format=executorch`.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before the import of any runtime

import numpy as np
import torch
from harness import finish, interleave, new_parser, run_subprocess, seconds_of
from PIL import Image

from fer_lightning.export import graphs
from fer_lightning.export.source import ExportSource
from fer_lightning.inference.predict import FERPredictor

BATCHES = (1, 64)


def runners(checkpoint: Path, bundle: Path) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    runs = {"PyTorch": graphs.torch_runner(ExportSource.load(checkpoint, []).network())}
    for kind in FERPredictor.load(bundle).bundle.graphs:
        runs[f"ONNX Runtime {kind}"] = FERPredictor.load(bundle, graph=kind, threads=1).logits
    for file, name in {"model.pte": "ExecuTorch float", "model_int8.pte": "ExecuTorch int8"}.items():
        if (bundle / file).exists():
            runs[name] = graphs.executorch_runner(bundle / file)
    return runs


def measure(runs: dict[str, Callable[[np.ndarray], np.ndarray]], faces: np.ndarray, rounds: int) -> dict[str, float]:
    """Measure the median milliseconds per face."""
    times = interleave({name: partial(seconds_of, run, faces) for name, run in runs.items()}, rounds, warm_up=3)
    return {name: 1000 * statistics.median(row) / len(faces) for name, row in times.items()}


def seconds_for_files(bundle: Path, kind: str, faces: np.ndarray) -> float:
    """Measure the seconds for 1,000 JPEG files, with one thread per core."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.jpg" for number in range(1000)]
        for path, face in zip(paths, faces, strict=True):
            Image.fromarray(face).save(path)
        predictor = FERPredictor.load(bundle, graph=kind)
        predictor.predict(paths[:64])
        return statistics.median(seconds_of(predictor.predict, paths) for _ in range(5))


def seconds_to_first_prediction(bundle: Path) -> float:
    """Measure the seconds from the start of Python to the first prediction."""
    code = (
        "import numpy as np\nfrom fer_lightning.inference.predict import FERPredictor\n"
        f"FERPredictor.load({str(bundle)!r}).predict(np.zeros((48, 48), np.uint8))"
    )
    return statistics.median(run_subprocess([sys.executable, "-c", code])[0] for _ in range(5))


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
            kind: seconds_for_files(options.bundle, kind, jpegs) for kind in bundle.graphs
        },
        "seconds_from_start_to_first_answer": seconds_to_first_prediction(options.bundle),
    }
    finish("inference", __doc__, result, options.out)


if __name__ == "__main__":
    main()
