"""A small network with its bundle, exported once for all tests of this room."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from fer_lightning.inference import graphs
from fer_lightning.labels import EMOTIONS
from fer_lightning.models.network import FERNetwork, build_network


def described(folder: Path, **changes: object) -> Path:
    """Writes the files beside a `model.onnx` that make a bundle of it."""
    graph = {"file": "model.onnx", "sha256": sha256((folder / "model.onnx").read_bytes()).hexdigest()}
    description = {
        "format": 1,
        "name": "small",
        "classes": list(EMOTIONS),
        "input": {"size": 48, "channels": 1},
        "graphs": {"float": graph},
        "scores": {"test": {"accuracy": 0.5}},
        "training": {"data": "fer2013", "data_fingerprint": "0", "protocol": "official", "command": "python train.py"},
        **changes,
    }
    (folder / "bundle.json").write_text(json.dumps(description))
    (folder / "MODEL_CARD.md").write_text("# small\n")
    return folder


@pytest.fixture(scope="session")
def small_network() -> FERNetwork:
    """A network with random weights whose answers differ between pictures."""
    torch.manual_seed(0)
    model = {"_target_": "fer_lightning.models.small_resnet.SmallResNet", "image_size": 48, "channels": 1}
    widths = {"widths": [8, 16], "depths": [1, 1], "stem_stride": 2, "mean": 0.5, "std": 0.25}
    network = build_network(model | widths, len(EMOTIONS)).eval()
    network.body.head[-1].weight.data.mul_(40)
    return network


@pytest.fixture(scope="session")
def small_bundle(small_network: FERNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that network's bundle; nobody changes it."""
    folder = tmp_path_factory.mktemp("bundle")
    graphs.write_onnx(small_network, folder / "model.onnx", channels=1, size=48)
    return described(folder)


@pytest.fixture
def describe() -> Callable[..., Path]:
    """`described`, for tests that change a bundle."""
    return described
