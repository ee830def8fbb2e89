"""Which models there are to choose among, and how one is loaded."""

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
from fer_lightning.inference.bundle import DESCRIPTION, Bundle, BundleError, bundled
from fer_lightning.inference.predict import FERPredictor, Prediction
from fer_lightning.reporting.mlflow_store import LOCAL_STORE, RUN_ID, client
from fer_lightning.reporting.records import read_record
from fer_lightning.run_folder import run_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL_VARIABLE = "FER_APP_MODEL"
"""The environment variable in which the command hands `--model` to the script."""

CHECKPOINT = "checkpoints/best.ckpt"
OUTPUTS = Path("outputs")
NEWEST = 50
"""Runs that are taken from MLflow's store at most."""

MLFLOW_TIMEOUT = 10
"""Seconds that an MLflow server may take for a request: a page waits for it."""


class Model(Protocol):
    """The interface of a model for the pages."""

    def predict(self, faces: list[NDArray[np.uint8]]) -> list[Prediction]:
        """Predictions for faces, uint8 (H, W) or (H, W, 3)."""
        ...

    def heat_map(self, face: NDArray[np.uint8], label: str) -> tuple[HeatMap, str]:
        """A heat map for that class, and the name of the method."""
        ...


@dataclass(frozen=True)
class Choice:
    """A model that can be chosen.

    Attributes:
        label: What people read.
        about: One line: what it was trained on and how good it is.
        synthetic: Whether it has seen drawn faces only.
        accuracy: On its test part, or None.
        kind: `bundle`, `checkpoint` or `mlflow`.
        place: The bundle's name or path, the checkpoint's path, or the run's id.
    """

    label: str
    about: str
    synthetic: bool
    accuracy: float | None
    kind: str
    place: str

    @property
    def whereabouts(self) -> str:
        """Distinguishes it from another of the same name: the folder of the run or bundle, or the run's id."""
        if self.kind == "mlflow" or not Path(self.place).exists():  # a bundle by its name
            return self.place
        folder = Path(self.place).resolve()
        folder = run_of(folder) if self.kind == "checkpoint" else folder
        return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)

    def load(self) -> Model:
        """Reads the weights.

        Raises:
            ValueError: They cannot be read.
        """
        if self.kind == "bundle":
            return BundleModel(FERPredictor.load(self.place))
        from fer_lightning.app.checkpoint import CheckpointModel

        if self.kind == "checkpoint":
            return CheckpointModel(Path(self.place))
        return CheckpointModel(Path(_client().download_artifacts(self.place, CHECKPOINT)))


class BundleModel:
    """A bundle's graph."""

    def __init__(self, predictor: FERPredictor) -> None:
        self._predictor = predictor

    def predict(self, faces: list[NDArray[np.uint8]]) -> list[Prediction]:
        """As `Model`."""
        return self._predictor.predict(faces)

    def heat_map(self, face: NDArray[np.uint8], label: str) -> tuple[HeatMap, str]:
        """As `Model`; a graph gives no gradients."""
        predictor = self._predictor
        target = predictor.bundle.classes.index(label)
        return occlusion_map(predictor.probabilities, predictor.prepare(face), target), "Occlusion map"


def available() -> tuple[list[Choice], list[str]]:
    """All models that can be found, each once; and what could not be looked at.

    First those that were asked for, then those that have seen real faces, then the others.
    """
    problems: list[str] = []
    wanted = os.environ.get(MODEL_VARIABLE)
    asked = given(wanted) if wanted else []
    found = [_bundle(name, "Bundled", name) for name in bundled()]
    found += in_folder(OUTPUTS)
    try:
        runs = [*OUTPUTS.rglob(CHECKPOINT), *(Path(choice.place) for choice in asked if choice.kind == "checkpoint")]
        here = [run_of(path) / RUN_ID for path in runs]
        found += mlflow_runs(besides={file.read_text("utf-8").strip() for file in here if file.is_file()})
    except Exception as error:  # whatever a store or server that is not ours may raise
        problems.append(f"MLflow's runs are left out: {one_line(error)}")
    found = [*asked, *sorted(found, key=lambda choice: choice.synthetic)]
    once: dict[tuple[str, str], Choice] = {}
    for choice in found:
        once.setdefault((choice.kind, choice.whereabouts), choice)
    alike = Counter(choice.label for choice in once.values())
    told_apart = [replace(c, label=f"{c.label}, {c.whereabouts}") if alike[c.label] > 1 else c for c in once.values()]
    return told_apart, problems


def given(place: str) -> list[Choice]:
    """The models that `--model` names.

    Raises:
        ValueError: There is none.
    """
    path = Path(place)
    if path.suffix == ".ckpt" and path.is_file():
        return [_run(path, run_of(path).name if path.parent.name == "checkpoints" else path.name)]
    if path.is_dir() and not (path / DESCRIPTION).exists():
        if not (found := in_folder(path)):
            raise ValueError(f"{place} holds neither a bundle ({DESCRIPTION}) nor a run ({CHECKPOINT})")
        return found
    return [_bundle(place, "Given", path.name)]


def in_folder(folder: Path) -> list[Choice]:
    """The bundles and runs below a folder, the newest first; what is no model is passed over."""
    bundles = sorted(folder.rglob(DESCRIPTION), key=_age)
    runs = sorted(folder.rglob(CHECKPOINT), key=_age)
    return [*_bundles(bundles), *(_run(path, str(run_of(path))) for path in runs)]


def _bundles(descriptions: list[Path]) -> Iterator[Choice]:
    for path in descriptions:
        try:
            yield _bundle(str(path.parent), "Export", str(path.parent))
        except (BundleError, TypeError, ValueError, AttributeError) as error:  # of its scores, too
            logging.getLogger(__name__).warning("left out: %s", error)


def mlflow_runs(besides: Set[str]) -> list[Choice]:
    """The runs with a checkpoint in MLflow's store, the newest first; nothing is downloaded.

    Args:
        besides: Ids of runs that are known already: one in outputs/ is mostly in the store too.
    """
    if not LOCAL_STORE.exists() and "MLFLOW_TRACKING_URI" not in os.environ:
        return []
    store = _client()
    experiments = [experiment.experiment_id for experiment in store.search_experiments()]
    choices = []
    for run in store.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=NEWEST):
        if run.info.run_id in besides:
            continue
        if any(file.path == CHECKPOINT for file in store.list_artifacts(run.info.run_id, "checkpoints")):
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
    trained = bundle.description.get("training", {})
    record = {
        **trained,
        "name": name,
        "synthetic": trained.get("data") == "synthetic",
        "test": bundle.scores.get("test"),
    }
    return _from_record(record, origin, "bundle", name_or_path)


def _run(checkpoint: Path, name: str) -> Choice:
    try:
        record = read_record(run_of(checkpoint) / "record.json", "name")
        return _from_record(record, "Run", "checkpoint", str(checkpoint))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return _from_record({"name": f"{name}, no record"}, "Run", "checkpoint", str(checkpoint))


def _from_record(record: dict[str, Any], origin: str, kind: str, place: str) -> Choice:
    accuracy = (record.get("test") or {}).get("accuracy")
    score = "" if accuracy is None else f" ({accuracy:.1%})"
    return Choice(
        f"{origin}: {record['name']}{score}", _about(record), bool(record.get("synthetic")), accuracy, kind, place
    )


def _about(record: dict[str, Any]) -> str:
    parts = [f"Trained on {record['data']}" if record.get("data") else "Trained on unknown data"]
    if record.get("protocol"):
        parts.append(f"protocol {record['protocol']}")
    if test := record.get("test"):
        low, high = test.get("accuracy_interval", (None, None))
        interval = f" ({low:.1%} to {high:.1%})" if low is not None else ""
        parts.append(f"right on {test['accuracy']:.1%}{interval} of the test pictures")
    return ", ".join(parts) + "."
