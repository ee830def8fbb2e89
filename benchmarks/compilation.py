"""How long does trainer.compile=true take at the start, and how much time does it save per step?

The same training step on the same batches, uncompiled and compiled with torch.compile, measured alternately in one run.
The cost is the first compiled step, without the caches of earlier runs.

    python benchmarks/compilation.py --out benchmarks/results/compilation.json
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from itertools import islice

from harness import finish, interleave, new_parser, ratios
from training_step import Step, batches, config_of, data_of, wait_for_device

from fer_lightning.run.data import prepare_data
from fer_lightning.run.trainer import quiet


def measure(model: str, rounds: int, steps: int) -> dict[str, float | int | str]:
    """Measure the milliseconds per step, uncompiled and compiled, and the seconds to compile."""
    config = config_of("data=synthetic", "data.count=2000", f"model={model}", "tracking=none")
    prepared = prepare_data(config)
    datamodule = data_of(config, prepared.faces, prepared.split, resident=True)
    plain, compiled, source = Step(config, datamodule), Step(config, datamodule), batches(datamodule)
    compiled.network.compile()

    def seconds(step: Step, count: int) -> float:
        loaded = list(islice(source, count))
        start = time.perf_counter()
        for batch in loaded:
            step(batch)
        wait_for_device()
        return time.perf_counter() - start

    first = seconds(compiled, 1)
    sides = {"plain": lambda: seconds(plain, steps), "compiled": lambda: seconds(compiled, steps)}
    times = interleave(sides, rounds, warm_up=1)
    return {
        "plain_ms": statistics.median(times["plain"]) * 1000 / steps,
        "compiled_ms": statistics.median(times["compiled"]) * 1000 / steps,
        "ratio": statistics.median(ratios(times["compiled"], times["plain"])),
        "seconds_to_compile": first,
        "rounds": rounds,
        "batch_size": config.trainer.batch_size,
        "precision": plain.precision,
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=["custom_cnn", "compact"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        result = {model: measure(model, options.rounds, options.steps) for model in options.models}
    finish("compilation", __doc__, result, options.out)


if __name__ == "__main__":
    main()
