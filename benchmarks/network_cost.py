"""What does the network of each experiment cost? Parameters, multiply-accumulates (MACs), one face on one CPU thread.

Untrained networks, in float32, uncompiled; the milliseconds are the median over rounds in which all networks are
measured alternately. Experiments that differ only in their training share a network.

    python benchmarks/network_cost.py --out benchmarks/results/network_cost.json
"""

from __future__ import annotations

import json
import statistics
import warnings
from functools import partial
from typing import Any

from harness import finish, interleave, new_parser

from fer_lightning.cli.command_line import compose_config
from fer_lightning.config import CONF, to_container
from fer_lightning.models.cost import latency, multiply_accumulates
from fer_lightning.models.network import FERNetwork, build_network, count_parameters
from fer_lightning.overrides import drop_overrides
from fer_lightning.studies.ensemble.recipe import Recipe


def network_overrides() -> dict[str, list[str]]:
    """Return the overrides of each experiment, and of those members of ensembles whose networks differ from theirs."""
    overrides = {path.stem: [f"experiment={path.stem}"] for path in sorted((CONF / "experiment").glob("*.yaml"))}
    for recipe in sorted((CONF / "ensemble").glob("*.yaml")):
        members = Recipe.read(recipe).members
        overrides |= {name: list(own) for name, own in members.items() if drop_overrides(own, "model") != list(own)}
    return overrides


def model_config(overrides: list[str]) -> dict[str, Any]:
    """Return the model configuration, without options that do not affect the cost."""
    model = to_container(compose_config(CONF, overrides).model)
    fixed = {"weights": None, "pretrained": False, "dropout": 0.0}
    return {key: fixed.get(key, value) for key, value in model.items()}


def cost_of(network: FERNetwork, milliseconds: list[float]) -> dict[str, float]:
    """Return the row of a network."""
    return {
        "parameters": count_parameters(network),
        "multiplications": multiply_accumulates(network),
        "milliseconds": round(statistics.median(milliseconds), 2),
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="duration of each network's measurement in a round")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    models = {name: model_config(overrides) for name, overrides in network_overrides().items()}
    keys = {name: json.dumps(model, sort_keys=True) for name, model in models.items()}
    networks = {keys[name]: build_network(model, num_classes=7) for name, model in models.items()}
    sides = {key: partial(latency, network, options.seconds) for key, network in networks.items()}
    times = interleave(sides, options.rounds)
    rows = {key: cost_of(network, times[key]) for key, network in networks.items()}
    result = {"rounds": options.rounds, "networks": {name: rows[key] for name, key in keys.items()}}
    finish("network_cost", __doc__, result, options.out)


if __name__ == "__main__":
    main()
