"""Implements `choices.Model` for checkpoints; imports torch and Lightning."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fer_lightning.app.heatmaps import HeatMap, grad_cam, occlusion_map
from fer_lightning.inference.images import to_input
from fer_lightning.inference.predict import Prediction
from fer_lightning.models.network import training_input_size
from fer_lightning.training.module import load_module


class CheckpointModel:
    """A trained network, with a single view of each face (no test-time augmentation).

    Args:
        checkpoint: Path of a `best.ckpt` or `last.ckpt`.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a checkpoint of this project, or lacks the shape of its training images.
    """

    def __init__(self, checkpoint: Path) -> None:
        module = load_module(checkpoint).eval()
        self._classes = module.classes
        self._network = module.network_for_whole_images()
        shape = (module.hparams["provenance"] or {}).get("image_shape")
        if not shape:
            raise ValueError(f"{checkpoint} lacks the shape of its training images; choose one that train.py wrote")
        self._size, self._channels = training_input_size(self._network, shape)
        self._lock = threading.Lock()  # Grad-CAM registers hooks in the network

    def predict(self, faces: list[NDArray[np.uint8]]) -> list[Prediction]:
        """See `choices.Model`."""
        return [Prediction.of(self._classes, self._probabilities(self._input(face)[None])[0]) for face in faces]

    def heat_map(self, face: NDArray[np.uint8], label: str) -> tuple[HeatMap, str]:
        """See `choices.Model`; uses Grad-CAM if the network has feature maps."""
        target, network_input = self._classes.index(label), self._input(face)
        with self._lock:
            heat_map = grad_cam(self._network, network_input, target)
        if heat_map is not None:
            return heat_map, "Grad-CAM"
        return occlusion_map(self._probabilities, network_input, target), "Occlusion map"

    def _input(self, face: NDArray[np.uint8]) -> NDArray[np.float32]:
        return to_input(face, self._size, self._channels)

    def _probabilities(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._lock, torch.inference_mode():
            return np.asarray(self._network(torch.from_numpy(inputs)).float().softmax(dim=1))
