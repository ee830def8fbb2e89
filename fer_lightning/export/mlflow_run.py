"""Logs a bundle as an MLflow model: data alone, no pickle."""

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
from fer_lightning.inference.mlflow_model import PicturesModel
from fer_lightning.inference.predict import FERPredictor
from fer_lightning.reporting.tracking import RunLogger

if TYPE_CHECKING:
    from mlflow.models.model import ModelInfo

_CODE: Final = (
    "__init__.py",
    "_torchvision_compat.py",
    *(f"inference/{name}.py" for name in ("__init__", "bundle", "images", "mlflow_model", "predict")),
)
"""Files of this package that a served bundle needs."""


def log_bundle(bundle: Bundle) -> ModelInfo:
    """Logs a bundle into the active MLflow run, with signature and input example.

    Beside the bundle lies the code that runs it, so that it can be served where nothing but MLflow, NumPy, Pillow and
    ONNX Runtime is installed.

    Args:
        bundle: A folder.
    """
    import mlflow

    example = pd.DataFrame({"image": [_example(bundle)]})
    answer = PicturesModel(FERPredictor(bundle)).predict(example)
    package = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as aside:
        code = Path(aside) / package.name
        (code / "inference").mkdir(parents=True)
        for file in _CODE:
            shutil.copy(package / file, code / file)
        logged: ModelInfo = mlflow.pyfunc.log_model(
            name="model",
            loader_module=mlflow_model.__name__,
            data_path=str(bundle.place),
            code_paths=[str(code)],
            signature=mlflow.models.infer_signature(example, answer),
            input_example=example,
            pip_requirements=[
                f"{package}=={version(package)}" for package in ("numpy", "onnxruntime", "pandas", "pillow")
            ],
        )
    return logged


def log_model(bundle: Bundle, store: Mapping[str, Any]) -> tuple[str, str]:
    """Logs a bundle as a run of its own, with its scores.

    Args:
        bundle: A folder.
        store: conf/tracking of MLflow.

    Returns:
        The address that `mlflow.pyfunc.load_model` takes, and that of the store which it asks (`MLFLOW_TRACKING_URI`).

    Raises:
        ValueError: Tracking is not by MLflow.
    """
    import mlflow

    training = bundle.description["training"]
    tags = {key: str(training[key]) for key in ("data", "data_fingerprint", "protocol", "command")}
    opened = build(store, folder=bundle.place, run_name=f"bundle {bundle.name}", tags=tags, params={}, sweep_dir=None)
    with opened as loggers:
        logger = next((logger for logger in loggers if isinstance(logger, RunLogger)), None)
        if logger is None:
            raise ValueError("mlflow=true needs tracking=mlflow")
        for part, row in bundle.scores.items():
            logger.log_metrics({f"{part}/{key}": value for key, value in row.items() if isinstance(value, float)})
        mlflow.set_tracking_uri(logger.experiment.tracking_uri)
        with mlflow.start_run(run_id=logger.run_id):
            return log_bundle(bundle).model_uri, logger.uri


def _example(bundle: Bundle) -> bytes:
    """A picture of the right size, shaded from left to right, as a PNG."""
    shades = np.linspace(0, 255, bundle.input_size, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.tile(shades, (bundle.input_size, 1))).save(file, "PNG")
    return file.getvalue()
