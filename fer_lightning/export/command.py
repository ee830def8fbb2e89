"""`python -m fer_lightning export checkpoint=...`: a trained network as a bundle, compared with PyTorch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from fer_lightning.cli.verb import run_verb
from fer_lightning.config import plain
from fer_lightning.export.build import export
from fer_lightning.export.parity import ExportError
from fer_lightning.export.source import ExportSource
from fer_lightning.run.trainer import quiet

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


def main(arguments: Sequence[str]) -> int:
    """The verb; returns its exit status."""
    own = ("checkpoint", "out", "name", "format", "int8", "mlflow")
    once = "a graph looks at each face once, and its scores are those of the test part"
    return run_verb("export", HELP, _run, arguments, own, {"eval": once})


def _run(given: Mapping[str, str], overrides: Sequence[str]) -> int:
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


def _switch(key: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError(f"{key} is {value!r}; it must be true or false")
    return value == "true"
