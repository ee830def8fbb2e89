"""`python -m fer_lightning calibrate checkpoint=...`: calibrates a network by temperature scaling."""

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
from fer_lightning.reporting.environment import COMMIT
from fer_lightning.run.trainer import quiet
from fer_lightning.studies.trained import TrainedRun
from fer_lightning.training.calibration import calibration_scores, fit_temperature, scale_logits
from fer_lightning.training.metrics import Predictions
from fer_lightning.training.reliability import reliability

HELP = """usage: python -m fer_lightning calibrate checkpoint=RUN [key=value ...]

Fits one temperature on the val part (Guo et al. 2017); no predicted class changes. Measures calibration error, negative
log-likelihood and Brier score on the test part before and after, and plots both reliability diagrams. Both are saved
beside the checkpoint, as best.VIEWS.calibration.json and .png. `export` fits its own temperature.

  eval=plain          the test-time views; each kind needs its own temperature
"""


@dataclass(frozen=True)
class Calibration:
    """A temperature, with the predictions that it was fitted and is evaluated on.

    Attributes:
        temperature: Divides the logits.
        val: Predictions that it was fitted on.
        test: Predictions that it is evaluated on.
    """

    temperature: float
    val: Predictions
    test: Predictions

    @classmethod
    def fit(cls, val: Predictions, test: Predictions) -> Calibration:
        """Fit the temperature on `val`; `test` does not influence it."""
        return cls(fit_temperature(val), val, test)

    def record(self) -> dict[str, Any]:
        """Return the temperature, and ECE, negative log-likelihood and Brier score of both parts before and after."""
        rows = {
            f"{part}_{when}": calibration_scores(scale_logits(predictions, temperature))
            for part, predictions in (("val", self.val), ("test", self.test))
            for when, temperature in (("before", 1.0), ("after", self.temperature))
        }
        return {"temperature": self.temperature, **rows}


def save_diagram(calibration: Calibration, path: Path) -> Path:
    """Save the reliability diagrams of the test part before and after as a PNG."""
    panels = {}
    for title, temperature in (
        ("Before", 1.0),
        (f"Temperature {calibration.temperature:.2f}", calibration.temperature),
    ):
        predictions = scale_logits(calibration.test, temperature)
        bins = reliability(predictions.probabilities, predictions.labels)
        panels[f"{title}: ECE {bins.ece:.1%}"] = (bins.count.numpy(), bins.confidence.numpy(), bins.accuracy.numpy())
    return figures.save(figures.reliability_diagram(panels), path)


def calibration_file(checkpoint: Path, views: str) -> Path:
    """Return the path of a checkpoint's calibration for given views: `best.flip.calibration.json` for `best.ckpt`."""
    return checkpoint.with_suffix(f".{views}.calibration.json")


def calibrate(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Fit a checkpoint's temperature, and save it and its reliability diagrams beside the checkpoint.

    Args:
        path: A checkpoint, or a run's folder.
        overrides: Hydra overrides on top of those of the run.

    Returns:
        The content of the file: `temperature`, the scores of `Calibration.record`, and the checkpoint, views and data.
    """
    quiet()
    trained = TrainedRun.load(path, overrides)
    file = calibration_file(trained.checkpoint, "_".join([trained.views_name, *trained.changes]))
    check_writable(file, "checkpoint")
    calibration = Calibration.fit(trained.predictions("val"), trained.predictions("test"))
    record = {
        **calibration.record(),
        "checkpoint_sha256": sha256(trained.checkpoint),
        "evaluation": {key: trained.evaluation[key] for key in ("views", "average")},
        "data": trained.faces.name,
        "data_fingerprint": trained.faces.fingerprint,
        "protocol": trained.split.name,
        "commit": COMMIT,
    }
    write_json(file, record)
    diagram = save_diagram(calibration, file.with_suffix(".png"))
    _show(record, Console(), file, diagram)
    return record


def _show(record: dict[str, Any], console: Console, file: Path, diagram: Path) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for column in ("", "before", "after"):
        table.add_column(column, justify="right" if column else "left")
    before, after = record["test_before"], record["test_after"]
    for name, label in (("ece", "calibration error"), ("nll", "negative log-likelihood"), ("brier", "Brier score")):
        table.add_row(label, f"{before[name]:.4f}", f"{after[name]:.4f}")
    console.print(
        f"temperature {record['temperature']:.3f}, fitted on the val part; scores on the test part:", highlight=False
    )
    console.print("", table, "")
    console.print(f"saved to {file}, diagrams to {diagram}", markup=False, highlight=False, soft_wrap=True)


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand and return its exit status."""
    parts = "the temperature is fitted on the val part and measured on the test part"
    return checkpoint_verb("calibrate", HELP, calibrate, arguments, {"eval.split": parts})
