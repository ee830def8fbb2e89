"""Builds a bundle: graphs in every format, their comparison with PyTorch, description and model card."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from fer_lightning.export import graphs
from fer_lightning.export.description import description
from fer_lightning.export.graphs import Faces, Runner
from fer_lightning.export.model_card import model_card
from fer_lightning.export.parity import MAX_INT8_LOSS, accuracy, check_parity, compare, parity_table, run_in_batches
from fer_lightning.export.source import ExportSource
from fer_lightning.files import check_writable, sha256, write_json
from fer_lightning.inference.bundle import CARD, DESCRIPTION, Bundle
from fer_lightning.inference.images import read_image, to_input
from fer_lightning.inference.predict import FERPredictor
from fer_lightning.models.ensemble import Ensemble
from fer_lightning.models.network import FERNetwork
from fer_lightning.reporting import records
from fer_lightning.studies.trained import TrainedRun
from fer_lightning.training.calibration import calibration_scores, fit_temperature
from fer_lightning.training.evaluation import score_part
from fer_lightning.training.metrics import Predictions

FORMATS: Final = ("onnx", "executorch", "torch_export")
CALIBRATION_FACES: Final = 512
PARITY_FACES: Final = 1000

ONNX, ONNX_INT8 = "model.onnx", "model_int8.onnx"
EXECUTORCH, EXECUTORCH_INT8 = "model.pte", "model_int8.pte"
TORCH_EXPORT = "model.pt2"

T = TypeVar("T", bound=np.generic)


def export(
    source: ExportSource,
    out: Path | None = None,
    name: str | None = None,
    *,
    formats: Sequence[str] = ("onnx",),
    int8: bool = False,
    console: Console | None = None,
) -> Bundle:
    """Build a bundle and print the comparison of its graphs with PyTorch.

    Args:
        source: A trained network or an ensemble, with its data.
        out: Folder of the bundle, written atomically; an existing bundle is replaced. Default: `bundle` in the folder
            of the source.
        name: Name of the bundle; default: the name of its folder.
        formats: Formats from `FORMATS`; ONNX is always written.
        int8: Also write int8 graphs as ONNX and, if it is one of the formats, ExecuTorch.
        console: Console for the report.

    Raises:
        ExportError: A float export differs from PyTorch by more than `MAX_DIFFERENCE`, or int8 loses more than
            `MAX_INT8_LOSS` accuracy; no files are left behind.
        ValueError: A format is unknown, a package is missing, or `out` cannot be written or is not a bundle.
    """
    _check_packages(formats)
    out = (out or source.folder / "bundle").absolute()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / DESCRIPTION).is_file())):
        raise ValueError(f"out={out} exists and is not a bundle; give another folder")
    check_writable(out, f"out={out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        _build(folder, source, name or out.name, formats, int8, console or Console(quiet=True))
        for graph in Bundle.load(folder).graphs:
            FERPredictor.load(folder, graph=graph)  # raises if the graph does not match its description
        if out.exists():
            out.rename(Path(temporary) / "previous")
        folder.rename(out)
    return Bundle.load(out)


def _check_packages(formats: Sequence[str]) -> None:
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(f"format={unknown[0]} is unknown; formats are {', '.join(FORMATS)}")
    needed = ["onnx", "onnxscript", "onnxruntime"] + ["executorch", "torchao"] * ("executorch" in formats)
    if missing := [package for package in needed if find_spec(package) is None]:
        raise ValueError(f"export needs {', '.join(missing)}: pip install -e '.[export]'")


def _build(folder: Path, source: ExportSource, name: str, formats: Sequence[str], int8: bool, console: Console) -> None:
    """Write all files of a bundle into an empty folder."""
    net, network = source.first, source.network()
    size, channels = source.graph_input()
    origin = description(source, name, size, channels)
    faces = ExportFaces.of(net, size, channels)

    temperature = _fit_temperature(network, faces)
    calibration = _write_graphs(folder, network, faces, formats, int8)
    runners = _runners(folder, network)
    parity = compare(runners, faces.parity, faces.test.faces, faces.test.labels)
    console.print(parity_table(parity, f"{net.faces.name}, {net.split.name}"))
    check_parity(parity)

    run, _ = runners["ONNX"]
    scores = score_part(faces.test.predictions(run), "test", net.split, net.module.classes, 1000, net.config.seed)
    content = {
        **origin,
        "graphs": {
            kind: {"file": file, "sha256": sha256(folder / file)}
            for kind, file in {"float": ONNX, "int8": ONNX_INT8}.items()
            if (folder / file).exists()
        },
        "temperature": temperature,
        **({"calibration": calibration} if calibration else {}),
        "scores": {part: records.recorded_scores(row) for part, row in scores.items()},
        "parity": {kind: asdict(row) for kind, row in parity.items()},
    }
    write_json(folder / DESCRIPTION, content)
    (folder / CARD).write_text(model_card(content, scores["test"]["confusion_matrix"]), "utf-8")


class LabelledFaces(NamedTuple):
    """A part of the data, as inputs of the graph.

    Attributes:
        positions: int64 (N,), indices into the data set.
        faces: float32 (N, channels, size, size) in [0, 1].
        labels: int64 (N,).
    """

    positions: NDArray[np.int64]
    faces: Faces
    labels: NDArray[np.int64]

    def predictions(self, run: Runner) -> Predictions:
        """Predictions of a network or graph for these faces."""
        logits = run_in_batches(run, self.faces)
        return Predictions(torch.from_numpy(self.positions), torch.from_numpy(logits), torch.from_numpy(self.labels))


class ExportFaces(NamedTuple):
    """The faces that an export needs.

    Attributes:
        val: The val part, used to fit the temperature and to choose the int8 calibration.
        test: The test part, used for scores.
        calibration: Up to `CALIBRATION_FACES` of the val part, evenly spaced, used for the int8 ranges.
        parity: Up to `PARITY_FACES` of both parts, evenly spaced, used to compare exports with PyTorch.
    """

    val: LabelledFaces
    test: LabelledFaces
    calibration: Faces
    parity: Faces

    @classmethod
    def of(cls, net: TrainedRun, size: int, channels: int) -> ExportFaces:
        """Convert the faces of a run's data to float32 (channels, size, size)."""

        def part(name: str) -> LabelledFaces:
            positions = net.split.indices[name]
            faces = [to_input(read_image(image), size, channels) for image in net.faces.images[positions]]
            return LabelledFaces(positions, np.stack(faces), net.faces.labels[positions])

        val, test = part("val"), part("test")
        parity = np.concatenate([evenly_spaced(faces, PARITY_FACES // 2) for faces in (val.faces, test.faces)])
        return cls(val, test, evenly_spaced(val.faces, CALIBRATION_FACES), parity)


def evenly_spaced(rows: NDArray[T], count: int) -> NDArray[T]:
    """Select at most `count` evenly spaced rows."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64)]


def _fit_temperature(network: FERNetwork | Ensemble, faces: ExportFaces) -> dict[str, Any]:
    """Fit the temperature of a network on the val part and set it.

    Returns:
        Its entry in `bundle.json`, with the calibration error on the test part without it.
    """
    run = graphs.torch_runner(network)
    without = calibration_scores(faces.test.predictions(run))
    network.temperature = fit_temperature(faces.val.predictions(run))
    return {"value": network.temperature, "fitted_on": "val", "test_ece_without": without["ece"]}


def _write_graphs(
    folder: Path, network: FERNetwork | Ensemble, faces: ExportFaces, formats: Sequence[str], int8: bool
) -> str | None:
    """Write the graphs of all formats.

    Returns:
        The calibration of the int8 ONNX graph, one of `CALIBRATIONS`; None without int8.
    """
    channels, size = faces.calibration.shape[1:3]
    graphs.write_onnx(network, folder / ONNX, channels, size)
    calibration = _write_best_int8(folder / ONNX, folder / ONNX_INT8, faces) if int8 else None
    if "torch_export" in formats:
        graphs.write_torch_export(network, folder / TORCH_EXPORT, channels, size)
    if "executorch" in formats:
        graphs.write_executorch(network, folder / EXECUTORCH, channels, size)
        if int8:
            graphs.write_executorch(network, folder / EXECUTORCH_INT8, channels, size, faces.calibration)
    return calibration


def _write_best_int8(float_graph: Path, path: Path, faces: ExportFaces) -> str:
    """Write an int8 ONNX graph, calibrated by the first method with a small loss on the val part, else the best.

    Returns:
        The name of the calibration.
    """

    def val_accuracy(graph: Path) -> float:
        return accuracy(run_in_batches(graphs.onnx_runner(graph), faces.val.faces), faces.val.labels)

    required = val_accuracy(float_graph) - MAX_INT8_LOSS / 4
    accuracies: dict[str, float] = {}
    for name in graphs.CALIBRATIONS:
        graphs.write_int8(float_graph, path, faces.calibration, name)
        accuracies[name] = val_accuracy(path)
        if accuracies[name] >= required:
            return name
    best = max(accuracies, key=lambda name: accuracies[name])
    graphs.write_int8(float_graph, path, faces.calibration, best)
    return best


def _runners(folder: Path, network: FERNetwork | Ensemble) -> dict[str, tuple[Runner, Path | None]]:
    """Runner and file of the network and of each graph in the folder, by name in the parity report."""
    runners: dict[str, tuple[Runner, Path | None]] = {"PyTorch": (graphs.torch_runner(network), None)}
    one_thread = partial(graphs.onnx_runner, threads=1)
    for name, file, open_graph in (
        ("ONNX", ONNX, one_thread),
        ("ONNX int8", ONNX_INT8, one_thread),
        ("torch.export", TORCH_EXPORT, graphs.torch_export_runner),
        ("ExecuTorch", EXECUTORCH, graphs.executorch_runner),
        ("ExecuTorch int8", EXECUTORCH_INT8, graphs.executorch_runner),
    ):
        path = folder / file
        if path.exists():
            runners[name] = (open_graph(path), path)
    return runners
