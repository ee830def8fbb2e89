"""`python -m fer_lightning export checkpoint=...`: trained nets as a bundle, measured against PyTorch on real faces."""

from __future__ import annotations

import copy
import datetime
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from fer_lightning.cli.verb import run_verb
from fer_lightning.config import plain
from fer_lightning.export import graphs
from fer_lightning.export.graphs import Faces
from fer_lightning.export.model_card import model_card
from fer_lightning.export.parity import (
    MAX_INT8_LOSS,
    ExportError,
    Runner,
    accuracy,
    check,
    compare,
    in_batches,
    parity_table,
)
from fer_lightning.files import check_place, sha256, write_json
from fer_lightning.inference.bundle import CARD, DESCRIPTION, FORMAT, Bundle
from fer_lightning.inference.images import read_picture, to_input
from fer_lightning.inference.predict import FERPredictor
from fer_lightning.models.ensemble import Ensemble
from fer_lightning.models.network import FERNetwork, count_parameters, size_learnt_from
from fer_lightning.overrides import train_command
from fer_lightning.reporting import records
from fer_lightning.reporting.environment import environment
from fer_lightning.run.trainer import quiet
from fer_lightning.run_folder import run_of
from fer_lightning.studies.ensemble.command import check_compatible
from fer_lightning.studies.trained import Trained
from fer_lightning.training.calibration import calibration_scores, fit_temperature
from fer_lightning.training.checkpoint_io import checkpoint_of
from fer_lightning.training.evaluation import score_part
from fer_lightning.training.metrics import Predictions
from fer_lightning.training.soft_voting import ensemble_members

HELP = """usage: python -m fer_lightning export checkpoint=RUN [key=value ...]

Makes a bundle: a folder with the network as ONNX, what is to know of it, and how it answers beside PyTorch. RUN is a
run's folder, a checkpoint, or the folder of an ensemble, whose nets then vote inside of one graph. Confidences are made
true by one temperature, fitted on the validation part and divided by inside the graph.

  out=FOLDER              where to; RUN/bundle unless given
  name=NAME               what people call it; the name of the folder unless given
  int8=true               also as static int8, calibrated on faces of the validation part
  format=executorch       besides ONNX: executorch (model.pte) or torch_export (model.pt2)
  mlflow=true             also log it as an MLflow model, which mlflow.pyfunc loads and `mlflow models serve` serves
  data.path=fer2013.csv   any change to the run's configuration, where the data has moved

Replace the model that comes with the package:

  python -m fer_lightning export checkpoint=RUN int8=true out=fer_lightning/inference/bundles/default

Exit status: 0 done, 1 the export answers otherwise than PyTorch and was not kept, 2 wrong use.
"""

FORMATS: Final = ("onnx", "executorch", "torch_export")
CALIBRATION_FACES: Final = 512
COMPARED_FACES: Final = 1000


@dataclass(frozen=True)
class ExportSource:
    """What is exported: a trained net, or several that vote.

    Attributes:
        folder: Of the run, or of the ensemble.
        nets: One or more, alike in data, protocol and classes.
        weights: How much each one's vote counts.
        command: What repeats them.
    """

    folder: Path
    nets: Sequence[Trained]
    weights: Sequence[float]
    command: str

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str]) -> ExportSource:
        """Loads the nets and opens their data.

        Args:
            path: A checkpoint, or the folder of a run or an ensemble.
            overrides: Hydra overrides on top of those of each run.

        Raises:
            FileNotFoundError: A checkpoint is not there.
            ValueError: One is none of this project, has learnt what it would be measured on, or the nets cannot vote
                together.
        """
        named = ensemble_members(path)
        nets = [Trained.load(checkpoint, overrides) for checkpoint, _ in named]
        for net in nets[1:]:
            check_compatible(nets[0], net)
        for net in nets:
            net.refuse_seen_pictures("val")
            net.refuse_seen_pictures("test")
        weights = [weight for _, weight in named]
        if named[0][0] == checkpoint_of(path):
            return cls(run_of(nets[0].checkpoint), nets, weights, _command(nets[0]))
        return cls(path, nets, weights, str(records.read_record(path / "record.json")["command"]))

    @property
    def first(self) -> Trained:
        """The net whose data, protocol and classes are those of all."""
        return self.nets[0]

    def network(self) -> FERNetwork | Ensemble:
        """From pixels to logits, ready for exporters."""
        networks = [exportable(net.module.network) for net in self.nets]
        return Ensemble(networks, self.weights).eval().requires_grad_(False) if len(networks) > 1 else networks[0]

    def graph_input(self) -> tuple[int, int]:
        """Size and channels of what the graph takes: as much as the net that looks at most."""
        inputs = [size_learnt_from(net.module.network, net.faces.images.shape[1:]) for net in self.nets]
        return max(size for size, _ in inputs), max(channels for _, channels in inputs)


def _command(net: Trained) -> str:
    return train_command(net.provenance["overrides"])


def export(
    source: ExportSource,
    out: Path | None = None,
    name: str | None = None,
    *,
    formats: Sequence[str] = ("onnx",),
    int8: bool = False,
    console: Console | None = None,
) -> Bundle:
    """Makes a bundle.

    Args:
        source: A trained net, or several that vote, and their data.
        out: The bundle's folder, made whole or not at all; replaced where it is a bundle already.
        name: What people call it.
        formats: Some of `FORMATS`; ONNX is always made.
        int8: Whether to make int8 copies.
        console: Prints the report.

    Raises:
        ExportError: A float export differs from PyTorch by more than `MAX_DIFFERENCE`, or int8 loses more than
            `MAX_INT8_LOSS`; nothing is left behind.
        ValueError: An argument cannot be, or a package is missing.
    """
    _check_packages(formats)
    out = (out or source.folder / "bundle").absolute()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / DESCRIPTION).is_file())):
        raise ValueError(f"out={out} exists and is no bundle; name another folder")
    check_place(out, f"out={out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as aside:
        folder = Path(aside) / "new"
        folder.mkdir()
        _fill(folder, source, name or out.name, formats, int8, console or Console(quiet=True))
        if out.exists():
            out.rename(Path(aside) / "before")
        folder.rename(out)
    return Bundle.load(out)


def _check_packages(formats: Sequence[str]) -> None:
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(f"format={unknown[0]} is unknown; there are {', '.join(FORMATS)}")
    needed = ["onnx", "onnxscript", "onnxruntime"] + ["executorch", "torchao"] * ("executorch" in formats)
    if missing := [package for package in needed if find_spec(package) is None]:
        raise ValueError(f"exporting needs {', '.join(missing)}: pip install -e '.[export]'")


def _fill(folder: Path, source: ExportSource, name: str, formats: Sequence[str], int8: bool, console: Console) -> None:
    """Writes all files of a bundle and measures them."""
    net, network = source.first, source.network()
    size, channels = source.graph_input()
    describe = description(source, name, size, channels)
    describe["graphs"] = {}
    _write_description(folder, describe, card="")

    def keep(kind: str, file: str) -> None:
        describe["graphs"][kind] = {"file": file, "sha256": sha256(folder / file)}
        _write_description(folder, describe, card="")

    def faces_of(positions: NDArray[np.int64]) -> Faces:
        return np.stack([to_input(read_picture(image), size, channels) for image in net.faces.images[positions]])

    val, test = net.split.indices["val"], net.split.indices["test"]
    calibration = faces_of(evenly(val, CALIBRATION_FACES))
    compared = faces_of(np.concatenate([evenly(part, COMPARED_FACES // 2) for part in (val, test)]))
    val_faces, test_faces, test_labels = faces_of(val), faces_of(test), net.faces.labels[test]

    run = graphs.torch_runner(network)
    without = _predictions(test, in_batches(run, test_faces), net)
    network.temperature = fit_temperature(_predictions(val, in_batches(run, val_faces), net))
    describe["temperature"] = {
        "value": network.temperature,
        "fitted_on": "val",
        "test_ece_without": calibration_scores(without)["ece"],
    }

    graphs.write_onnx(network, folder / "model.onnx", channels, size)
    keep("float", "model.onnx")
    whole = FERPredictor.load(folder, threads=1)

    runners: dict[str, tuple[Runner, Path | None]] = {
        "PyTorch": (run, None),
        "ONNX": (whole.logits, folder / "model.onnx"),
    }
    if int8:
        describe["calibration"] = _best_int8(folder, whole, calibration, val_faces, net.faces.labels[val], keep)
        predictor = FERPredictor.load(folder, graph="int8", threads=1)
        runners["ONNX int8"] = (predictor.logits, folder / "model_int8.onnx")
    if "torch_export" in formats:
        path = folder / "model.pt2"
        graphs.write_torch_export(network, path, channels, size)
        runners["torch.export"] = (graphs.torch_runner(torch.export.load(path).module()), path)
    if "executorch" in formats:
        path = folder / "model.pte"
        graphs.write_executorch(network, path, channels, size)
        runners["ExecuTorch"] = (graphs.executorch_runner(path), path)
        if int8:
            path = folder / "model_int8.pte"
            graphs.write_executorch(network, path, channels, size, calibration)
            runners["ExecuTorch int8"] = (graphs.executorch_runner(path), path)
    parity = compare(runners, compared, test_faces, test_labels)
    console.print(parity_table(parity, f"{net.faces.name}, {net.split.name}"))
    check(parity)

    predictions = _predictions(test, whole.logits(test_faces), net)
    scores = score_part(predictions, "test", net.split, net.module.classes, 1000, net.config.seed)
    describe["scores"] = {part: records.recorded(row) for part, row in scores.items()}
    describe["parity"] = {kind: asdict(row) for kind, row in parity.items()}
    _write_description(folder, describe, model_card(describe, scores["test"]["confusion_matrix"]))


def _predictions(positions: NDArray[np.int64], logits: Faces, net: Trained) -> Predictions:
    return Predictions(
        torch.from_numpy(positions), torch.from_numpy(logits), torch.from_numpy(net.faces.labels[positions])
    )


def exportable(network: FERNetwork) -> FERNetwork:
    """A float32 copy on the CPU, ready for exporters."""
    ready = copy.deepcopy(network).cpu().float().eval()
    ready.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stubs lack it
    return ready.requires_grad_(False)


def evenly(positions: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most `count` of these positions, evenly spaced."""
    return positions[np.linspace(0, len(positions) - 1, min(count, len(positions))).round().astype(np.int64)]


def _best_int8(
    folder: Path,
    whole: FERPredictor,
    calibration: Faces,
    faces: Faces,
    labels: NDArray[np.int64],
    keep: Callable[[str, str], None],
) -> str:
    """Writes `model_int8.onnx`, by the first calibration that loses next to nothing on the validation part.

    Returns:
        The name of that calibration, or of the best one.
    """
    goal = accuracy(whole.logits(faces), labels) - MAX_INT8_LOSS / 4
    found: dict[str, float] = {}

    def write(name: str) -> None:
        graphs.write_int8(folder / "model.onnx", folder / "model_int8.onnx", calibration, name)
        keep("int8", "model_int8.onnx")

    for name in graphs.CALIBRATIONS:
        write(name)
        found[name] = accuracy(FERPredictor.load(folder, graph="int8").logits(faces), labels)
        if found[name] >= goal:
            return name
    best = max(found, key=lambda name: found[name])
    write(best)
    return best


def description(source: ExportSource, name: str, size: int, channels: int) -> dict[str, Any]:
    """The description in a bundle, before anything is measured."""
    net = source.first
    return {
        "format": FORMAT,
        "name": name,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "classes": net.module.classes,
        "input": {
            "name": "image",
            "size": size,
            "channels": channels,
            "dtype": "float32",
            "layout": "batch, channel, row, column",
            "range": [0, 1],
            "resize": "to a square, bilinear, antialiased where it shrinks",
            "gray": "ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B",
        },
        "output": {"name": "logits", "activation": "softmax gives the probabilities"},
        "training": {
            "data": net.provenance["data"],
            "data_fingerprint": net.provenance["data_fingerprint"],
            "protocol": net.provenance["protocol"],
            "command": source.command,
            "parameters": sum(count_parameters(each.module.network) for each in source.nets),
        },
        "networks": [_network(net, weight) for net, weight in zip(source.nets, source.weights, strict=True)],
        "measured_on": {"data": net.faces.name, "data_fingerprint": net.faces.fingerprint, "protocol": net.split.name},
        "views": "one look at each picture",
        **environment(),
    }


def _network(net: Trained, weight: float) -> dict[str, Any]:
    """The description of one network in a bundle."""
    network = net.module.network
    return {
        "weight": weight,
        "command": _command(net),
        "model": {key: value for key, value in plain(net.module.hparams["model"]).items() if key != "weights"},
        "mean": network.mean.flatten().tolist(),
        "std": network.std.flatten().tolist(),
        "parameters": count_parameters(network),
        "epoch": net.module.history[-1]["epoch"] if net.module.history else None,
        "checkpoint_sha256": sha256(net.checkpoint),
    }


def _write_description(folder: Path, content: Mapping[str, Any], card: str) -> None:
    write_json(folder / DESCRIPTION, content)
    (folder / CARD).write_text(card)


def main(arguments: Sequence[str]) -> int:
    """The verb; returns its exit status."""

    def act(given: Mapping[str, str], overrides: Sequence[str]) -> int:
        int8, to_mlflow = (_switch(key, given.get(key, "false")) for key in ("int8", "mlflow"))
        quiet()
        console = Console()
        source = ExportSource.load(Path(given["checkpoint"]), overrides)
        out = Path(given["out"]) if "out" in given else None
        formats = given.get("format", "onnx").split(",")
        try:
            bundle = export(source, out, given.get("name"), formats=formats, int8=int8, console=console)
        except ExportError as error:
            print(f"fer export: {error}; nothing was kept", file=sys.stderr)
            return 1
        console.print(f"bundle: {os.path.relpath(bundle.place)}", soft_wrap=True, highlight=False)
        if to_mlflow:
            from fer_lightning.export.mlflow_run import log_model

            model, store = log_model(bundle, plain(source.first.config.tracking))
            console.print(f"MLflow model: {model}, under MLFLOW_TRACKING_URI={store}", soft_wrap=True, highlight=False)
        return 0

    own = ("checkpoint", "out", "name", "format", "int8", "mlflow")
    once = "a graph looks at each face once, and its scores are those of the test part"
    return run_verb("export", HELP, act, arguments, own, {"eval": once})


def _switch(key: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError(f"{key} is {value!r}; it must be true or false")
    return value == "true"
