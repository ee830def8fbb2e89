"""`python -m fer_lightning export checkpoint=...`: exports a trained network as a bundle."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from fer_lightning.cli.verb import run_verb
from fer_lightning.config import to_container
from fer_lightning.export.build import export
from fer_lightning.export.parity import ExportError
from fer_lightning.export.source import ExportSource
from fer_lightning.run.trainer import quiet

HELP = """usage: python -m fer_lightning export checkpoint=RUN [key=value ...]

Creates a bundle: a folder with the network as ONNX, its description and its comparison with PyTorch. RUN is the folder
of a run, a checkpoint, or the folder of an ensemble, which becomes one graph. Confidences are calibrated: one
temperature, fitted on the validation split, divides the logits inside the graph.

  out=FOLDER              output folder (default: RUN/bundle)
  name=NAME               name of the bundle (default: name of the folder)
  int8=true               also write static int8, calibrated on faces of the validation split
  format=executorch       also write executorch (model.pte) or torch_export (model.pt2)
  mlflow=true             also log the bundle as an MLflow model for mlflow.pyfunc and `mlflow models serve`
  data.path=fer2013.csv   any override of the run's configuration, for example if the data has moved

To replace the bundled model:

  python -m fer_lightning export checkpoint=RUN name=NAME int8=true out=fer_lightning/inference/bundles/default

Exit status: 0 done, 1 the export deviates too much from PyTorch and was discarded, 2 usage error.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand and return its exit status."""
    own_arguments = ("checkpoint", "out", "name", "format", "int8", "mlflow")
    single_view = "a graph uses a single view of each face, and its scores are those of the test part"
    return run_verb("export", HELP, _run, arguments, own_arguments, {"eval": single_view})


def _run(given: Mapping[str, str], overrides: Sequence[str]) -> int:
    int8, to_mlflow = (_switch(key, given.get(key, "false")) for key in ("int8", "mlflow"))
    quiet()
    console = Console(markup=False)  # a path may contain brackets
    source = ExportSource.load(Path(given["checkpoint"]), overrides)
    out = Path(given["out"]) if "out" in given else None
    formats = given.get("format", "onnx").split(",")
    try:
        bundle = export(source, out, given.get("name"), formats=formats, int8=int8, console=console)
    except ExportError as error:
        print(f"fer export: {error}; the export was discarded", file=sys.stderr)
        return 1
    folder = bundle.path.relative_to(Path.cwd()) if bundle.path.is_relative_to(Path.cwd()) else bundle.path
    console.print(f"bundle: {folder}", soft_wrap=True, highlight=False)
    if to_mlflow:
        from fer_lightning.export.mlflow_run import log_model

        model, store = log_model(bundle, to_container(source.first.config.tracking))
        console.print(f"MLflow model: {model}, under MLFLOW_TRACKING_URI={store}", soft_wrap=True, highlight=False)
    return 0


def _switch(key: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError(f"{key} is {value!r}; it must be true or false")
    return value == "true"
