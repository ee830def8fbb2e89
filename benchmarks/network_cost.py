"""What does the network of each experiment cost? Parameters, multiply-accumulates (MACs), one face on one CPU thread.

Untrained networks, in float32, without any compilation; the milliseconds are the median over rounds in which all
networks took turns. Experiments that differ in their training alone share a network.

    python benchmarks/network_cost.py --out benchmarks/results/network_cost.json
"""

from __future__ import annotations

import json
import statistics
import warnings
from functools import partial
from typing import Any

from harness import finish, interleaved, new_parser

from fer_lightning.cli.command_line import composed
from fer_lightning.config import CONF, plain
from fer_lightning.models.cost import latency, multiply_accumulates
from fer_lightning.models.network import FERNetwork, build_network, count_parameters
from fer_lightning.overrides import without
from fer_lightning.studies.ensemble.recipe import Recipe


def command_lines() -> dict[str, list[str]]:
    """What is typed for each experiment, and for those nets of ensembles that differ from theirs."""
    lines = {path.stem: [f"experiment={path.stem}"] for path in sorted((CONF / "experiment").glob("*.yaml"))}
    for recipe in sorted((CONF / "ensemble").glob("*.yaml")):
        lines |= {
            name: list(words)
            for name, words in Recipe.read(recipe).members.items()
            if without(words, "model") != list(words)
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
        "multiplications": multiply_accumulates(network),
        "milliseconds": round(statistics.median(milliseconds), 2),
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each network in each round")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    models = {name: model(words) for name, words in command_lines().items()}
    keys = {name: json.dumps(chosen, sort_keys=True) for name, chosen in models.items()}
    networks = {keys[name]: build_network(chosen, num_classes=7) for name, chosen in models.items()}
    sides = {key: partial(latency, network, options.seconds) for key, network in networks.items()}
    seen = interleaved(sides, options.rounds)
    rows = {key: measure(network, seen[key]) for key, network in networks.items()}
    result = {"rounds": options.rounds, "networks": {name: rows[key] for name, key in keys.items()}}
    finish("network_cost", __doc__, result, options.out)


if __name__ == "__main__":
    main()
