"""Models and runs for the app, in an empty working directory."""

import json
from pathlib import Path

import pytest
import torch

from fer_lightning.app import choices
from fer_lightning.labels import EMOTIONS
from fer_lightning.models.network import FERNetwork
from fer_lightning.training.module import FERModule


@pytest.fixture(autouse=True)
def _no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, without bundled models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(choices.MODEL_VARIABLE, raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(choices, "bundled_models", list)


@pytest.fixture
def run_with_checkpoint(tmp_path: Path, small_network: FERNetwork) -> Path:
    """A finished run in outputs/ of a network with random weights."""
    run = tmp_path / "outputs" / "today" / "10-00-00_small"
    hyperparameters = {
        "model": {
            "_target_": "fer_lightning.models.small_resnet.SmallResNet",
            **{"image_size": 48, "channels": 1, "mean": 0.5, "std": 0.25},
            **{"widths": [8, 16], "depths": [1, 1], "stem_stride": 2},
        },
        "loss": {"_target_": "fer_lightning.training.losses.CrossEntropyLoss"},
        "optimizer": {},
        "scheduler": {},
        "evaluation": {
            "views": {"_target_": "fer_lightning.models.tta.flip", "_partial_": True},
            **{"validation": None, "average": "probabilities"},
        },
        "classes": list(EMOTIONS),
        "class_counts": [1] * 7,
        "provenance": {"image_shape": [48, 48]},
    }
    module = FERModule(**hyperparameters)
    module.network.load_state_dict(small_network.state_dict())
    (run / "checkpoints").mkdir(parents=True)
    checkpoint = {"hyper_parameters": hyperparameters, "state_dict": module.state_dict(), "history": []}
    torch.save(checkpoint, run / "checkpoints" / "best.ckpt")
    test = {"accuracy": 0.625, "accuracy_interval": [0.6, 0.65], "macro_f1": 0.5}
    record = {"name": "small seed=0", "data": "fer2013", "protocol": "official", "synthetic": False, "test": test}
    record |= {"val": {"accuracy": 0.61}, "command": "python train.py", "minutes": 3.5}
    (run / "record.json").write_text(json.dumps(record))
    return run


@pytest.fixture
def bundle(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only model of the app."""
    monkeypatch.setenv(choices.MODEL_VARIABLE, str(small_bundle))
    return small_bundle
