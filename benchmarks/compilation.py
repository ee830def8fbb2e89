"""What does trainer.compile=true cost at the start, and what does it gain in each step?

The same training step on the same batches, with the network as it is and compiled by torch.compile, in turns in one
run. The cost is the first compiled step, without what is kept from earlier runs.

    python benchmarks/compilation.py --out benchmarks/results/compilation.json
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.table import Table
from step import Step, batches, config_of, data_of, finished, in_turns

from fer_lightning.reporting import records
from fer_lightning.run import prepare_data
from fer_lightning.trainer import quiet


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
        finished()
        return time.perf_counter() - start

    first = seconds(compiled, 1)
    pairs = in_turns(lambda: seconds(plain, steps), lambda: seconds(compiled, steps), rounds)
    return {
        "plain_ms": statistics.median(p for p, _ in pairs) * 1000 / steps,
        "compiled_ms": statistics.median(c for _, c in pairs) * 1000 / steps,
        "ratio": statistics.median(c / p for p, c in pairs),
        "seconds_to_compile": first,
        "rounds": rounds,
        "batch_size": config.trainer.batch_size,
        "precision": plain.precision,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["custom_cnn", "compact"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    quiet()
    result = {"question": __doc__.splitlines()[0], "machine": records.machine(), "versions": records.versions()}
    table = Table("model", "as it is, ms a step", "compiled", "ratio", "seconds to compile", title=result["question"])
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for model in options.models:
            row = result[model] = measured(model, options.rounds, options.steps)
            times = (f"{row['plain_ms']:.1f}", f"{row['compiled_ms']:.1f}", f"{row['ratio']:.3f}")
            table.add_row(model, *times, f"{row['seconds_to_compile']:.0f}")
    Console().print(table)
    if options.out:
        records.write_json(options.out, {**result, "commit": records.commit()})


if __name__ == "__main__":
    main()
