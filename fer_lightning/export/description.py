"""The part of `bundle.json` that needs no measurement: input, output and origin of the network."""

from __future__ import annotations

import datetime
from typing import Any

from fer_lightning.config import to_container
from fer_lightning.export.source import ExportSource, training_command
from fer_lightning.files import sha256
from fer_lightning.inference.bundle import FORMAT
from fer_lightning.models.network import count_parameters
from fer_lightning.reporting.environment import environment
from fer_lightning.studies.trained import TrainedRun


def description(source: ExportSource, name: str, size: int, channels: int) -> dict[str, Any]:
    """Content of `bundle.json` without graphs, temperature, scores and parity.

    Args:
        source: The exported network or ensemble.
        name: Name of the bundle.
        size: Height and width of the graph's input in pixels.
        channels: Channels of the graph's input, 1 or 3.
    """
    net, crops = source.first, any(each.module.crop != 1 for each in source.nets)
    return {
        "format": FORMAT,
        "name": name,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "classes": net.module.classes,
        "input": {
            "name": "image",
            "size": size,
            "channels": channels,
            "dtype": "float32",
            "layout": "batch, channel, row, column",
            "range": [0, 1],
            "resize": "to a square, bilinear, antialiased when shrinking",
            "gray": "ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B",
        },
        "output": {"name": "logits", "activation": "softmax gives the probabilities"},
        "training": {
            "data": net.provenance["data"],
            "data_fingerprint": net.provenance["data_fingerprint"],
            "protocol": net.provenance["protocol"],
            "command": source.command,
            "parameters": sum(count_parameters(each.module.network) for each in source.nets),
        },
        "networks": [_network(net, weight) for net, weight in zip(source.nets, source.weights, strict=True)],
        "measured_on": {"data": net.faces.name, "data_fingerprint": net.faces.fingerprint, "protocol": net.split.name},
        "views": "one view of each image" + ", its centre for networks trained on crops" * crops,
        **environment(),
    }


def _network(net: TrainedRun, weight: float) -> dict[str, Any]:
    """Return the description of one network of a bundle."""
    network = net.module.network
    return {
        "weight": weight,
        "command": training_command(net),
        "model": {key: value for key, value in to_container(net.module.hparams["model"]).items() if key != "weights"},
        "mean": network.mean.flatten().tolist(),
        "std": network.std.flatten().tolist(),
        "crop": net.module.crop,
        "parameters": count_parameters(network),
        "epoch": net.module.history[-1]["epoch"] if net.module.history else None,
        "checkpoint_sha256": sha256(net.checkpoint),
    }
