"""A bundle as an MLflow model: data alone, no pickle; loaded by `mlflow.pyfunc`, served by `mlflow models serve`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from fer_lightning.inference.predict import FERPredictor


class PicturesModel:
    """The model for MLflow: a table with the column `image`, the bytes of a picture file each (base64 over HTTP)."""

    def __init__(self, predictor: FERPredictor) -> None:
        self.predictor = predictor

    def predict(self, table: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """One row a picture, taken whole as one face: `label`, `confidence` and `p_CLASS` of every class."""
        answers = self.predictor.predict(list(table["image"]))
        return pd.DataFrame(
            {
                "label": answer.label,
                "confidence": answer.confidence,
                **{f"p_{name}": probability for name, probability in answer.probabilities.items()},
            }
            for answer in answers
        )


def _load_pyfunc(path: str) -> PicturesModel:
    """MLflow's way in: the model from its folder."""
    return PicturesModel(FERPredictor.load(path))
