"""A bundle as an MLflow model: plain data without pickle, for `mlflow.pyfunc` and `mlflow models serve`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from fer_lightning.inference.predict import FERPredictor


class ImagesModel:
    """Predicts a table with the column `image`, which contains the bytes of image files (base64 over HTTP)."""

    def __init__(self, predictor: FERPredictor) -> None:
        self.predictor = predictor

    def predict(self, table: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Return one row per image, each a whole face: `label`, `confidence` and `p_CLASS` of every class."""
        predictions = self.predictor.predict(list(table["image"]))
        return pd.DataFrame(
            {
                "label": prediction.label,
                "confidence": prediction.confidence,
                **{f"p_{name}": probability for name, probability in prediction.probabilities.items()},
            }
            for prediction in predictions
        )


def _load_pyfunc(path: str) -> ImagesModel:
    """Load the model from its folder, for MLflow."""
    return ImagesModel(FERPredictor.load(path))
