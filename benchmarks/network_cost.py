"""What does the network of each experiment cost? Parameters, multiply-accumulates (MACs), one face on one CPU thread.

Untrained networks, in float32, without any compilation; the milliseconds are the median over rounds in which all
networks took turns. Experiments that differ in their training alone share a network.

    python benchmarks/network_cost.py --out benchmarks/results/network_cost.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fer_lightning.command_line import composed
from fer_lightning.config import CONF, plain
from fer_lightning.models.cost import latency, multiplications
from fer_lightning.models.network import FERNetwork, build_network, count_parameters
from fer_lightning.reporting import records
from fer_lightning.studies.ensemble.recipe import Recipe


def command_lines() -> dict[str, list[str]]:
    """What is typed for each experiment, and for those nets of ensembles that differ from theirs."""
    lines = {path.stem: [f"experiment={path.stem}"] for path in sorted((CONF / "experiment").glob("*.yaml"))}
    for recipe in sorted((CONF / "ensemble").glob("*.yaml")):
        lines |= {
            name: list(words)
            for name, words in Recipe.read(recipe).members.items()
            if any(word.startswith("model") for word in words)
        }
    return lines


def model(words: list[str]) -> dict[str, Any]:
    """conf/model of a command line without what does not change its cost."""
    chosen = plain(composed(CONF, words).model)
    never = {"weights": None, "pretrained": False, "dropout": 0.0}
    return {key: never.get(key, value) for key, value in chosen.items()}


def measure(network: FERNetwork, milliseconds: list[float]) -> dict[str, float]:
    """A network's row."""
    return {
        "parameters": count_parameters(network),
        "multiplications": multiplications(network),
        "milliseconds": round(statistics.median(milliseconds), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each network in each round")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    models = {name: model(words) for name, words in command_lines().items()}
    keys = {name: json.dumps(chosen, sort_keys=True) for name, chosen in models.items()}
    networks = {keys[name]: build_network(chosen, num_classes=7) for name, chosen in models.items()}
    seen: dict[str, list[float]] = {key: [] for key in networks}
    for _ in range(options.rounds):
        for key, network in networks.items():
            seen[key].append(latency(network, options.seconds))
    rows = {key: measure(network, seen[key]) for key, network in networks.items()}
    result = {
        "question": __doc__.splitlines()[0],
        "rounds": options.rounds,
        "networks": {name: rows[key] for name, key in keys.items()},
        "machine": records.machine(),
        "versions": records.versions(),
        "commit": records.commit(),
    }
    table = Table("experiment", "parameters", "million MACs", "ms per face", title=result["question"])
    for name, row in result["networks"].items():
        millions = f"{row['multiplications'] / 1e6:,.1f}"
        table.add_row(name, f"{row['parameters'] / 1e6:.2f} M", millions, f"{row['milliseconds']:.2f}")
    Console().print(table)
    if options.out:
        records.write_json(options.out, result)


if __name__ == "__main__":
    main()
