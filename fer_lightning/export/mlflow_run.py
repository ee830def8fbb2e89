"""Logs a bundle as an MLflow model, as plain data without pickle."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from PIL import Image

from fer_lightning.config import build
from fer_lightning.inference import mlflow_model
from fer_lightning.inference.bundle import Bundle
from fer_lightning.inference.mlflow_model import ImagesModel
from fer_lightning.inference.predict import FERPredictor
from fer_lightning.reporting.tracking import RunLogger

if TYPE_CHECKING:
    from mlflow.models.model import ModelInfo

_CODE: Final = (
    "__init__.py",
    "_torchvision_compat.py",
    *(f"inference/{name}.py" for name in ("__init__", "bundle", "images", "mlflow_model", "predict")),
)
"""Files of this package that are needed to serve a bundle."""


def log_bundle(bundle: Bundle) -> ModelInfo:
    """Log a bundle into the active MLflow run, with signature and input example.

    The inference code is logged with the bundle, so that serving needs only MLflow, NumPy, pandas, Pillow and ONNX
    Runtime.

    Args:
        bundle: A bundle in a folder, not a zip.
    """
    import mlflow

    example = pd.DataFrame({"image": [_example_image(bundle)]})
    predictions = ImagesModel(FERPredictor(bundle)).predict(example)
    package = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as temporary:
        code = Path(temporary) / package.name
        (code / "inference").mkdir(parents=True)
        for file in _CODE:
            shutil.copy(package / file, code / file)
        logged: ModelInfo = mlflow.pyfunc.log_model(
            name="model",
            loader_module=mlflow_model.__name__,
            data_path=str(bundle.path),
            code_paths=[str(code)],
            signature=mlflow.models.infer_signature(example, predictions),
            input_example=example,
            pip_requirements=[f"{name}=={version(name)}" for name in ("numpy", "onnxruntime", "pandas", "pillow")],
        )
    return logged


def log_model(bundle: Bundle, store: Mapping[str, Any]) -> tuple[str, str]:
    """Log a bundle and its scores as a new MLflow run.

    Args:
        bundle: A bundle in a folder, not a zip.
        store: The configuration of conf/tracking/mlflow.yaml.

    Returns:
        The model URI for `mlflow.pyfunc.load_model`, and the tracking URI (`MLFLOW_TRACKING_URI`).

    Raises:
        ValueError: `store` does not track with MLflow.
    """
    import mlflow

    training = bundle.description["training"]
    tags = {key: str(training[key]) for key in ("data", "data_fingerprint", "protocol", "command")}
    opened = build(store, folder=bundle.path, run_name=f"bundle {bundle.name}", tags=tags, params={}, sweep_dir=None)
    with opened as loggers:
        logger = next((logger for logger in loggers if isinstance(logger, RunLogger)), None)
        if logger is None:
            raise ValueError("mlflow=true needs tracking=mlflow")
        for part, row in bundle.scores.items():
            logger.log_metrics({f"{part}/{key}": value for key, value in row.items() if isinstance(value, float)})
        mlflow.set_tracking_uri(logger.experiment.tracking_uri)
        with mlflow.start_run(run_id=logger.run_id):
            return log_bundle(bundle).model_uri, logger.uri


def _example_image(bundle: Bundle) -> bytes:
    """Return a PNG of the input size with a horizontal gradient."""
    shades = np.linspace(0, 255, bundle.input_size, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.tile(shades, (bundle.input_size, 1))).save(file, "PNG")
    return file.getvalue()
