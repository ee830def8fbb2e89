"""`python -m fer_lightning export checkpoint=...`: a checkpoint as a bundle, measured against PyTorch on real faces."""

from __future__ import annotations

import copy
import datetime
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from hydra.errors import HydraException
from numpy.typing import NDArray
from omegaconf.errors import OmegaConfBaseException
from rich import box
from rich.console import Console
from rich.table import Table

from fer_lightning.config import plain
from fer_lightning.inference import graphs
from fer_lightning.inference.bundle import CARD, DESCRIPTION, FORMAT, Bundle
from fer_lightning.inference.graphs import Faces
from fer_lightning.inference.images import read_picture, to_input
from fer_lightning.inference.model_card import model_card
from fer_lightning.inference.predict import BATCH, FERPredictor
from fer_lightning.models.cost import median_milliseconds
from fer_lightning.models.network import FERNetwork, count_parameters
from fer_lightning.reporting import records
from fer_lightning.run import quiet
from fer_lightning.studies.trained import Trained, sha256
from fer_lightning.training.calibration import calibration_scores, fit_temperature
from fer_lightning.training.evaluation import score_part
from fer_lightning.training.metrics import Predictions
from fer_lightning.training.trouble import one_clear_sentence

HELP = """usage: python -m fer_lightning export checkpoint=RUN/checkpoints/best.ckpt [key=value ...]

Makes a bundle: a folder with the network as ONNX, what is to know of it, and how it answers beside PyTorch. Its
confidences are made true by one temperature, fitted on the validation part and divided by inside the graph.

  out=FOLDER              where to; RUN/bundle unless given
  name=NAME               what people call it; the name of the folder unless given
  int8=true               also as static int8, calibrated on faces of the validation part
  format=executorch       besides ONNX: executorch (model.pte) or torch_export (model.pt2)
  mlflow=true             also log it as an MLflow model, which mlflow.pyfunc loads and `mlflow models serve` serves
  data.path=fer2013.csv   any change to the run's configuration, where the data has moved

Replace the model that comes with the package:

  python -m fer_lightning export checkpoint=... int8=true out=fer_lightning/inference/models/default

Exit status: 0 done, 1 the export answers otherwise than PyTorch and was not kept, 2 wrong use.
"""

FORMATS: Final = ("onnx", "executorch", "torch_export")
MAX_DIFFERENCE: Final = 1e-4
"""Between PyTorch's probabilities and those of a float export."""

MAX_INT8_LOSS: Final = 0.01
"""Of accuracy on the test part."""

CALIBRATION_FACES: Final = 512
COMPARED_FACES: Final = 1000

Runner = Callable[[Faces], Faces]
"""From faces (N, channels, size, size) to logits (N, classes)."""


class ExportError(Exception):
    """An export answers otherwise than the network it was made from."""


@dataclass(frozen=True)
class Parity:
    """How an export answers beside PyTorch.

    Attributes:
        max_probability_difference: The largest over faces of the val and test parts and all classes.
        max_logit_difference: Likewise.
        agreement: Share of these faces that get the same label.
        faces: Their number.
        test_accuracy: On the whole test part, one look at each picture.
        bytes: Size of the file.
        milliseconds: Median for one face on one thread.
    """

    max_probability_difference: float
    max_logit_difference: float
    agreement: float
    faces: int
    test_accuracy: float
    bytes: int
    milliseconds: float


def export(
    net: Trained,
    out: Path | None = None,
    name: str | None = None,
    *,
    formats: Sequence[str] = ("onnx",),
    int8: bool = False,
    console: Console | None = None,
) -> Bundle:
    """Makes a bundle from a trained net.

    Args:
        net: The net and its data.
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
    out = (out or net.run / "bundle").absolute()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / DESCRIPTION).is_file())):
        raise ValueError(f"out={out} exists and is no bundle; name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as aside:
        folder = Path(aside) / "new"
        folder.mkdir()
        _fill(folder, net, name or out.name, formats, int8, console or Console(quiet=True))
        if out.exists():
            out.rename(Path(aside) / "before")
        folder.rename(out)
    return Bundle.load(out)


def _check_packages(formats: Sequence[str]) -> None:
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(f"format={unknown[0]} is unknown; there are {', '.join(FORMATS)}")
    needed = ["onnx", "onnxscript", "onnxruntime"] + ["executorch", "torchao"] * ("executorch" in formats)
    if missing := [package for package in needed if find_spec(package) is None]:
        raise ValueError(f"exporting needs {', '.join(missing)}: pip install '.[export]'")


def _fill(folder: Path, net: Trained, name: str, formats: Sequence[str], int8: bool, console: Console) -> None:
    """Writes all files of a bundle and measures them."""
    network = exportable(net.module.network)
    size, channels = graph_input(network, net.faces.images.shape[1:])
    describe = description(net, network, name, size, channels)
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
    without = _predictions(test, _in_batches(run, test_faces), net)
    network.temperature = fit_temperature(_predictions(val, _in_batches(run, val_faces), net))
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
    console.print(parity_table(parity, net))
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


def graph_input(network: FERNetwork, picture: tuple[int, ...]) -> tuple[int, int]:
    """Size and channels of what the graph takes: what the network saw in training, but no more than it looks at.

    A network that enlarges 48 px to 224 px learnt from enlarged pictures, so its graph enlarges too.

    Args:
        network: The network.
        picture: Shape of the pictures that it was trained on, (H, W) or (H, W, 3).
    """
    size = min(network.image_size, max(picture[:2]))
    return size, min(network.channels, 3 if len(picture) == 3 else 1)


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


def compare(
    runners: Mapping[str, tuple[Runner, Path | None]], faces: Faces, test_faces: Faces, test_labels: NDArray[np.int64]
) -> dict[str, Parity]:
    """Measures exports against the first of them, which is PyTorch.

    Args:
        runners: What answers, and its file.
        faces: Compared one by one.
        test_faces: Scored.
        test_labels: Their labels.
    """
    rows = {}
    reference: Faces | None = None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, (run, path) in runners.items():
            logits = _in_batches(run, faces)
            reference = logits if reference is None else reference
            rows[name] = Parity(
                max_probability_difference=float(np.abs(_softmax(logits) - _softmax(reference)).max()),
                max_logit_difference=float(np.abs(logits - reference).max()),
                agreement=float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean()),
                faces=len(faces),
                test_accuracy=accuracy(_in_batches(run, test_faces), test_labels),
                bytes=path.stat().st_size if path else 0,
                milliseconds=median_milliseconds(partial(run, faces[:1])),
            )
    finally:
        torch.set_num_threads(threads)
    return rows


def check(parity: Mapping[str, Parity]) -> None:
    """Lets exports pass that answer as PyTorch does.

    Raises:
        ExportError: One does not; the message names it.
    """
    goal = parity["PyTorch"].test_accuracy - MAX_INT8_LOSS
    for name, row in parity.items():
        if name.endswith("int8"):
            if row.test_accuracy < goal:
                lost = 100 * (parity["PyTorch"].test_accuracy - row.test_accuracy)
                raise ExportError(f"{name} loses {lost:.1f} points of accuracy, more than {100 * MAX_INT8_LOSS:g}")
        elif not row.max_probability_difference <= MAX_DIFFERENCE:
            raise ExportError(
                f"{name} differs from PyTorch by {row.max_probability_difference:.1e}, more than {MAX_DIFFERENCE:g}"
            )


def accuracy(logits: Faces, labels: NDArray[np.int64]) -> float:
    """The share of right answers."""
    return float((logits.argmax(axis=1) == labels).mean())


def _in_batches(run: Runner, faces: Faces) -> Faces:
    return np.concatenate([run(faces[start : start + BATCH]) for start in range(0, len(faces), BATCH)])


def _softmax(logits: Faces) -> NDArray[np.float64]:
    return torch.from_numpy(logits).double().softmax(dim=1).numpy()


def description(net: Trained, network: FERNetwork, name: str, size: int, channels: int) -> dict[str, Any]:
    """What a bundle says of its network, before anything is measured."""
    epoch = net.module.history[-1] if net.module.history else {}
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
        "inside_the_graph": {
            "image_size": network.image_size,
            "channels": network.channels,
            "mean": network.mean.flatten().tolist(),
            "std": network.std.flatten().tolist(),
        },
        "training": {
            "data": net.provenance["data"],
            "data_fingerprint": net.provenance["data_fingerprint"],
            "protocol": net.provenance["protocol"],
            "command": records.masked(records.command(net.provenance["overrides"])),
            "model": {key: value for key, value in plain(net.module.hparams["model"]).items() if key != "weights"},
            "parameters": count_parameters(network),
            "epoch": epoch.get("epoch"),
            "checkpoint_sha256": sha256(net.checkpoint),
        },
        "measured_on": {"data": net.faces.name, "data_fingerprint": net.faces.fingerprint, "protocol": net.split.name},
        "views": "one look at each picture",
        "commit": records.commit(),
        "machine": records.machine(),
        "versions": records.versions(),
    }


def _write_description(folder: Path, content: Mapping[str, Any], card: str) -> None:
    records.write_json(folder / DESCRIPTION, content)
    (folder / CARD).write_text(card)


def parity_table(parity: Mapping[str, Parity], net: Trained) -> Table:
    """The parity report."""
    faces = next(iter(parity.values())).faces
    table = Table(
        title=f"Against PyTorch on {faces:,} faces of {net.faces.name}, {net.split.name}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    table.add_column("", no_wrap=True)
    for column in ("probability\noff by", "logit\noff by", "same\nlabel", "test\naccuracy", "\nMB", "ms a\nface"):
        table.add_column(column, justify="right")
    for name, row in parity.items():
        table.add_row(
            name,
            f"{row.max_probability_difference:.1e}",
            f"{row.max_logit_difference:.1e}",
            f"{row.agreement:.1%}",
            f"{row.test_accuracy:.2%}",
            f"{row.bytes / 1e6:.2f}" if row.bytes else "",
            f"{row.milliseconds:.2f}",
        )
    return table


def main(arguments: Sequence[str]) -> int:
    """The verb; returns its exit status."""
    if not arguments or "--help" in arguments or "-h" in arguments:
        print(HELP)
        return 0 if arguments else 2
    own = ("checkpoint", "out", "name", "format", "int8", "mlflow")
    words = [word.partition("=") for word in arguments]
    given = {key: value for key, _, value in words if key in own}
    overrides = [word for word, (key, _, _) in zip(arguments, words, strict=True) if key not in own]
    console = Console()
    try:
        with one_clear_sentence():
            int8, to_mlflow = (_switch(key, given.get(key, "false")) for key in ("int8", "mlflow"))
            if not given.get("checkpoint"):
                raise ValueError("give one checkpoint=RUN/checkpoints/best.ckpt")
            quiet()
            net = Trained.load(Path(given["checkpoint"]), overrides)
            out = Path(given["out"]) if given.get("out") else None
            formats = given.get("format", "onnx").split(",")
            bundle = export(net, out, given.get("name"), formats=formats, int8=int8, console=console)
            console.print(f"bundle: {os.path.relpath(bundle.place)}", soft_wrap=True, highlight=False)
            if to_mlflow:
                from fer_lightning.inference.mlflow_model import log_model

                uri = log_model(bundle, plain(net.config.tracking))
                console.print(f"MLflow model: {uri}", soft_wrap=True, highlight=False)
    except ExportError as error:
        print(f"fer export: {error}; nothing was kept", file=sys.stderr)
        return 1
    except (HydraException, OmegaConfBaseException, OSError) as error:
        print(f"fer export: {error}", file=sys.stderr)
        return 2
    return 0


def _switch(key: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError(f"{key} is {value!r}; it must be true or false")
    return value == "true"
