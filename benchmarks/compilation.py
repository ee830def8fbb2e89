"""What does trainer.compile=true cost at the start, and what does it gain in each step?

The same training step on the same batches, with the network as it is and compiled by torch.compile, in turns in one
run. The cost is the first compiled step, without what is kept from earlier runs.

    python benchmarks/compilation.py --out benchmarks/results/compilation.json
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from itertools import islice

from harness import finish, interleaved, new_parser, ratios
from training_step import Step, batches, config_of, data_of, wait_for_device

from fer_lightning.run.data import prepare_data
from fer_lightning.run.trainer import quiet


def measured(model: str, rounds: int, steps: int) -> dict[str, float | int | str]:
    """Milliseconds a step as it is and compiled, and the seconds that compiling took."""
    config = config_of("data=synthetic", "data.count=2000", f"model={model}", "tracking=none")
    prepared = prepare_data(config)
    datamodule = data_of(config, prepared.faces, prepared.split, resident=True)
    plain, compiled, source = Step(config, datamodule), Step(config, datamodule), batches(datamodule)
    compiled.network.compile()

    def seconds(step: Step, count: int) -> float:
        ready = list(islice(source, count))
        start = time.perf_counter()
        for batch in ready:
            step(batch)
        wait_for_device()
        return time.perf_counter() - start

    first = seconds(compiled, 1)
    sides = {"plain": lambda: seconds(plain, steps), "compiled": lambda: seconds(compiled, steps)}
    seen = interleaved(sides, rounds, warm_up=1)
    return {
        "plain_ms": statistics.median(seen["plain"]) * 1000 / steps,
        "compiled_ms": statistics.median(seen["compiled"]) * 1000 / steps,
        "ratio": statistics.median(ratios(seen["compiled"], seen["plain"])),
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
        result = {model: measured(model, options.rounds, options.steps) for model in options.models}
    finish("compilation", __doc__, result, options.out)


if __name__ == "__main__":
    main()
