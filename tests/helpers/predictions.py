"""Predictions as arrays."""

import numpy as np

from fer_lightning.inference.predict import Prediction


def probabilities_of(prediction: Prediction) -> np.ndarray:
    """The probabilities of all classes, in the order of the bundle."""
    return np.array(list(prediction.probabilities.values()))
