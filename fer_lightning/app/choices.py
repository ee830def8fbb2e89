"""Finds the available models and loads them."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fer_lightning.app.heatmaps import HeatMap, occlusion_map
from fer_lightning.files import one_line
from fer_lightning.inference.bundle import DESCRIPTION, Bundle, BundleError, bundled_models
from fer_lightning.inference.predict import FERPredictor, Prediction
from fer_lightning.reporting.mlflow_store import LOCAL_STORE, RUN_ID, client
from fer_lightning.reporting.records import read_record
from fer_lightning.run_folder import BEST, CHECKPOINTS, RECORD, best_checkpoint, in_run_folder, run_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL_VARIABLE = "FER_APP_MODEL"
"""The environment variable that passes `--model` from the command to the script."""

OUTPUTS = Path("outputs")
NEWEST = 50
"""Maximum number of runs from MLflow's store."""

MLFLOW_TIMEOUT = 10
"""Timeout of an MLflow request in seconds, short because a page waits for it."""


class Model(Protocol):
    """Interface of a model for the pages."""

    def predict(self, faces: list[NDArray[np.uint8]]) -> list[Prediction]:
        """Predictions for faces, uint8 (H, W) or (H, W, 3)."""
        ...

    def heat_map(self, face: NDArray[np.uint8], label: str) -> tuple[HeatMap, str]:
        """Heat map for a class, and the name of the method."""
        ...


@dataclass(frozen=True)
class Choice:
    """A model that the user can select.

    Attributes:
        label: Displayed name.
        about: One line with its training data and test accuracy.
        synthetic: Whether it was trained on synthetic faces.
        accuracy: Accuracy on its test part, or None.
        kind: `bundle`, `checkpoint` or `mlflow`.
        location: Name or path of the bundle, path of the checkpoint, or id of the run.
    """

    label: str
    about: str
    synthetic: bool
    accuracy: float | None
    kind: str
    location: str

    @property
    def display_location(self) -> str:
        """The folder of the bundle or run, another checkpoint than a run's best, or the id of a run in MLflow."""
        if self.kind == "mlflow" or not Path(self.location).exists():  # the name of a bundled model
            return self.location
        path = Path(self.location).resolve()
        path = run_of(path) if path == best_checkpoint(run_of(path)) else path
        return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)

    def load(self) -> Model:
        """Load the model.

        Raises:
            ValueError: Its files cannot be read.
        """
        if self.kind == "bundle":
            return BundleModel(FERPredictor.load(self.location))
        from fer_lightning.app.checkpoint import CheckpointModel

        if self.kind == "checkpoint":
            return CheckpointModel(Path(self.location))
        return CheckpointModel(Path(_client().download_artifacts(self.location, BEST)))


class BundleModel:
    """The model of a bundle."""

    def __init__(self, predictor: FERPredictor) -> None:
        self._predictor = predictor

    def predict(self, faces: list[NDArray[np.uint8]]) -> list[Prediction]:
        """See `Model`."""
        return self._predictor.predict(faces)

    def heat_map(self, face: NDArray[np.uint8], label: str) -> tuple[HeatMap, str]:
        """See `Model`; graphs have no gradients, so this is an occlusion map."""
        predictor = self._predictor
        target = predictor.bundle.classes.index(label)
        return occlusion_map(predictor.probabilities, predictor.prepare(face), target), "Occlusion map"


def available_choices() -> tuple[list[Choice], list[str]]:
    """Find all available models.

    Returns:
        The models without duplicates, first those of `--model`, then those trained on real faces, then the others; and
        messages about sources that could not be read.
    """
    problems: list[str] = []
    argument = os.environ.get(MODEL_VARIABLE)
    requested = choices_from(argument) if argument else []
    found = [_bundle(name, "Bundled", name) for name in bundled_models()]
    found += choices_in(OUTPUTS)
    try:
        runs = [
            *OUTPUTS.rglob(BEST),
            *(Path(choice.location) for choice in requested if choice.kind == "checkpoint"),
        ]
        id_files = [run_of(path) / RUN_ID for path in runs]
        found += mlflow_runs(exclude={file.read_text("utf-8").strip() for file in id_files if file.is_file()})
    except Exception as error:  # external stores and servers cause all kinds of errors
        problems.append(f"MLflow's runs are not listed: {one_line(error)}")
    found = [*requested, *sorted(found, key=lambda choice: choice.synthetic)]
    unique: dict[tuple[str, str], Choice] = {}
    for choice in found:
        unique.setdefault((choice.kind, choice.display_location), choice)
    counts = Counter(choice.label for choice in unique.values())
    labelled = [
        replace(c, label=f"{c.label}, {c.display_location}") if counts[c.label] > 1 else c for c in unique.values()
    ]
    return labelled, problems


def choices_from(argument: str) -> list[Choice]:
    """Return the models that the argument of `--model` names.

    Raises:
        ValueError: There is no such model.
    """
    path = Path(argument)
    if path.suffix == ".ckpt" and path.is_file():
        return [_run(path, run_of(path).name if in_run_folder(path) else path.name)]
    if path.is_dir() and not (path / DESCRIPTION).exists():
        if not (found := choices_in(path)):
            raise ValueError(f"{argument} contains neither a bundle ({DESCRIPTION}) nor a run ({BEST})")
        return found
    return [_bundle(argument, "Given", path.name)]


def choices_in(folder: Path) -> list[Choice]:
    """Return the bundles and run below a folder, newest first; invalid bundles are skipped."""
    bundles = sorted(folder.rglob(DESCRIPTION), key=_age)
    runs = sorted(folder.rglob(BEST), key=_age)
    return [*_bundles(bundles), *(_run(path, str(run_of(path))) for path in runs)]


def _bundles(descriptions: list[Path]) -> Iterator[Choice]:
    for path in descriptions:
        try:
            yield _bundle(str(path.parent), "Export", str(path.parent))
        except BundleError as error:
            logging.getLogger(__name__).warning("skipped a bundle: %s", error)


def mlflow_runs(exclude: Set[str]) -> list[Choice]:
    """Return the runs with a checkpoint in MLflow's store, newest first, without downloading anything.

    Args:
        exclude: Ids of runs to skip, because they were found in outputs/.
    """
    if not LOCAL_STORE.exists() and "MLFLOW_TRACKING_URI" not in os.environ:
        return []
    store = _client()
    experiments = [experiment.experiment_id for experiment in store.search_experiments()]
    choices = []
    for run in store.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=NEWEST):
        if run.info.run_id in exclude:
            continue
        if any(file.path == BEST for file in store.list_artifacts(run.info.run_id, CHECKPOINTS)):
            tags, metrics = run.data.tags, run.data.metrics
            record = {
                "name": run.info.run_name,
                "data": tags.get("data"),
                "protocol": tags.get("protocol"),
                "synthetic": tags.get("synthetic") == "true",
                "test": {"accuracy": metrics["test/accuracy"]} if "test/accuracy" in metrics else None,
            }
            choices.append(_from_record(record, "MLflow", "mlflow", run.info.run_id))
    return choices


def _client() -> MlflowClient:
    return client(timeout=MLFLOW_TIMEOUT)


def _age(path: Path) -> float:
    return -path.stat().st_mtime


def _bundle(name_or_path: str, origin: str, name: str) -> Choice:
    bundle = Bundle.load(name_or_path)
    training = bundle.description.get("training", {})
    record = {
        **training,
        "name": name,
        "synthetic": training.get("data") == "synthetic",
        "test": bundle.scores.get("test"),
    }
    try:
        return _from_record(record, origin, "bundle", name_or_path)
    except (TypeError, ValueError, LookupError):
        raise BundleError(f"{bundle.path}: {DESCRIPTION} has invalid scores; export the model again") from None


def _run(checkpoint: Path, name: str) -> Choice:
    try:
        record = read_record(run_of(checkpoint) / RECORD, "name")
        if checkpoint.name != Path(BEST).name:  # the scores are those of the best epoch
            record |= {"name": f"{record['name']}, {checkpoint.name}", "test": None}
        return _from_record(record, "Run", "checkpoint", str(checkpoint))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return _from_record({"name": f"{name}, no record"}, "Run", "checkpoint", str(checkpoint))


def _from_record(record: dict[str, Any], origin: str, kind: str, location: str) -> Choice:
    accuracy = (record.get("test") or {}).get("accuracy")
    score = "" if accuracy is None else f" ({accuracy:.1%})"
    return Choice(
        f"{origin}: {record['name']}{score}", _about(record), bool(record.get("synthetic")), accuracy, kind, location
    )


def _about(record: dict[str, Any]) -> str:
    parts = [f"Trained on {record['data']}" if record.get("data") else "Trained on unknown data"]
    if record.get("protocol"):
        parts.append(f"protocol {record['protocol']}")
    if test := record.get("test"):
        low, high = test.get("accuracy_interval", (None, None))
        interval = f" ({low:.1%} to {high:.1%})" if low is not None else ""
        parts.append(f"test accuracy {test['accuracy']:.1%}{interval}")
    return ", ".join(parts) + "."
