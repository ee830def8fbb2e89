"""Does a data set that is too large for memory stream with constant memory, as fast as a resident one?

A million faces, tiles of a small set, are in a memory-mapped file; the small set in memory is the resident alternative.
Both go through FERDataModule, with and without a training step, measured alternately; the table shows medians and the
median of the ratios of neighbouring rounds. `from disk` is the streamed one after the file was dropped from the page
cache. Memory is sampled over a whole epoch of the input pipeline: anonymous memory is what the process needs, file
memory is what it has mapped of files, which the system can reclaim at any time.

    python benchmarks/streaming.py --out benchmarks/results/streaming.json
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from harness import finish, interleave, new_parser, ratios
from numpy.typing import NDArray
from training_step import Step, batches, config_of, data_of, rate

from fer_lightning.data.arrays import FaceArrays, release
from fer_lightning.data.datamodule import Batch
from fer_lightning.data.protocols.standard import official
from fer_lightning.data.sources.readers import read_faces
from fer_lightning.data.sources.synthetic import draw_faces

SAMPLES = 10  # of the memory in the epoch


def tile(faces: FaceArrays, count: int, path: Path) -> FaceArrays:
    """Repeat the set up to `count` images, in a file that is written in parts."""
    shape = faces.images.shape[1:]
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, count, len(faces)):
            file.write(np.ascontiguousarray(faces.images[: count - start]).data)
        os.fsync(file.fileno())
    return replace(
        faces,
        images=np.load(path, mmap_mode="r"),
        labels=np.resize(faces.labels, count),
        usage=np.resize(faces.usage, count),
        names=np.resize(faces.names, count),
        votes=None,
    )


def drop_from_page_cache(images: NDArray[np.uint8], path: Path) -> None:
    """Drop the file from the page cache, so that it is read from disk again."""
    release(images)
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def memory() -> dict[str, float]:
    """Return the MiB of this process: anonymous, and of files."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
    kib = {name: int(rows[name].split()[0]) for name in ("RssAnon", "RssFile", "RssShmem")}
    return {"anonymous": round(kib["RssAnon"] / 1024), "file": round((kib["RssFile"] + kib["RssShmem"]) / 1024)}


def compare_rates(
    resident: Iterator[Batch], streamed: Iterator[Batch], steps: int, rounds: int, step: Callable[[Batch], object]
) -> dict[str, float]:
    sides = {"resident": partial(rate, resident, steps, step), "streamed": partial(rate, streamed, steps, step)}
    rates = interleave(sides, rounds, warm_up=1)
    return {
        "resident_images_per_second": round(statistics.median(rates["resident"]), 1),
        "streamed_images_per_second": round(statistics.median(rates["streamed"]), 1),
        "streamed_over_resident": round(statistics.median(ratios(rates["streamed"], rates["resident"])), 4),
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path, help="a set to tile; by default 4,000 synthetic faces")
    parser.add_argument("--model", default="custom_cnn")
    parser.add_argument("--steps", type=int, default=30, help="training steps per round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="on the disk to stream from; needs 2.3 GB for a million images")
    options = parser.parse_args()
    config = config_of("data=synthetic", f"model={options.model}", "augmentation=batched_standard")
    small = read_faces(options.data) if options.data else draw_faces()
    small = replace(small, images=np.array(small.images))
    samples = [{"when": "before", **memory()}]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "images.npy"
        large = tile(small, options.images, path)
        samples.append({"when": "opened", **memory()})
        split = official(large)
        samples.append({"when": "split", **memory()})
        streaming = data_of(config, large, split, resident=False)
        resident = batches(data_of(config, small, official(small), resident=True))
        started = time.perf_counter()
        epoch = len(streaming.train_dataloader())
        for number, _ in enumerate(islice(batches(streaming), epoch)):
            if number % max(1, epoch // SAMPLES) == 0 or number == epoch - 1:
                samples.append({"when": f"image {number * config.trainer.batch_size:,}", **memory()})
        duration = time.perf_counter() - started
        step = Step(config, streaming)
        streamed = batches(streaming)
        training = compare_rates(resident, streamed, options.steps, options.rounds, step)
        pipeline = compare_rates(resident, streamed, 10 * options.steps, options.rounds, lambda batch: None)
        cold = []
        for _ in range(3):
            drop_from_page_cache(large.images, path)
            cold.append(rate(streamed, options.steps, step))
        samples.append({"when": "after the trainings", **memory()})
    training["streamed_from_disk_images_per_second"] = round(statistics.median(cold), 1)
    during = [sample for sample in samples if sample["when"].startswith("image")]
    result = {
        "images": options.images,
        "gigabytes": round(large.images.nbytes / 1e9, 2),
        "resident_images": len(small),
        "shape": list(large.images.shape[1:]),
        "model": options.model,
        "batch_size": config.trainer.batch_size,
        "precision": step.precision,
        "rounds": options.rounds,
        "training": training,
        "input_pipeline": pipeline,
        "epoch_of_the_input_pipeline": {"images": epoch * config.trainer.batch_size, "seconds": round(duration, 1)},
        "memory_mib": samples,
        "growth_over_the_epoch_mib": {
            kind: during[-1][kind] - during[1][kind] for kind in ("anonymous", "file")
        },  # the first sample is before the first read
    }
    finish("streaming", __doc__, result, options.out)


if __name__ == "__main__":
    main()
