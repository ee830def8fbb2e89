"""`python -m fer_lightning evaluate checkpoint=...`: evaluates a trained network again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fer_lightning.cli.verb import checkpoint_verb
from fer_lightning.files import check_writable, write_json
from fer_lightning.overrides import verb_command
from fer_lightning.reporting import records, tables
from fer_lightning.reporting.environment import environment
from fer_lightning.reporting.report import write_report
from fer_lightning.run.trainer import quiet
from fer_lightning.run_folder import RECORD
from fer_lightning.studies.trained import TrainedRun
from fer_lightning.training.evaluation import score_part
from fer_lightning.training.metrics import Scores

HELP = """usage: python -m fer_lightning evaluate checkpoint=RUN [key=value ...]

Evaluates a checkpoint with the data, protocol and views of its own run, or with your overrides:

  eval=tta                                   plain, flip, tta, five_crop, ten_crop or rotations
  eval.split=val                             PublicTest instead of PrivateTest: select on it, never on the test part
  data=fer2013 data.path=fer2013.csv         the data set, if it has moved

The report is written to evaluate_VIEWS_PART/ in the run's folder; the name also lists what differs from the run, such
as the data set, the protocol or last.ckpt.
"""


def evaluate(checkpoint: Path, overrides: Sequence[str]) -> dict[str, Scores]:
    """Evaluate a checkpoint and write the report beside its run.

    Args:
        checkpoint: A `best.ckpt` or `last.ckpt`, or a run's folder.
        overrides: Hydra overrides on top of those of the run.

    Returns:
        Scores by part.
    """
    quiet()
    trained = TrainedRun.load(checkpoint, overrides)
    console = Console()
    faces, evaluation = trained.faces, trained.evaluation
    if faces.fingerprint != trained.provenance["data_fingerprint"]:
        console.print(
            f"The network was trained on {trained.provenance['data']}, not on the current {faces.name} data.",
            style="yellow",
            markup=False,
        )
    part = evaluation["split"]
    last = [trained.checkpoint.stem] * (trained.checkpoint.stem != "best")
    folder = trained.run / "_".join(["evaluate", trained.views_name, part, *last, *trained.changes])
    check_writable(folder, "checkpoint")
    predictions = trained.predict(part)
    classes = trained.module.classes
    scores = score_part(predictions, part, trained.split, classes, evaluation["bootstrap"], trained.config.seed)
    write_report(folder, faces, predictions, scores, protocol=trained.split.name)
    write_json(
        folder / RECORD,
        {
            "checkpoint": str(trained.checkpoint),
            "command": verb_command("evaluate", [f"checkpoint={checkpoint}", *overrides]),
            "data": faces.name,
            "data_fingerprint": faces.fingerprint,
            "protocol": trained.split.name,
            "evaluation": evaluation,
            **environment(trained.device),
            "precision": trained.precision,
            **records.scores_by_part(scores),
        },
    )
    console.print(tables.scores_table(scores, classes))
    console.print(f"report: {folder}", markup=False, soft_wrap=True)
    return scores


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand and return its exit status."""
    return checkpoint_verb("evaluate", HELP, evaluate, arguments)
