import math

import pytest
import torch
from sklearn.metrics import log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from fer_lightning.training.calibration import calibration_scores, fit_temperature, scale_logits
from fer_lightning.training.metrics import Predictions, epoch_scores
from fer_lightning.training.reliability import reliability


def predictions(logits: torch.Tensor, labels: torch.Tensor) -> Predictions:
    return Predictions(torch.arange(len(labels)), logits, labels)


def sampled(temperature: float, n: int = 20_000) -> Predictions:
    """Predictions overconfident by `temperature`: labels are sampled from the softmax of logits / temperature."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, 7, generator=generator)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator).squeeze(1)
    return predictions(logits, labels)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_fit_recovers_the_temperature_of_the_labels(temperature: float) -> None:
    assert fit_temperature(sampled(temperature)) == pytest.approx(temperature, rel=0.03)


def test_temperature_by_hand() -> None:
    # logits (2, 0): correct for 3 of 4 images, so the best probability is 3/4, and the best logit ln 3
    found = fit_temperature(predictions(torch.tensor([[2.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])))
    assert found == pytest.approx(2 / math.log(3), rel=1e-6)


def test_the_fitted_temperature_is_a_minimum() -> None:
    given = sampled(1.7, n=500)
    best = fit_temperature(given)
    losses = [calibration_scores(scale_logits(given, best * factor))["nll"] for factor in (0.99, 1.0, 1.01)]
    assert losses[1] == min(losses)


def test_a_model_without_errors_gets_a_finite_temperature() -> None:
    found = fit_temperature(predictions(torch.tensor([[5.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 1])))
    assert 0 < found < 1


def test_scaling_changes_no_predicted_class() -> None:
    given = sampled(2.0, n=100)
    after = scale_logits(given, 3.0)
    assert torch.equal(after.logits.argmax(1), given.logits.argmax(1))


def test_reliability_by_hand() -> None:
    # of five bins (0.4, 0.6] has 0.55 twice, correct once, and (0.8, 1] has 0.9, correct
    logits = torch.tensor([[0.55, 0.45], [0.55, 0.45], [0.1, 0.9]]).log()
    bins = reliability(logits.exp(), torch.tensor([0, 1, 1]), bins=5)
    assert bins.count.tolist() == [0, 0, 2, 0, 1]
    filled = bins.count > 0
    assert bins.accuracy[filled].tolist() == [0.5, 1.0]
    assert bins.confidence[filled].tolist() == pytest.approx([0.55, 0.9])
    assert bins.accuracy[~filled].isnan().all()
    assert bins.ece == pytest.approx(2 / 3 * 0.05 + 1 / 3 * 0.1)


def test_ece_equals_torchmetrics_and_nll_equals_scikit_learn() -> None:
    given = sampled(2.0, n=3000)
    reference = multiclass_calibration_error(given.probabilities, given.labels, 7, n_bins=15)
    scores = calibration_scores(given)
    assert scores["ece"] == pytest.approx(reference.item(), abs=1e-6)
    assert epoch_scores(given, list("abcdefg"))["ece"] == scores["ece"]
    assert scores["nll"] == pytest.approx(log_loss(given.labels, given.logits.double().softmax(1), labels=range(7)))


def test_brier_by_hand() -> None:
    given = predictions(torch.tensor([[0.75, 0.25], [0.75, 0.25]]).log(), torch.tensor([0, 1]))
    assert calibration_scores(given)["brier"] == pytest.approx((2 * 0.25**2 + 2 * 0.75**2) / 2)


def test_scaling_calibrates_an_overconfident_model() -> None:
    given = sampled(2.5)
    calibrated = calibration_scores(scale_logits(given, fit_temperature(given)))
    before = calibration_scores(given)
    assert before["ece"] > 0.15
    assert calibrated["ece"] < 0.02
    assert calibrated["nll"] < before["nll"]
    assert calibrated["brier"] < before["brier"]
