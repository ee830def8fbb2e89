"""A predictor and an image of its input size."""

from pathlib import Path

import numpy as np
import pytest
from helpers.images import noise

from fer_lightning.inference.predict import FERPredictor


@pytest.fixture(scope="session")
def predictor(small_bundle: Path) -> FERPredictor:
    return FERPredictor.load(small_bundle)


@pytest.fixture
def gray() -> np.ndarray:
    return noise(48, 48)
