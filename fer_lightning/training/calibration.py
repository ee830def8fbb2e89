"""Calibration: how well confidence matches accuracy, and temperature scaling."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fer_lightning.training.metrics import Predictions
from fer_lightning.training.reliability import reliability

MAX_TEMPERATURE = 20.0
"""Temperatures stay between 1/20 and 20: the optimum is 0 for a model without an error on its val part."""


def calibration_scores(predictions: Predictions) -> dict[str, float]:
    """Calibration scores of N >= 1 predictions.

    Returns:
        `ece` in [0, 1], `nll` in nats (mean negative log likelihood), and `brier`, the mean squared distance between
        probabilities and one-hot label, summed over the classes (Brier 1950), in [0, 2].
    """
    probabilities = predictions.probabilities.double()
    one_hot = F.one_hot(predictions.labels, probabilities.shape[1])
    return {
        "ece": reliability(probabilities, predictions.labels).ece,
        "nll": F.cross_entropy(predictions.logits.double(), predictions.labels).item(),
        "brier": (probabilities - one_hot).square().sum(dim=1).mean().item(),
    }


def fit_temperature(predictions: Predictions) -> float:
    """Fit the temperature T > 0 that minimises the negative log likelihood of logits / T.

    See Guo et al. 2017, section 4.2. It changes no predicted class. T > 1 means that the model was overconfident, T < 1
    underconfident.

    Args:
        predictions: Predictions of the val part; never of the part that is measured.

    Returns:
        T between 1 / `MAX_TEMPERATURE` and `MAX_TEMPERATURE`.
    """
    with torch.inference_mode(False), torch.enable_grad():
        logits, labels = predictions.logits.double().clone(), predictions.labels.clone()
        free = torch.zeros((), dtype=torch.float64, requires_grad=True)
        widest = math.log(MAX_TEMPERATURE)
        optimizer = torch.optim.LBFGS([free], max_iter=100, tolerance_change=1e-14, line_search_fn="strong_wolfe")

        def log_temperature() -> Tensor:  # bounded smoothly, so that no optimizer step overflows
            return widest * torch.tanh(free / widest)

        def loss() -> Tensor:
            optimizer.zero_grad()
            nll = F.cross_entropy(logits * torch.exp(-log_temperature()), labels)
            nll.backward()  # type: ignore[no-untyped-call]
            return nll

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        return math.exp(log_temperature().item())


def scale_logits(predictions: Predictions, temperature: float) -> Predictions:
    """Return the same predictions with logits / temperature."""
    return Predictions(predictions.index, predictions.logits / temperature, predictions.labels)
