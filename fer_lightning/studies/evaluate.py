"""`python -m fer_lightning evaluate checkpoint=...`: measures a trained net again."""

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
from fer_lightning.studies.trained import Trained
from fer_lightning.training.evaluation import score_part
from fer_lightning.training.metrics import Scores

HELP = """usage: python -m fer_lightning evaluate checkpoint=RUN [key=value ...]

Measures a checkpoint on the data, protocol and views of its own run, or as you change them:

  eval=tta                                   plain, flip, tta, five_crop, ten_crop or rotations
  eval.split=val                             PublicTest instead of PrivateTest: choose on it, not on the test part
  data=fer2013 data.path=fer2013.csv         the data set, where it has moved

The report goes beside the checkpoint's run, into evaluate_VIEWS_PART/; what differs from the run is named too: data,
protocol, last.ckpt, eval.KEY=VALUE.
"""


def evaluate(checkpoint: Path, overrides: Sequence[str]) -> dict[str, Scores]:
    """Measures a checkpoint and writes the report beside its run.

    Args:
        checkpoint: A `best.ckpt` or `last.ckpt`, or a run's folder.
        overrides: Hydra overrides on top of those of the run.

    Returns:
        Scores by part.
    """
    quiet()
    net = Trained.load(checkpoint, overrides)
    console = Console()
    faces, evaluation = net.faces, net.evaluation
    if faces.fingerprint != net.provenance["data_fingerprint"]:
        console.print(
            f"[yellow]This net was trained on {net.provenance['data']}, other data than {faces.name} here.[/]"
        )
    part = evaluation["split"]
    last = [net.checkpoint.stem] * (net.checkpoint.stem != "best")
    folder = net.run / "_".join(["evaluate", net.views_name, part, *last, *net.what_differs])
    check_writable(folder, "checkpoint")
    predictions = net.predict(part)
    scores = score_part(predictions, part, net.split, net.module.classes, evaluation["bootstrap"], net.config.seed)
    write_report(folder, faces, predictions, scores, protocol=net.split.name)
    write_json(
        folder / "record.json",
        {
            "checkpoint": str(net.checkpoint),
            "command": verb_command("evaluate", [f"checkpoint={checkpoint}", *overrides]),
            "data": faces.name,
            "data_fingerprint": faces.fingerprint,
            "protocol": net.split.name,
            "evaluation": evaluation,
            **environment(net.device),
            "precision": net.precision,
            **{part: records.recorded(s) for part, s in scores.items()},
        },
    )
    console.print(tables.scores_table(scores, net.module.classes))
    console.print(f"report: {folder}", soft_wrap=True)
    return scores


def main(arguments: Sequence[str]) -> int:
    """The verb; returns its exit status."""
    return checkpoint_verb("evaluate", HELP, evaluate, arguments)
