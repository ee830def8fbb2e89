"""What does the network of each experiment cost? Parameters, multiplications, and one face on one CPU thread.

Untrained networks, in float32, without any compilation; the milliseconds are the median over rounds in which all
networks took turns.

    python benchmarks/network_cost.py --out benchmarks/results/network_cost.json
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fer_lightning.config import CONF, composed, plain
from fer_lightning.models.cost import latency, multiplications
from fer_lightning.models.network import FERNetwork, build_network, count_parameters
from fer_lightning.reporting import records


def network(experiment: str) -> FERNetwork:
    """The network of an experiment as its training begins, with random weights."""
    model = plain(composed(CONF, [f"experiment={experiment}"]).model)
    fresh = {**model, "weights": None} | ({"pretrained": False} if "pretrained" in model else {})
    return build_network(fresh, num_classes=7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each network in each round")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    networks = {path.stem: network(path.stem) for path in sorted((CONF / "experiment").glob("*.yaml"))}
    seen: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(options.rounds):
        for name, net in networks.items():
            seen[name].append(latency(net, options.seconds))
    result = {
        "question": __doc__.splitlines()[0],
        "rounds": options.rounds,
        "networks": {
            name: {
                "parameters": count_parameters(net),
                "multiplications": multiplications(net),
                "milliseconds": round(statistics.median(seen[name]), 2),
            }
            for name, net in networks.items()
        },
        "machine": records.machine(),
        "versions": records.versions(),
        "commit": records.commit(),
    }
    table = Table("experiment", "parameters", "million multiplications", "ms a face", title=result["question"])
    for name, row in result["networks"].items():
        millions = f"{row['multiplications'] / 1e6:,.1f}"
        table.add_row(name, f"{row['parameters'] / 1e6:.2f} M", millions, f"{row['milliseconds']:.2f}")
    Console().print(table)
    if options.out:
        records.write_json(options.out, result)


if __name__ == "__main__":
    main()
