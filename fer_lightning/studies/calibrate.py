"""`python -m fer_lightning calibrate checkpoint=...`: makes a net's confidence mean what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fer_lightning.cli.verb import checkpoint_verb
from fer_lightning.files import check_writable, sha256, write_json
from fer_lightning.reporting import figures
from fer_lightning.reporting.environment import commit
from fer_lightning.run.trainer import quiet
from fer_lightning.studies.trained import Trained
from fer_lightning.training.calibration import calibration_scores, fit_temperature, scaled
from fer_lightning.training.metrics import Predictions
from fer_lightning.training.reliability import reliability

HELP = """usage: python -m fer_lightning calibrate checkpoint=RUN [key=value ...]

Fits one temperature on the val part (Guo et al. 2017); no predicted class changes. Measures calibration error, negative
log likelihood and Brier score on the test part before and after, and draws both reliability diagrams. Both stay beside
the checkpoint, as best.VIEWS.calibration.json and .png. `export` fits one by itself.

  eval=plain          the views that it is fitted for; each needs a temperature of its own
"""


@dataclass(frozen=True)
class Calibration:
    """A temperature and what it does.

    Attributes:
        temperature: Divides the logits.
        val: The predictions that it was fitted on.
        test: Those that it is measured on.
    """

    temperature: float
    val: Predictions
    test: Predictions

    @classmethod
    def fit(cls, val: Predictions, test: Predictions) -> Calibration:
        """Fits on `val`; `test` has no say."""
        return cls(fit_temperature(val), val, test)

    def record(self) -> dict[str, Any]:
        """Temperature, and ECE, negative log likelihood and Brier score of both parts before and after."""
        rows = {
            f"{part}_{when}": calibration_scores(scaled(predictions, temperature))
            for part, predictions in (("val", self.val), ("test", self.test))
            for when, temperature in (("before", 1.0), ("after", self.temperature))
        }
        return {"temperature": self.temperature, **rows}


def save_diagram(calibration: Calibration, path: Path) -> Path:
    """Draws the reliability of the test part before and after into a png."""
    panels = {}
    for title, temperature in (
        ("before", 1.0),
        (f"temperature {calibration.temperature:.2f}", calibration.temperature),
    ):
        predictions = scaled(calibration.test, temperature)
        bins = reliability(predictions.probabilities, predictions.labels)
        panels[f"{title}: ECE {bins.ece:.1%}"] = (bins.count.numpy(), bins.confidence.numpy(), bins.accuracy.numpy())
    return figures.save(figures.reliability_diagram(panels), path)


def calibration_file(checkpoint: Path, views: str) -> Path:
    """Where the temperature of a checkpoint and its views is kept: `best.flip.calibration.json` beside `best.ckpt`."""
    return checkpoint.with_suffix(f".{views}.calibration.json")


def calibrate(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Fits a checkpoint's temperature, keeps it beside the checkpoint and draws what it does.

    Args:
        path: A checkpoint, or a run's folder.
        overrides: Hydra overrides on top of those of the run.

    Returns:
        What the file holds: `temperature`, the scores of `Calibration.record`, and what it was fitted for.
    """
    quiet()
    net = Trained.load(path, overrides)
    file = calibration_file(net.checkpoint, "_".join([net.views_name, *net.what_differs]))
    check_writable(file, "checkpoint")
    calibration = Calibration.fit(net.predictions("val"), net.predictions("test"))
    record = {
        **calibration.record(),
        "checkpoint_sha256": sha256(net.checkpoint),
        "evaluation": {key: net.evaluation[key] for key in ("views", "average")},
        "data": net.faces.name,
        "data_fingerprint": net.faces.fingerprint,
        "protocol": net.split.name,
        "commit": commit(),
    }
    write_json(file, record)
    drawn = save_diagram(calibration, file.with_suffix(".png"))
    _show(record, Console(), file, drawn)
    return record


def _show(record: dict[str, Any], console: Console, file: Path, drawn: Path) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for column in ("", "before", "after"):
        table.add_column(column, justify="right" if column else "left")
    before, after = record["test_before"], record["test_after"]
    for name, label in (("ece", "calibration error"), ("nll", "negative log likelihood"), ("brier", "Brier score")):
        table.add_row(label, f"{before[name]:.4f}", f"{after[name]:.4f}")
    console.print(
        f"temperature {record['temperature']:.3f}, fitted on the val part; on the test part:", highlight=False
    )
    console.print("", table, "")
    console.print(f"kept in {file}, drawn in {drawn}", highlight=False, soft_wrap=True)


def main(arguments: Sequence[str]) -> int:
    """The verb; returns its exit status."""
    parts = "a temperature is fitted on the val part and measured on the test part"
    return checkpoint_verb("calibrate", HELP, calibrate, arguments, {"eval.split": parts})
