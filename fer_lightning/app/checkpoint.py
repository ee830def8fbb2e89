"""A checkpoint as the pages want a model; imports torch and Lightning."""

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
    """A trained network; each face is looked at once, without test-time augmentation.

    Args:
        checkpoint: A `best.ckpt` or `last.ckpt`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a checkpoint of this project, or lacks the shape of the images that it was trained on.
    """

    def __init__(self, checkpoint: Path) -> None:
        module = load_module(checkpoint).eval()
        self._classes = module.classes
        self._network = module.network_for_whole_images()
        shape = (module.hparams["provenance"] or {}).get("picture")
        if not shape:
            raise ValueError(f"{checkpoint} lacks the shape of its training images; choose one that train.py wrote")
        self._size, self._channels = training_input_size(self._network, shape)
        self._lock = threading.Lock()  # Grad-CAM hangs its hooks into the network

    def predict(self, faces: list[NDArray[np.uint8]]) -> list[Prediction]:
        """As `models.Model`."""
        answers = []
        for face in faces:
            probabilities = dict(
                zip(self._classes, self._probabilities(self._input(face)[None])[0].tolist(), strict=True)
            )
            label = max(probabilities, key=lambda name: probabilities[name])
            answers.append(Prediction(label, probabilities[label], probabilities))
        return answers

    def heat_map(self, face: NDArray[np.uint8], label: str) -> tuple[HeatMap, str]:
        """As `models.Model`; Grad-CAM wherever the network has feature maps."""
        target, prepared = self._classes.index(label), self._input(face)
        with self._lock:
            found = grad_cam(self._network, prepared, target)
        if found is not None:
            return found, "Grad-CAM"
        return occlusion_map(self._probabilities, prepared, target), "Occlusion map"

    def _input(self, face: NDArray[np.uint8]) -> NDArray[np.float32]:
        return to_input(face, self._size, self._channels)

    def _probabilities(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._lock, torch.inference_mode():
            return np.asarray(self._network(torch.from_numpy(inputs)).float().softmax(dim=1))
