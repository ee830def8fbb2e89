"""Valid files of every kind that the package reads, for tests that damage them."""

from __future__ import annotations

import functools
import hashlib
import io
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytorch_lightning as pl
import torch

from fer_lightning.data.sources.readers import read_faces
from fer_lightning.labels import EMOTIONS, USAGES
from fer_lightning.models.network import FERNetwork, build_network
from fer_lightning.training.module import FERModule

ROW = " ".join(["7"] * 48 * 48)
GOOD_CSV = "emotion,pixels,Usage\n" + "".join(f"{n},{ROW},{usage}\n" for n, usage in enumerate(USAGES))


@functools.cache
def good_cache() -> dict[str, bytes]:
    """The files of a cache."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fer2013.csv")
        path.write_text(GOOD_CSV)
        read_faces(path)
        [stored] = Path(folder).glob(".fer*/*/about.json")
        return {file.name: file.read_bytes() for file in stored.parent.iterdir()}


def npy(shape: list[int], kind: str = "|O") -> bytes:
    """A .npy header that claims a shape, of pickled objects."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {tuple(shape)!r}}}".encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


MODEL = {
    **{"_target_": "fer_lightning.models.custom_cnn.CustomCNN", "width": 4, "hidden": 8, "dropout": 0.5},
    **{"weights": None, "image_size": 24, "channels": 1, "mean": 0.5, "std": 0.5},
}
HYPERPARAMETERS = {
    "model": MODEL,
    "loss": {"_target_": "fer_lightning.training.losses.FocalLoss", "gamma": 2.0, "class_weights": "balanced"},
    "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.1},
    "scheduler": {"_target_": "fer_lightning.training.optim.constant"},
    "evaluation": {
        "views": {"_target_": "fer_lightning.models.tta.shifts", "_partial_": True, "shift": 0.1},
        **{"validation": None, "average": "probabilities", "split": "test", "bootstrap": 20},
    },
    "classes": list(EMOTIONS),
    "class_counts": [5] * 7,
    "provenance": {
        **{"data": "synthetic", "data_fingerprint": "0" * 64, "protocol": "official"},
        **{"overrides": ["data=synthetic", "model.width=4"], "config_sources": [], "config": {"seed": 0}},
    },
    "on_nan": "stop",
}


@functools.cache
def good_checkpoint() -> dict[str, Any]:
    """The checkpoint that Lightning saves of an untrained network."""
    module = FERModule(**HYPERPARAMETERS)
    module.history = [{"epoch": 1, "val/accuracy": 0.5}]
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(module)
    with tempfile.TemporaryDirectory() as folder:
        trainer.save_checkpoint(f"{folder}/last.ckpt")
        saved: dict[str, Any] = torch.load(f"{folder}/last.ckpt", weights_only=True)
    return saved


def saved(content: Any) -> bytes:
    """What `torch.save` writes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@functools.cache
def network() -> FERNetwork:
    """The network of `MODEL`."""
    return build_network(MODEL, len(EMOTIONS))


@functools.cache
def graph() -> bytes:
    """The ONNX file of a network with one layer."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    network = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("Gemm", ["flat", "w"], ["logits"])],
        "net",
        [helper.make_tensor_value_info("image", kind, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", kind, ["batch", 3])],
        [helper.make_tensor("w", kind, [64, 3], np.linspace(-1, 1, 192).tolist())],
    )
    model = helper.make_model(network, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def description(content: bytes) -> dict[str, Any]:
    """The `bundle.json` of a bundle with this graph."""
    return {
        **{"format": 1, "name": "net", "classes": ["a", "b", "c"], "input": {"size": 8, "channels": 1}},
        "graphs": {"float": {"file": "model.onnx", "sha256": hashlib.sha256(content).hexdigest()}},
        "scores": {"test": {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "macro_f1": 0.4}},
        "training": {"data": "fer2013", "protocol": "official"},
    }
