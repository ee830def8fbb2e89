"""Does a set that is too large for memory stream at constant memory, and as fast as one that is resident?

A million faces, tiles of a small set, lie in a memory-mapped file; the small set itself, in memory, is the resident
side. Both go through FERDataModule, with and without a training step, in turns; the table shows medians and the median
of the ratios of neighbouring rounds. `from disk` is the streamed side after the file was dropped from the page cache.
Memory is looked at over a whole epoch of the input pipeline: anonymous memory is what the process needs, file memory is
what it has mapped of files, which the system takes back whenever it wants.

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
from harness import finish, interleaved, new_parser, ratios
from numpy.typing import NDArray
from training_step import Step, batches, config_of, data_of, rate

from fer_lightning.data.arrays import FaceArrays, release
from fer_lightning.data.datamodule import Batch
from fer_lightning.data.protocols.standard import official
from fer_lightning.data.sources.readers import read_faces
from fer_lightning.data.sources.synthetic import draw_faces

POINTS = 10  # looks at the memory in the epoch


def tiled(faces: FaceArrays, count: int, path: Path) -> FaceArrays:
    """The set over and over, up to `count` pictures, in a file that is written piece by piece."""
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


def dropped(images: NDArray[np.uint8], path: Path) -> None:
    """Takes the file out of the page cache, so that it is read from the disk again."""
    release(images)
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def memory() -> dict[str, float]:
    """MiB of this process: anonymous, and of files."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
    kib = {name: int(rows[name].split()[0]) for name in ("RssAnon", "RssFile", "RssShmem")}
    return {"anonymous": round(kib["RssAnon"] / 1024), "file": round((kib["RssFile"] + kib["RssShmem"]) / 1024)}


def compared(
    resident: Iterator[Batch], streamed: Iterator[Batch], steps: int, rounds: int, step: Callable[[Batch], object]
) -> dict[str, float]:
    sides = {"resident": partial(rate, resident, steps, step), "streamed": partial(rate, streamed, steps, step)}
    rates = interleaved(sides, rounds, warm_up=1)
    return {
        "resident_pictures_per_second": round(statistics.median(rates["resident"]), 1),
        "streamed_pictures_per_second": round(statistics.median(rates["streamed"]), 1),
        "streamed_over_resident": round(statistics.median(ratios(rates["streamed"], rates["resident"])), 4),
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path, help="a set to tile; without it 4,000 faces are drawn")
    parser.add_argument("--model", default="custom_cnn")
    parser.add_argument("--steps", type=int, default=30, help="training steps a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="on the disk to stream from; it needs 2.3 GB for a million")
    options = parser.parse_args()
    config = config_of("data=synthetic", f"model={options.model}", "augmentation=batched_standard")
    small = read_faces(options.data) if options.data else draw_faces()
    small = replace(small, images=np.array(small.images))
    looks = [{"when": "before", **memory()}]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "images.npy"
        large = tiled(small, options.pictures, path)
        looks.append({"when": "opened", **memory()})
        split = official(large)
        looks.append({"when": "split", **memory()})
        streaming = data_of(config, large, split, resident=False)
        resident = batches(data_of(config, small, official(small), resident=True))
        started = time.perf_counter()
        epoch = len(streaming.train_dataloader())
        for number, _ in enumerate(islice(batches(streaming), epoch)):
            if number % max(1, epoch // POINTS) == 0 or number == epoch - 1:
                looks.append({"when": f"picture {number * config.trainer.batch_size:,}", **memory()})
        whole = time.perf_counter() - started
        step = Step(config, streaming)
        streamed = batches(streaming)
        training = compared(resident, streamed, options.steps, options.rounds, step)
        pipeline = compared(resident, streamed, 10 * options.steps, options.rounds, lambda batch: None)
        cold = []
        for _ in range(3):
            dropped(large.images, path)
            cold.append(rate(streamed, options.steps, step))
        looks.append({"when": "after the trainings", **memory()})
    training["streamed_from_disk_pictures_per_second"] = round(statistics.median(cold), 1)
    during = [look for look in looks if look["when"].startswith("picture")]
    result = {
        "pictures": options.pictures,
        "gigabytes": round(large.images.nbytes / 1e9, 2),
        "resident_pictures": len(small),
        "shape": list(large.images.shape[1:]),
        "model": options.model,
        "batch_size": config.trainer.batch_size,
        "precision": step.precision,
        "rounds": options.rounds,
        "training": training,
        "input_pipeline": pipeline,
        "epoch_of_the_input_pipeline": {"pictures": epoch * config.trainer.batch_size, "seconds": round(whole, 1)},
        "memory_mib": looks,
        "growth_over_the_epoch_mib": {
            kind: during[-1][kind] - during[1][kind] for kind in ("anonymous", "file")
        },  # the first look is before anything was read
    }
    finish("streaming", __doc__, result, options.out)


if __name__ == "__main__":
    main()
